"""Diagnosis: what a Learner says of where it fails; keeps what need not be computed again."""

from math import nan
from typing import Any, Literal, TypeAlias

import torch

from finetune.callbacks.history import History
from finetune.data.loaders import IndexedLoader
from finetune.inference import activation_maps as maps
from finetune.inference import features, predicting
from finetune.inference import label_issues as labels
from finetune.inference.features import Features
from finetune.inference.kept import Kept
from finetune.inference.predicting import Table
from finetune.inference.reading import Source, source_of
from finetune.interpret.activation import ActivationMap
from finetune.interpret.predictions import Predictions
from finetune.interpret.suspicious import SuspiciousLabels
from finetune.interpret.task_predictions import LabelsPredictions
from finetune.randomness import isolated
from finetune.tasks.task import activation
from finetune.training.runtime.modules import eval_mode
from finetune.training.setup import Setup
from finetune.training.thresholds import tune_thresholds
from finetune.training.trainer import Trainer
from finetune.wording import did_you_mean

Part: TypeAlias = Literal["train", "valid"]


class Diagnosis:
    """Results for the validation data, temperature and thresholds hold until the weights change."""

    def __init__(self, trainer: Trainer, history: History) -> None:
        self._trainer, self._history = trainer, history
        self._table: Kept[Table] = Kept(self._state)
        self._adjusted: Kept[tuple[Any, Table]] = Kept(self._state)
        told = "the weights changed since {}; {} given up, {} again"
        self._temperature: Kept[float] = Kept(
            self._state, told.format("calibrate()", "its temperature is", "calibrate")
        )
        self._thresholds: Kept[dict[str, float]] = Kept(
            self._state, told.format("tune_thresholds()", "its thresholds are", "tune them")
        )

    @property
    def setup(self) -> Setup:
        return self._trainer.setup

    def _state(self) -> tuple[Any, ...]:
        return predicting.weights_state(self.setup.model, len(self._history.steps))

    def _source(self, loader: Any, *, labelled: bool = True) -> Source:
        return source_of(self.setup.data, loader, labelled=labelled)

    @property
    def temperature(self) -> float:
        """1 unless calibrated; also, with a warning, where the weights changed since then."""
        found = self._temperature.get()
        return 1.0 if found is None else found

    @property
    def thresholds(self) -> dict[str, float] | None:
        """None unless tuned; also, with a warning, where the weights changed since then."""
        found = self._thresholds.get()
        return None if found is None else dict(found)

    def _is_kept(self, loader: Any) -> bool:
        return loader is None or loader is self.setup.data.valid

    def _plain(self, loader: Any) -> Table:
        """Without temperature and thresholds."""
        if not self._is_kept(loader):
            return predicting.predict(self.setup, self._source(loader))
        found = self._table.get()
        if found is None:
            found = self._table.put(predicting.predict(self.setup, self._source(loader)))
        return found

    def predictions(self, loader: Any = None) -> Table:
        found, before = self._plain(loader), self._adjusted.get()
        several = isinstance(found, LabelsPredictions)
        setting: Any = self.thresholds if several else self.temperature
        if setting is None or setting == 1:
            return found
        if not self._is_kept(loader):
            return _adjusted(found, setting)
        if before is None or before[0] != setting:
            before = self._adjusted.put((setting, _adjusted(found, setting)))
        return before[1]

    def tta(self, views: int, loader: Any = None) -> Table:
        found = predicting.predict_views(self.setup, self._source(loader), views)
        thresholds = self.thresholds
        return found if thresholds is None else _adjusted(found, thresholds)

    def calibrate(self) -> float:
        task = self.setup.data.task
        if task != "single_label":
            instead = {
                "multi_label": "tune_thresholds() finds from which probability on to predict each",
                "regression": "values have no probabilities, predictions().report() their errors",
            }
            raise ValueError(
                f"calibrate() is for one class an example, this is task={task!r}; {instead[task]}"
            )
        found = self._plain(None)
        assert isinstance(found, Predictions)
        return self._temperature.put(found.temperature())

    def tune_thresholds(self) -> dict[str, float]:
        return dict(self._thresholds.put(tune_thresholds(self.setup)))

    def features(self, loader: Any = None) -> Features:
        return features.compute_features(self.setup, self._source(loader, labelled=False))

    def suspicious_labels(self, count: int, of: Part) -> SuspiciousLabels:
        if of not in ("train", "valid"):
            raise ValueError(f"of must be 'train' or 'valid', got {of!r}")
        if self.setup.data.task != "single_label":
            raise ValueError(
                "suspicious_labels() is for one class an example, this is "
                f"task={self.setup.data.task!r}; predictions().top_losses() has what fits worst"
            )
        if of == "valid":
            own = self._plain(None)
            assert isinstance(own, Predictions)
            return labels.suspicious(
                own.probabilities, own.targets, own.items, own.classes, count, own.image
            )
        if not isinstance(self.setup.data.train, IndexedLoader):
            raise ValueError(
                "the training loader does not number its examples, so that none could be named; "
                "use ImageDataLoaders, or of='valid'"
            )
        source = self._source(self.setup.data.train)
        # the weights before the first fit: those that trained have seen the labels
        found = features.compute_features(self.setup, source, self._trainer.origin.weights())
        if found.targets.ndim != 1 or found.targets.is_floating_point():
            raise ValueError("suspicious_labels is for one class an example")
        classes = self._classes(int(found.targets.max()) + 1)
        probabilities = labels.cross_probabilities(
            found.values, found.targets, len(classes), seed=self.setup.data.seed
        )
        return labels.suspicious(
            probabilities, found.targets.numpy(), found.items, classes, count, source.image
        )

    def _classes(self, count: int) -> tuple[str, ...]:
        return self.setup.data.classes or tuple(map(str, range(count)))

    def activation_map(
        self, item: Any, target: str | int | None = None, layer: str | None = None
    ) -> ActivationMap:
        model, data = self.setup.model, self.setup.data
        inputs = data.inputs([item], self.setup.runtime.device)
        temperature = self.temperature
        with isolated(), eval_mode(model), torch.enable_grad():
            scores = activation(model(inputs).detach() / temperature, data.task)[0]
            classes = self._classes(len(scores))
            best = 0 if data.task == "regression" else int(scores.argmax())
            number = _class_number(target, classes, best)
            if layer is None:
                backbone = features.backbone_of(model, ", or pass layer=, the path of a module")
                layer = maps.find_layer(model, backbone, inputs.requires_grad_(), number)
            values = maps.grad_cam(model, layer, inputs.detach(), number)
        image = _image(inputs.detach(), getattr(data, "preprocessing", None))
        score = float(scores[number])
        told = (nan, layer, score) if data.task == "regression" else (score, layer)
        return ActivationMap(values.numpy(), image, classes[number], *told)


def _adjusted(found: Table, setting: Any) -> Table:
    """setting: thresholds of the labels, or the temperature."""
    if isinstance(found, LabelsPredictions):
        return found.at_thresholds(setting)
    assert isinstance(found, Predictions)
    return found.at_temperature(setting)


def _class_number(target: str | int | None, classes: tuple[str, ...], best: int) -> int:
    if target is None:
        return best
    if isinstance(target, str):
        if target not in classes:
            raise ValueError(f"there is no class {target!r}; {did_you_mean(target, classes)}")
        return classes.index(target)
    if not 0 <= target < len(classes):
        raise ValueError(f"target needs 0 <= target < {len(classes)}, got {target}")
    return target


def _image(inputs: torch.Tensor, preprocessing: Any) -> Any:
    """[H, W, 3] in [0, 1], what went into the model."""
    image = inputs[0].float().cpu()
    if preprocessing is not None:
        mean, std = preprocessing.normalisation(image.device)
        image = image * std[:, None, None] + mean[:, None, None]
    else:
        image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-6)
    return image.clamp(0, 1).permute(1, 2, 0).numpy()
