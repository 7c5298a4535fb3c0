"""Regression: every image has one number or several."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.interpret.conformal import check_enough, conformal_quantile
from finetune.interpret.values_predictions import ValuesPredictions
from finetune.tasks.answers import Answer, FilePrediction, ValuesPrediction
from finetune.tasks.base import CardText, Task
from finetune.tasks.coverage import Coverage
from finetune.tasks.labels import checked_classes, is_empty, python_values
from finetune.tasks.losses import Loss, SquaredError, example_losses
from finetune.tasks.metric_adapters import (
    MetricAdapter,
    MetricFactory,
    WholeSetMetric,
    mean_r2,
    torch_metric,
)
from finetune.tasks.multi_label import targets_like_outputs
from finetune.tasks.post_processing import PostProcessing
from finetune.wording import values_in_words


class Regression(Task):
    """K numbers an image, named by `classes`. Targets, outputs: float32 [N, K], in one unit."""

    name: ClassVar[str] = "regression"
    names_are: ClassVar[str] = "targets"
    gives_probabilities: ClassVar[bool] = False
    name_is: ClassVar[str] = "target"
    scales_outputs: ClassVar[bool] = True
    metrics_are_shares: ClassVar[bool] = False
    default_metrics: ClassVar[tuple[str, ...]] = ("mae", "r2")
    instead_of_calibration: ClassVar[str] = (
        "values have no probabilities, predictions().report() their errors"
    )
    probe_curvature: ClassVar[float] = 1.0
    card: ClassVar[CardText] = CardText(
        model_kind="A regression on images",
        outputs="values",
        raw_outputs="values",
        activation="logits",
        results="`probabilities` holds the values, [batch, targets], in the order of the targets:",
        results_code='print(dict(zip(spec["classes"], probabilities[0].tolist())))',
        coverage_code='limits = spec["post_processing"]["coverage"]["limits"]\n'
        'for name, value in zip(spec["classes"], probabilities[0].tolist()):\n'
        "    print(name, value - limits[name], value + limits[name])",
    )

    # --- labels and targets

    def encode(
        self, labels: Sequence[Any], classes: Sequence[str] | None, *, of_training: bool = False
    ) -> tuple[Tensor, tuple[str, ...]]:
        rows: list[list[float]] = []
        for number, label in enumerate(python_values(labels)):
            row = _numbers_of(label)
            if not row:
                raise ValueError(f"the target of image {number} is no finite number: {label!r}")
            if rows and len(row) != len(rows[0]):
                raise ValueError(
                    f"image {number} has {len(row)} targets, the first one has {len(rows[0])}"
                )
            rows.append(row)
        count = len(rows[0])
        names = _default_names(count) if classes is None else classes
        if len(names) != count:
            raise ValueError(f"there are {count} targets but {len(names)} names: {list(names)}")
        return torch.tensor(rows), checked_classes(names, 1)

    def names_of_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(columns)

    def read_label(self, cells: Sequence[Any], where: str, delimiter: str) -> list[float]:
        if any(map(is_empty, cells)):
            raise ValueError(f"{where} has no label; fill the cell or leave the row out")
        try:
            numbers = [float(cell) for cell in cells]
        except (TypeError, ValueError):
            raise ValueError(f"{where}: a target is a number, got {list(cells)}") from None
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{where}: a target is a finite number, got {list(cells)}")
        return numbers

    def unlabelled(self, count: int, classes: Sequence[str]) -> Tensor:
        return torch.full((count, len(classes)), torch.nan)

    def describe(self, targets: Tensor, classes: Sequence[str]) -> list[str]:
        return [values_in_words(classes, row, digits=4) for row in targets.tolist()]

    def class_counts(self, targets: Tensor, classes: Sequence[str]) -> list[int]:
        return []

    # --- training

    def default_loss(self, target_std: Tensor | None = None) -> Loss:
        if target_std is None:
            return F.mse_loss
        return SquaredError(target_std)

    def example_losses(self, loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
        return example_losses(
            loss,
            outputs,
            targets,
            functions=[F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss],
            modules=[nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss],
        )

    def probe_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Half the squared error, summed over the targets: a ridge regression."""
        return (outputs - targets).square().sum(dim=1) / 2

    def checked_targets(self, outputs: Any, targets: Any) -> Tensor:
        return targets_like_outputs(self, outputs, targets)

    # --- what outputs mean

    def activation(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        return outputs.float()

    def inverse_activation(self, activated: Tensor) -> Tensor:
        return activated.float()

    # --- metrics

    def named_metrics(self) -> Mapping[str, MetricFactory]:
        return {
            "mae": lambda count: MetricAdapter(torch_metric("MeanAbsoluteError"), _same_shapes),
            "mse": lambda count: MetricAdapter(torch_metric("MeanSquaredError"), _same_shapes),
            "rmse": lambda count: MetricAdapter(
                torch_metric("MeanSquaredError", squared=False), _same_shapes
            ),
            "r2": lambda count: MetricAdapter(WholeSetMetric(mean_r2), _same_shapes),
        }

    # --- answers

    def answer(
        self, activated: Tensor, classes: Sequence[str], post_processing: PostProcessing
    ) -> Answer:
        answer = ValuesPrediction(dict(zip(classes, activated.tolist(), strict=True)))
        if post_processing.coverage is not None:
            limits = post_processing.coverage.limits
            answer.interval = {
                name: (value - limits[name], value + limits[name])
                for name, value in answer.values.items()
            }
        return answer

    def fit_coverage(self, table: ValuesPredictions, coverage: float) -> Coverage:
        """The truth of each target by itself is within so much of the value with this probability.

        It is the conformal quantile of the absolute errors.
        """
        check_enough(len(table), coverage, "validation image")
        errors = np.abs(table.outputs.astype(np.float64) - table.targets)
        limits = {}
        for name, errors_of_target in zip(table.classes, errors.T, strict=True):
            limits[name] = conformal_quantile(errors_of_target, coverage)
        return Coverage(coverage, limits)

    def file_prediction(self, path: str, answer: ValuesPrediction) -> FilePrediction:
        return FilePrediction(path, probabilities=answer.values, interval=answer.interval)

    def table(
        self,
        items: Sequence[str | int],
        classes: Sequence[str],
        targets: Tensor,
        outputs: Tensor,
        losses: Tensor,
        *,
        image: Callable[[int], Any] | None = None,
    ) -> ValuesPredictions:
        return ValuesPredictions(
            items, classes, targets.numpy(), outputs.float().numpy(), losses.numpy(), image=image
        )


def _numbers_of(label: Any) -> list[float]:
    """The finite numbers that a label is; empty if it is something else."""
    is_list = isinstance(label, Iterable) and not isinstance(label, str)
    try:
        values = list(label) if is_list else [label]
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return []
    all_are_finite = all(map(math.isfinite, numbers))
    return numbers if all_are_finite else []


def _default_names(count: int) -> list[str]:
    if count == 1:
        return ["target"]
    return [f"target_{number}" for number in range(count)]


def _same_shapes(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Raises ValueError unless shapes agree: [B] against [B, 1] would be spread to [B, B]."""
    if outputs.shape != targets.shape:
        raise ValueError(
            f"a regression needs targets like the outputs, {list(outputs.shape)}, "
            f"got {list(targets.shape)}"
        )
    return outputs.float().contiguous(), targets.float().contiguous()
