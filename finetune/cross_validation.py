"""cross_validate: how good a recipe is, with how sure that is, from training on each of k folds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from finetune import arguments, distributed
from finetune.data.image_loaders import ImageDataLoaders
from finetune.inference.outputs import Outputs
from finetune.interpret.prediction_table import PredictionTable
from finetune.interpret.report import Report
from finetune.interpret.suspicious import SuspiciousLabels
from finetune.learner import Learner
from finetune.models.backbone_set import BackboneNames
from finetune.randomness import isolated, seed_everything
from finetune.tables import Table
from finetune.vision import vision_learner
from finetune.wording import counted, number

MakeLearner: TypeAlias = Callable[[ImageDataLoaders], Learner]
Fit: TypeAlias = Callable[[Learner], object]


@dataclass(frozen=True, slots=True)
class FoldResult:
    """One fold: sizes of its parts, and what `validate` gave after its training, by metric."""

    training: int
    validation: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class CrossValidation:
    """The results of a cross-validation, shown as a table.

    folds: one result a fold. predictions: a table of all images in the order of the data, each
    predicted by the model that did not train on it; `row.fold` is the number of its fold, from 0.
    They are without what `calibrate` or `tune_thresholds` fitted, for these were fitted to them.

    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> result = cross_validate(data, "test_resnet", folds=3, weights=None, progress=False)
    >>> len(result.predictions), sorted(result.mean)
    (12, ['accuracy', 'loss'])
    """

    folds: Sequence[FoldResult]
    predictions: PredictionTable

    @property
    def mean(self) -> dict[str, float]:
        """The mean over the folds of each metric."""
        return {name: float(np.mean(values)) for name, values in self._values().items()}

    @property
    def standard_error(self) -> dict[str, float]:
        """The standard error of each mean: `std / sqrt(k)`, of the values of the k folds.

        It is a little too small, as the folds share training images (Bengio & Grandvalet 2004).
        """
        errors = {}
        for name, values in self._values().items():
            errors[name] = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        return errors

    def _values(self) -> dict[str, list[float]]:
        """The values of each metric, by fold."""
        return {name: [fold.metrics[name] for fold in self.folds] for name in self.folds[0].metrics}

    def report(self) -> Report:
        """How good the predictions are for each class, or each target, over all images."""
        return self.predictions.report()

    def suspicious_labels(self, count: int = 20) -> SuspiciousLabels:
        """Labels that are probably wrong, the surest first, of all images."""
        return self.predictions.suspicious_labels(count)

    def _table(self) -> Table:
        means, errors = self.mean, self.standard_error
        cells = []
        for place, fold in enumerate(self.folds, start=1):
            values = [number(fold.metrics[name]) for name in means]
            cells.append([str(place), f"{fold.training:,}", f"{fold.validation:,}", *values])
        cells.append(["mean", "", "", *map(number, means.values())])
        cells.append(["standard error", "", "", *map(number, errors.values())])
        caption = f"{counted(len(self.folds), 'fold')} of {len(self.predictions):,} images"
        return Table.of(["fold", "training", "validation", *means], cells, caption=caption)

    def __repr__(self) -> str:
        table = self._table()
        return f"{table.caption}\n{table.text()}"

    def _repr_html_(self) -> str:
        return self._table().html()


def cross_validate(
    data: ImageDataLoaders,
    backbone: BackboneNames | MakeLearner,
    epochs: int | None = None,
    *,
    folds: int = 5,
    fit: Fit | None = None,
    **options: Any,
) -> CrossValidation:
    """Trains once for each fold of the data, and validates on the images that were held out.

        result = cross_validate(data, "convnext_tiny", epochs=1)
        result.mean["accuracy"], result.standard_error["accuracy"]
        result.suspicious_labels()

    backbone: a name, or names, for which `vision_learner` makes a learner with these options; or a
    function that makes one of the data that it gets, `lambda data: vision_learner(data, ...)`.
    epochs: of `learner.fine_tune`, by default 1. fit: a function that trains the learner otherwise,
    in place of epochs. folds: see `ImageDataLoaders.folds`; the validation images take part, and
    keep images for a last test elsewhere.

    Every fold begins with the same random numbers, so that a call repeats itself; training and
    predictions of a fold are those of `vision_learner(data.folds(5)[0], ...)`. Raises ValueError
    for a learner that has other data than those of the fold.

    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> result = cross_validate(data, "test_resnet", folds=3, weights=None, progress=False)
    >>> [fold.validation for fold in result.folds]
    [4, 4, 4]
    """
    arguments.instance("data", data, ImageDataLoaders, "such as ImageDataLoaders.from_folder(...)")
    arguments.whole_number("folds", folds, at_least=2)
    make_learner = _learner_maker(backbone, options)
    train = _training(epochs, fit)
    parts = data.folds(folds)
    results: list[FoldResult] = []
    outputs: list[Outputs] = []
    for place, part in enumerate(parts, start=1):
        with isolated():
            seed_everything(data.seed, "cross-validation")
            learner = make_learner(part)
        arguments.instance("backbone", learner, Learner, "which the function returns")
        _check_data(learner, part)
        if learner.progress and distributed.rank() == 0:
            print(f"fold {place} of {len(parts)}")
        train(learner)
        _check_data(learner, part)
        predictor = learner.predictor()
        outputs.append(predictor.outputs())
        metrics = predictor.evaluate(outputs[-1])
        results.append(FoldResult(len(part.train_examples), len(outputs[-1]), metrics))
    return CrossValidation(tuple(results), _table_of_all(data, parts, outputs))


def _learner_maker(
    backbone: BackboneNames | MakeLearner, options: Mapping[str, Any]
) -> MakeLearner:
    """A function that makes the learner of a fold."""
    if callable(backbone):
        if options:
            raise ValueError(
                f"{', '.join(options)}: options go with the name of a backbone; a function says "
                "them to the learner that it makes"
            )
        return backbone
    name = backbone

    def make(data: ImageDataLoaders) -> Learner:
        return vision_learner(data, name, **options)

    return make


def _training(epochs: int | None, fit: Fit | None) -> Fit:
    """A function that trains a learner."""
    if fit is not None:
        if epochs is not None:
            raise ValueError("fit= trains in place of epochs=; leave one of them out")
        return arguments.function("fit", fit, "learner -> anything")
    count = 1 if epochs is None else arguments.whole_number("epochs", epochs, at_least=1)
    return lambda learner: learner.fine_tune(count)


def _check_data(learner: Learner, part: ImageDataLoaders) -> None:
    """Raises ValueError unless the learner has the images of this fold."""
    data = learner.data
    if isinstance(data, ImageDataLoaders):
        is_of_part = data.train_examples is part.train_examples
        if is_of_part and data.valid_examples is part.valid_examples:
            return
    raise ValueError(
        "the learner has other data than those of its fold, so that it may have trained on what "
        "it is validated on; make it of the data that the function gets, and keep learner.data"
    )


def _table_of_all(
    data: ImageDataLoaders, parts: Sequence[ImageDataLoaders], outputs: Sequence[Outputs]
) -> PredictionTable:
    """The predictions of all folds as one table in the order of the data."""
    numbers = []
    places: list[tuple[int, int]] = []  # fold, and row in it
    for fold, part in enumerate(parts):
        assert part.valid_examples.numbers is not None
        numbers.append(part.valid_examples.numbers)
        places.extend((fold, row) for row in range(len(part.valid_examples)))
    order = torch.cat(numbers).argsort()
    ordered_places = [places[position] for position in order.tolist()]

    def image(row: int) -> Any:
        fold, row_in_fold = ordered_places[row]
        open_image = outputs[fold].image
        assert open_image is not None
        return open_image(row_in_fold)

    table = data.task.table(
        [outputs[fold].items[row] for fold, row in ordered_places],
        data.classes,
        torch.cat([output.targets for output in outputs])[order],
        torch.cat([output.outputs for output in outputs])[order],
        torch.cat([output.losses for output in outputs])[order],
        image=image,
    )
    return table.in_folds([fold for fold, _ in ordered_places])
