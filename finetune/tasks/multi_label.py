"""MultiLabel: every image has any number of classes, none included."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune import arguments
from finetune.interpret.conformal import least_probabilities
from finetune.interpret.labels_predictions import LabelsPredictions
from finetune.tasks.answers import Answer, FilePrediction, LabelsPrediction
from finetune.tasks.base import CardText, Task
from finetune.tasks.checks import dtype_and_shape
from finetune.tasks.coverage import Coverage
from finetune.tasks.labels import (
    is_empty,
    list_in_text,
    number_classes,
    python_number,
    python_values,
)
from finetune.tasks.losses import Loss, example_losses, takes_probabilities
from finetune.tasks.metric_adapters import (
    MetricAdapter,
    MetricFactory,
    WholeSetMetric,
    class_mean,
    mean_auroc,
    mean_average_precision,
    torch_metric,
)
from finetune.tasks.post_processing import PostProcessing
from finetune.tasks.priors import PriorChoice, Priors, of_each_class
from finetune.tasks.unevenness import ClassWeights, named_weights
from finetune.wording import labels_in_words


class MultiLabel(Task):
    """Any number of classes an image. Targets: float32 [N, C], 0 and 1. Outputs: logits [B, C]."""

    name: ClassVar[str] = "multi_label"
    default_metrics: ClassVar[tuple[str, ...]] = ("f1", "accuracy")
    strata: ClassVar[str] = "each class"
    # "accuracy" is a share of labels, and those of one image are not independent
    example_shares: ClassVar[frozenset[str]] = frozenset({"exact_match"})
    has_thresholds: ClassVar[bool] = True
    instead_of_calibration: ClassVar[str] = (
        "tune_thresholds() finds from which probability on to predict each"
    )
    card: ClassVar[CardText] = CardText(
        model_kind="An image classifier",
        outputs="probabilities",
        raw_outputs="logits",
        activation="{logits}.sigmoid()",
        results="`probabilities` is [batch, classes], in the order of the classes; an image has "
        "those above their thresholds:",
        results_code='limits = spec["post_processing"]["thresholds"]\n'
        'pairs = zip(spec["classes"], probabilities[0])\n'
        "print([name for name, p in pairs if p >= limits.get(name, 0.5)])",
        coverage_code='limits = spec["post_processing"]["coverage"]["limits"]\n'
        'pairs = zip(spec["classes"], probabilities[0])\n'
        "print({name for name, p in pairs if p >= limits[name]})",
        energy="-torch.nn.functional.softplus(logits).sum(dim=1)",
        problem_type="multi_label_classification",
    )

    # --- labels and targets

    def encode(
        self, labels: Sequence[Any], classes: Sequence[str] | None, *, of_training: bool = False
    ) -> tuple[Tensor, tuple[str, ...]]:
        rows = [_names_of(label, classes) for label in python_values(labels)]
        present = {name for row in rows for name in row}
        # one class is enough, since it may be absent
        classes, number_of = number_classes(present, classes, at_least=1, of_training=of_training)
        targets = torch.zeros(len(rows), len(classes))
        for target, row in zip(targets, rows, strict=True):
            target[[number_of[name] for name in row]] = 1
        return targets, classes

    def names_of_columns(self, columns: Sequence[str]) -> tuple[str, ...] | None:
        """Several columns are a class each, whose cells say whether an image has it."""
        return tuple(columns) if len(columns) > 1 else None

    def read_label(self, cells: Sequence[Any], where: str, delimiter: str) -> list[Any]:
        if len(cells) > 1:
            return [_is_present(cell, where) for cell in cells]
        (cell,) = cells
        is_array = hasattr(cell, "tolist") and not isinstance(cell, str)  # numpy's strings have it
        if is_array or isinstance(cell, list | tuple | set):
            return list(cell)
        if is_empty(cell):
            return []
        listed_names = list_in_text(str(cell), where)
        if listed_names is not None:
            return listed_names
        names = [name.strip() for name in str(cell).split(delimiter)]
        return [name for name in names if name]

    def class_names_in(self, labels: Sequence[Any]) -> set[str]:
        return {name for label in python_values(labels) for name in _names_of(label)}

    def unlabelled(self, count: int, classes: Sequence[str]) -> Tensor:
        return torch.full((count, len(classes)), torch.nan)

    def describe(self, targets: Tensor, classes: Sequence[str]) -> list[str]:
        return [labels_in_words(classes, row) for row in (targets > 0.5).tolist()]

    def class_counts(self, targets: Tensor, classes: Sequence[str]) -> list[int]:
        counts: list[int] = targets.sum(dim=0).int().tolist()
        return counts

    def count_unlabelled(self, targets: Tensor) -> int:
        return int((targets.sum(dim=1) == 0).sum())

    def stratify(self, targets: Tensor, classes: Sequence[str]) -> Sequence[Tensor]:
        is_present = targets > 0.5
        # images without any class are a stratum, too
        columns = [*is_present.T, ~is_present.any(dim=1)]
        return [torch.nonzero(column).flatten() for column in columns]

    # --- training

    def default_loss(self, target_std: Tensor | None = None) -> Loss:
        return F.binary_cross_entropy_with_logits

    def weighted_loss(
        self, class_weights: ClassWeights, classes: Sequence[str], targets: Tensor
    ) -> Loss | None:
        """Binary cross-entropy in which an image that has a class weighs so much for this class.

        One without it weighs 1. "balanced" is (N - n) / n for a class that n of N images have, so
        that those with it and those without it count alike.
        """
        if isinstance(class_weights, str):
            arguments.choice("class_weights", class_weights, ["balanced"])
            weights = []
            for count in self.class_counts(targets, classes):
                without = len(targets) - count
                is_mixed = count > 0 and without > 0
                weights.append(without / count if is_mixed else 1.0)
        else:
            weights = named_weights(class_weights, classes)
        return nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights))

    def class_weights_of(self, loss: Loss) -> Tensor | None:
        weights = getattr(loss, "pos_weight", None)
        return weights if isinstance(weights, Tensor) else None

    def checked_loss(self, loss: Loss) -> Loss:
        if takes_probabilities(loss):
            raise ValueError(
                "outputs are logits for task='multi_label', and this loss takes probabilities, so "
                "that metrics and predictions would take the sigmoid twice; leave it out of the "
                "model and take nn.BCEWithLogitsLoss"
            )
        return loss

    def example_losses(self, loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
        return example_losses(
            loss,
            outputs,
            targets,
            functions=[F.binary_cross_entropy_with_logits],
            modules=[nn.BCEWithLogitsLoss],
        )

    def probe_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over the classes of binary cross-entropies: a logistic regression for each."""
        losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        return losses.sum(dim=1)

    def probe_losses_like(self, loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
        weights = self.class_weights_of(loss)
        if weights is None:
            return self.probe_losses
        positive_weights = weights.cpu()

        def losses(outputs: Tensor, targets: Tensor) -> Tensor:
            of_classes = F.binary_cross_entropy_with_logits(
                outputs, targets, reduction="none", pos_weight=positive_weights
            )
            return of_classes.sum(dim=1)

        return losses

    def checked_targets(self, outputs: Any, targets: Any) -> Tensor:
        return targets_like_outputs(self, outputs, targets)

    # --- what outputs mean

    def training_priors(self, shares: Mapping[str, float], loss: Loss) -> dict[str, float]:
        weights = self.class_weights_of(loss)
        if weights is None:
            return dict(shares)
        weighted = {}
        for (name, share), weight in zip(shares.items(), weights.tolist(), strict=True):
            with_class = share * weight
            weighted[name] = with_class / (with_class + 1 - share)
        return weighted

    def priors(self, wanted: PriorChoice, training: Mapping[str, float]) -> Priors:
        return of_each_class(wanted, training)

    def energy(self, outputs: Tensor) -> Tensor | None:
        """The sum over the classes (Wang et al., 2021)."""
        return -F.softplus(outputs.float()).sum(dim=1)

    def activation(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        return (outputs.float() / temperature).sigmoid()

    def inverse_activation(self, activated: Tensor) -> Tensor:
        return activated.logit(eps=1e-9).float()

    # --- metrics

    def named_metrics(self) -> Mapping[str, MetricFactory]:
        return {
            "accuracy": self._metric("MultilabelAccuracy", average="micro"),
            "exact_match": self._metric("MultilabelExactMatch"),
            "f1": self._mean_over_classes("f1"),
            "f1_micro": self._metric("MultilabelF1Score", average="micro"),
            "precision": self._mean_over_classes("precision"),
            "recall": self._mean_over_classes("recall"),
            "average_precision": self._area(mean_average_precision),
            "auroc": self._area(mean_auroc),
        }

    def _metric(self, metric_name: str, **options: Any) -> MetricFactory:
        def create(class_count: int) -> MetricAdapter:
            metric = torch_metric(
                metric_name, num_labels=class_count, validate_args=False, **options
            )
            return MetricAdapter(metric, self._probabilities_and_integers)

        return create

    def _mean_over_classes(self, score: str) -> MetricFactory:
        def create(class_count: int) -> MetricAdapter:
            metric = torch_metric(
                "MultilabelStatScores", num_labels=class_count, validate_args=False, average="none"
            )
            return class_mean(metric, score, self._probabilities_and_integers)

        return create

    def _area(self, area: Callable[[Tensor, Tensor], float]) -> MetricFactory:
        def create(class_count: int) -> MetricAdapter:
            return MetricAdapter(WholeSetMetric(area), self._probabilities_and_integers)

        return create

    def _probabilities_and_integers(
        self, outputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        # torchmetrics guesses whether it got logits, and those of a batch may all lie in [0, 1]
        return self.activation(outputs), targets.int()

    # --- answers

    def answer(
        self, activated: Tensor, classes: Sequence[str], post_processing: PostProcessing
    ) -> Answer:
        probabilities = dict(zip(classes, activated.tolist(), strict=True))
        thresholds = post_processing.thresholds_of(classes)
        labels = []
        for (name, probability), threshold in zip(probabilities.items(), thresholds, strict=True):
            if probability >= threshold:
                labels.append(name)
        answer = LabelsPrediction(tuple(labels), probabilities)
        if post_processing.coverage is not None:
            limits = post_processing.coverage.limits
            members = [name for name, value in probabilities.items() if value >= limits[name]]
            answer.set = tuple(sorted(members, key=lambda name: -probabilities[name]))
        return answer

    def fit_coverage(self, table: LabelsPredictions, coverage: float) -> Coverage:
        """A class that is there is in the set with this probability: its recall, guaranteed."""
        rows, numbers = np.nonzero(table.targets > 0.5)
        limits = least_probabilities(
            table.outputs[rows, numbers].astype(np.float64), numbers, len(table.classes), coverage
        )
        return Coverage(coverage, dict(zip(table.classes, limits.tolist(), strict=True)))

    def file_prediction(self, path: str, answer: LabelsPrediction) -> FilePrediction:
        return FilePrediction(
            path, ", ".join(answer.labels), None, answer.probabilities, set=answer.set
        )

    def table(
        self,
        items: Sequence[str | int],
        classes: Sequence[str],
        targets: Tensor,
        outputs: Tensor,
        losses: Tensor,
        *,
        image: Callable[[int], Any] | None = None,
    ) -> LabelsPredictions:
        return LabelsPredictions(
            items,
            classes,
            targets.numpy(),
            self.activation(outputs).numpy(),
            losses.numpy(),
            image=image,
        )

    def adjust(
        self, table: LabelsPredictions, post_processing: PostProcessing
    ) -> LabelsPredictions:
        if not post_processing.thresholds and post_processing.priors is None:
            return table
        outputs = table.outputs
        if post_processing.priors is not None:
            logits = self.inverse_activation(torch.as_tensor(outputs, dtype=torch.float64))
            outputs = self.activation(post_processing.shifted(logits, table.classes)).numpy()
        return table.adjusted(outputs, post_processing.thresholds)


def _is_present(cell: Any, where: str) -> bool:
    """Whether a cell in the column of a class says that an image has it."""
    number = python_number(cell)
    if number in (0, 1):
        return bool(number)
    raise ValueError(f"{where}: the column of a class holds 1 or 0, got {cell!r}")


def _names_of(label: Any, classes: Sequence[str] | None = None) -> list[str]:
    """The names of an image's classes. label: the names, or a 1 or 0 for each of `classes`."""
    is_list = isinstance(label, Iterable) and not isinstance(label, str)
    entries = list(label) if is_list else []
    if is_list and all(isinstance(entry, str) for entry in entries):
        # letters with accents have two spellings, which look the same
        return [unicodedata.normalize("NFC", name) for name in entries]
    marks = [python_number(entry) for entry in entries]
    if not is_list or any(mark not in (0, 1) for mark in marks):
        raise ValueError(
            f"the labels of an image are a list of names, which may be empty, got {label!r}"
        )
    if classes is None or len(classes) != len(marks):
        raise ValueError(
            f"the labels of an image are {len(marks)} numbers 1 and 0, which need classes= with as "
            f"many names, got {classes!r}"
        )
    return [str(name) for name, mark in zip(classes, marks, strict=True) if mark]


def targets_like_outputs(task: Task, outputs: Any, targets: Any) -> Tensor:
    """The targets. Raises ValueError unless they have the outputs' shape, [B, C]."""
    are_tensors = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if not are_tensors or outputs.ndim != 2 or outputs.shape != targets.shape:
        raise ValueError(
            f"for task={task.name!r} outputs and targets are both [B, C], here they are "
            f"{dtype_and_shape(outputs)} and {dtype_and_shape(targets)}"
        )
    checked: Tensor = targets
    return checked
