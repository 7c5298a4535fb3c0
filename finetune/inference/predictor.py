"""Predictor: a model with its preprocessing and class names, for one image or many."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from finetune.data.images.decode import ImageError
from finetune.inference.files import FilePrediction, Files, predict_files
from finetune.tasks.task import Task, activation, check_task
from finetune.wording import did_you_mean


class Prediction(NamedTuple):
    """label: the most probable class. probabilities: by class name, classes in order."""

    label: str
    probability: float
    probabilities: dict[str, float]

    def __repr__(self) -> str:
        """What a person wants to see of it: the three most probable classes.

        >>> Prediction("cat", 0.9, {"cow": 0.0125, "cat": 0.9, "dog": 0.075, "eel": 0.0125})
        Prediction('cat' 90.0%, 'dog' 7.5%, 'cow' 1.2%, ... of 4 classes)
        """
        best = sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:3]
        shown = ", ".join(f"{name!r} {value:.1%}" for name, value in best)
        count = len(self.probabilities)
        return f"Prediction({shown}{f', ... of {count} classes' if count > 3 else ''})"


class LabelsPrediction(NamedTuple):
    """labels: the classes above their thresholds, in order. probabilities: by class name."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]


class ValuesPrediction(NamedTuple):
    """values: by the name of the target."""

    values: dict[str, float]

    @property
    def value(self) -> float:
        """The only one. Raises ValueError where there are several."""
        (*_, last) = self.values.values()
        if len(self.values) > 1:
            raise ValueError(f"there are several values, see .values: {', '.join(self.values)}")
        return last


class Predictor:
    """Predicts classes; has no data and does not train. `load_learner` makes one from a folder.

    inputs: (items, device) -> one batch of model inputs. task: what the outputs mean. thresholds:
    of the probability, by class, for several labels an image; 0.5 unless given. temperature: what
    the outputs are divided by, see `Learner.calibrate`.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        inputs: Callable[[Sequence[Any], torch.device], Any],
        *,
        task: Task = "single_label",
        thresholds: Mapping[str, float] | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.model = model
        self.classes = tuple(classes)
        self.task = check_task(task)
        self.thresholds = check_thresholds(thresholds, self.classes)
        self._inputs = inputs
        self.temperature = temperature

    def __repr__(self) -> str:
        return f"Predictor({type(self.model).__name__}, {len(self.classes)} classes)"

    def predict(self, item: Any, *, batch_size: int = 64) -> Any:
        """A `Prediction` for one item, or a list of them for a list or tuple of items.

        It is a `LabelsPrediction` where there may be several labels, a `ValuesPrediction` of a
        regression.

        For images an item is a path, a PIL image, an array [H, W, 3] or a tensor [3, H, W].
        Computed in float32. Raises ImageError for an image that can't be read, and for a folder.
        """
        items = item if isinstance(item, list | tuple) else [item]
        try:
            found = [
                self._prediction(row)
                for start in range(0, len(items), batch_size)
                for row in self.probabilities(items[start : start + batch_size])
            ]
        except ImageError as error:
            if not os.path.isdir(error.source):
                raise
            reason = f"it is a folder; predict_folder({error.source!r}) takes one"
            raise ImageError(error.source, reason) from None
        return found if items is item else found[0]

    def predict_folder(
        self, folder: Files, *, batch_size: int = 64, progress: bool = True
    ) -> Iterator[FilePrediction]:
        """Predictions for a folder of images or any number of paths, one by one as they are made.

        `list(...)` keeps them all; `write_csv(rows, file)` and `write_jsonl` write them as they
        come, so that a million images take no more memory than a few. An image that can't be
        read has a row with its `error` and no label.
        """
        ready = copy.copy(self)  # decoding runs ahead in threads, so that its inputs are there
        ready._inputs = lambda tensors, device: torch.cat(list(tensors)).to(device)
        return predict_files(
            folder,
            lambda path: self._inputs([path], torch.device("cpu")),
            lambda tensors: ready.predict(list(tensors), batch_size=batch_size),
            batch_size=batch_size,
            progress=progress,
        )

    def probabilities(self, items: Sequence[Any]) -> Tensor:
        """Probabilities of one batch: float32 [len(items), classes], on the CPU.

        Of a regression, the values.
        """
        device = next(self.model.parameters()).device
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                logits: Tensor = self.model(self._inputs(items, device))
        finally:
            for module, training in modes:
                module.training = training
        return activation(logits / self.temperature, self.task).cpu()

    def _prediction(self, row: Tensor) -> Prediction | LabelsPrediction | ValuesPrediction:
        values = row.tolist()
        by_name = dict(zip(self.classes, values, strict=True))
        if self.task == "regression":
            return ValuesPrediction(by_name)
        if self.task == "multi_label":
            found = (name for name, p in by_name.items() if p >= self.thresholds[name])
            return LabelsPrediction(tuple(found), by_name)
        best = int(row.argmax())
        return Prediction(self.classes[best], values[best], by_name)


def check_thresholds(
    thresholds: Mapping[str, float] | None, classes: Sequence[str]
) -> dict[str, float]:
    """One for each class, 0.5 where none is given. Raises ValueError for one of no class."""
    given = dict(thresholds or {})
    for name, value in given.items():
        if name not in classes:
            raise ValueError(f"there is no class {name!r}; {did_you_mean(name, classes)}")
        if not 0 <= value <= 1:
            raise ValueError(f"a threshold is a probability, got {value} for {name!r}")
    return {name: float(given.get(name, 0.5)) for name in classes}
