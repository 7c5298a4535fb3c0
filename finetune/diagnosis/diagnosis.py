"""Diagnosis: what a Learner says of where it fails; keeps what need not be computed again."""

import warnings
from collections.abc import Mapping
from math import nan
from typing import Any, Literal, TypeAlias

import torch

from finetune.callbacks.history import History
from finetune.data.loaders import IndexedLoader
from finetune.diagnosis import features, labels, maps, predicting
from finetune.diagnosis.features import Features
from finetune.diagnosis.reading import Source, source_of
from finetune.interpret.activation import ActivationMap
from finetune.interpret.predictions import Predictions
from finetune.interpret.suspicious import SuspiciousLabels
from finetune.interpret.task_predictions import TaskPredictions
from finetune.randomness import isolated
from finetune.task import activation
from finetune.training.folding import eval_mode
from finetune.training.setup import Setup
from finetune.training.trainer import Trainer
from finetune.wording import did_you_mean

Part: TypeAlias = Literal["train", "valid"]


class Diagnosis:
    """Results for the validation data and the temperature hold until the weights change."""

    def __init__(self, trainer: Trainer, history: History) -> None:
        self._trainer, self._history = trainer, history
        self._kept: tuple[Any, Predictions] | None = None
        self._calibrated: tuple[Any, float] | None = None

    @property
    def setup(self) -> Setup:
        return self._trainer.setup

    def _state(self) -> tuple[Any, ...]:
        return predicting.weights_state(self.setup.model, len(self._history.steps))

    def _source(self, loader: Any) -> Source:
        return source_of(self.setup.data, loader)

    @property
    def temperature(self) -> float:
        """1 unless calibrated; also, with a warning, where the weights changed since then."""
        if self._calibrated is None:
            return 1.0
        state, temperature = self._calibrated
        if state != self._state():
            warnings.warn(
                "the weights changed since calibrate(); its temperature is given up, calibrate "
                "again",
                stacklevel=4,
            )
            self._calibrated = None
            return 1.0
        return temperature

    def _uncalibrated(self, loader: Any) -> Predictions:
        source = self._source(loader)
        if loader is not None and loader is not self.setup.data.valid:
            return predicting.predict(self.setup, source)
        state = self._state()
        if self._kept is None or self._kept[0] != state:
            self._kept = None  # frees what is too old
            self._kept = state, predicting.predict(self.setup, source)
        return self._kept[1]

    def predictions(
        self, loader: Any = None, thresholds: Mapping[str, float] | None = None
    ) -> Predictions | TaskPredictions:
        """thresholds: of the classes, where there may be several labels."""
        if self.setup.data.task != "single_label":
            return predicting.predict_task(self.setup, self._source(loader), thresholds)
        found, temperature = self._uncalibrated(loader), self.temperature
        return found if temperature == 1 else found.at_temperature(temperature)

    def tta(self, views: int, loader: Any = None) -> Predictions:
        return predicting.predict_views(self.setup, self._source(loader), views)

    def calibrate(self) -> float:
        temperature = self._uncalibrated(None).temperature()
        self._calibrated = self._state(), temperature
        return temperature

    def features(self, loader: Any = None) -> Features:
        return features.compute_features(self.setup, self._source(loader))

    def suspicious_labels(self, count: int, of: Part) -> SuspiciousLabels:
        if of not in ("train", "valid"):
            raise ValueError(f"of must be 'train' or 'valid', got {of!r}")
        if of == "valid":
            own = self._uncalibrated(None)
            return labels.suspicious(
                own.probabilities, own.targets, own.items, own.classes, count, own.picture
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
            probabilities, found.targets.numpy(), found.items, classes, count, source.picture
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
                layer = maps.find_layer(
                    model, features.backbone_of(model), inputs.requires_grad_(), number
                )
            values = maps.grad_cam(model, layer, inputs.detach(), number)
        image = _picture(inputs.detach(), getattr(data, "preprocessing", None))
        score = float(scores[number])
        told = (nan, layer, score) if data.task == "regression" else (score, layer)
        return ActivationMap(values.numpy(), image, classes[number], *told)


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


def _picture(inputs: torch.Tensor, preprocessing: Any) -> Any:
    """[H, W, 3] in [0, 1], what went into the model."""
    image = inputs[0].float().cpu()
    if preprocessing is not None:
        mean, std = preprocessing.normalisation(image.device)
        image = image * std[:, None, None] + mean[:, None, None]
    else:
        image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-6)
    return image.clamp(0, 1).permute(1, 2, 0).numpy()
