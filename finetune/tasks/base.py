"""Task: one object that knows everything that depends on the kind of target.

    labels as people write them  --encode-->  targets  --default_loss-->  training
    images --model--> outputs  --activation-->  probabilities or values  --answer, table-->  people

Whoever adds a kind of target writes one class and registers it (see `finetune.tasks.register`); no
other module asks which kind it is.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from finetune.interpret import standard_error
from finetune.interpret.prediction_table import PredictionTable
from finetune.tasks.answers import Answer, FilePrediction
from finetune.tasks.coverage import Coverage
from finetune.tasks.losses import Loss
from finetune.tasks.metric_adapters import MetricFactory
from finetune.tasks.post_processing import PostProcessing
from finetune.tasks.priors import PriorChoice, Priors, between_classes
from finetune.tasks.unevenness import ClassWeights
from finetune.wording import number


@dataclass(frozen=True, slots=True)
class CardText:
    """What a model card says of a task, and the Python that it shows.

    model_kind: the subject of its first sentence. outputs, raw_outputs: what a graph and what the
    bare model give. activation: Python that makes `outputs`, with "{logits}" for the raw outputs,
    divided by the temperature if there is one; "{temperature}" is the number itself, for a task
    that divides something else by it. results, results_code: how to read `probabilities`,
    [batch, classes]. coverage_code: how to make a set or intervals of them. energy: Python that
    makes `Task.energy` of "logits". limits: sentences for the section on limits. problem_type: how
    transformers calls a task with this activation, which divides by the temperature; empty where it
    has no name for it.
    """

    model_kind: str
    outputs: str
    raw_outputs: str
    activation: str
    results: str
    results_code: str
    coverage_code: str = ""
    energy: str = ""
    limits: tuple[str, ...] = ()
    problem_type: str = ""


class Task(ABC):
    """A kind of target. Tasks have no state: two of one class are the same.

    name: how files and the command line call it. names_are, name_is: what `classes` are the names
    of, in the plural and the singular. exclusive: whether every example has exactly one class, its
    targets being class numbers [N] int64. scales_outputs: whether the head ends with a
    `TargetScale`, so that outputs are in the targets' unit. gives_probabilities: whether
    `activation` gives probabilities of classes, or else values. has_thresholds: whether a class is
    predicted from some probability on, which can be tuned. metrics_are_shares: whether the
    named metrics lie in [0, 1]. example_shares: those of them that are the share of examples with
    some property, such as being right. default_metrics: what is measured unless it is said
    otherwise.
    strata: of what a random split holds out its share. instead_of_calibration: what to do where
    there is no one class per example, for an error. probe_curvature: what the second derivative of
    `probe_losses` in an output usually is, which lets a solver take steps of the right size.

    >>> from finetune.tasks import SingleLabel
    >>> class Coarse(SingleLabel):
    ...     name = "coarse"
    ...     def encode(self, labels, classes, *, of_training=False):
    ...         coarse = [label.partition("_")[0] for label in labels]
    ...         return super().encode(coarse, classes, of_training=of_training)
    >>> targets, classes = Coarse().encode(["cat_tabby", "dog_pug", "cat_siamese"], None)
    >>> targets.tolist(), classes
    ([0, 1, 0], ('cat', 'dog'))
    """

    name: ClassVar[str]
    names_are: ClassVar[str] = "classes"
    name_is: ClassVar[str] = "class"
    exclusive: ClassVar[bool] = False
    scales_outputs: ClassVar[bool] = False
    gives_probabilities: ClassVar[bool] = True
    has_thresholds: ClassVar[bool] = False
    metrics_are_shares: ClassVar[bool] = True
    example_shares: ClassVar[frozenset[str]] = frozenset()
    default_metrics: ClassVar[tuple[str, ...]]
    strata: ClassVar[str] = "the images"
    instead_of_calibration: ClassVar[str] = ""
    probe_curvature: ClassVar[float] = 0.1
    card: ClassVar[CardText]

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    # --- labels and targets

    @abstractmethod
    def encode(
        self, labels: Sequence[Any], classes: Sequence[str] | None, *, of_training: bool = False
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Targets [N, ...], and the names of the classes or targets in order.

        labels: as people write them, one for each image. classes: None finds the names in the
        labels. of_training: `classes` are those of the training data, which others may not exceed.
        Raises ValueError, with the image's number, for a label that is none for this task.
        """

    @abstractmethod
    def read_label(self, cells: Sequence[Any], where: str, delimiter: str) -> Any:
        """One label, as `encode` takes it, from the cells of a table's label columns.

        where: the row's place, which errors begin with. delimiter: between several labels.
        """

    def names_of_columns(self, columns: Sequence[str]) -> tuple[str, ...] | None:
        """The names that a table's label columns give to the targets; None where they give none.

        Raises ValueError for several columns, unless each is a target of its own.
        """
        if len(columns) > 1:
            raise ValueError(
                f"several label columns are for task='regression', or with 1 and 0 for "
                f"task='multi_label', got {list(columns)}; this task takes one column of labels"
            )
        return None

    @abstractmethod
    def unlabelled(self, count: int, classes: Sequence[str]) -> Tensor:
        """Placeholder targets for images without labels: right in shape, without meaning."""

    @abstractmethod
    def describe(self, targets: Tensor, classes: Sequence[str]) -> list[str]:
        """Each target in words."""

    @abstractmethod
    def class_counts(self, targets: Tensor, classes: Sequence[str]) -> list[int]:
        """How many examples have each class; empty where there is nothing to count."""

    def class_names_in(self, labels: Sequence[Any]) -> set[str]:
        """The names of classes that occur in labels as people write them; none for numbers."""
        return set()

    def count_unlabelled(self, targets: Tensor) -> int | None:
        """How many examples have no label at all; None where every example has one."""
        return None

    def stratify(self, targets: Tensor, classes: Sequence[str]) -> Sequence[Tensor]:
        """Numbers of the examples of each stratum, of which a split holds out the same share.

        An example may be in several strata.
        """
        return [torch.arange(len(targets))]

    # --- training

    def output_count(self, classes: Sequence[str]) -> int:
        """How many outputs the model has."""
        return len(classes)

    @abstractmethod
    def default_loss(self, target_std: Tensor | None = None) -> Loss:
        """The loss unless the user gives one.

        target_std: [K], known if `scales_outputs`. With mixup, cutmix and label smoothing the
        loss of an exclusive task gets shares of the classes as targets, [B, C], too.
        """

    def weighted_loss(
        self, class_weights: ClassWeights, classes: Sequence[str], targets: Tensor
    ) -> Loss | None:
        """The default loss with a weight for each class; None for a task whose loss has none.

        class_weights: "balanced", or weights by class, 1 for those that are left out. targets: of
        training, [N, ...]. Raises ValueError for a weight of no class.
        """
        return None

    def class_weights_of(self, loss: Loss) -> Tensor | None:
        """The weight that each class has in a loss, [C]; None where they are alike, or unknown."""
        return None

    def checked_loss(self, loss: Loss) -> Loss:
        """The loss. Raises ValueError for one that takes outputs for something else than here."""
        return loss

    @abstractmethod
    def example_losses(self, loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each example, [B]; see `losses.example_losses`."""

    @property
    def has_probe(self) -> bool:
        """Whether the task has `probe_losses`."""
        return type(self).probe_losses is not Task.probe_losses

    def probe_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The losses that a linear probe minimises, [B], convex in the outputs [B, C].

        targets: numbers are standardised. Raises ValueError for a task that has no such loss.
        """
        raise ValueError(
            f"task={self.name!r} has no convex loss, so that there is no probe of it; "
            "define `probe_losses` in its class"
        )

    def probe_losses_like(self, loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
        """`probe_losses`, with what the loss of training weighs besides whole examples."""
        return self.probe_losses

    @abstractmethod
    def checked_targets(self, outputs: Any, targets: Any) -> Tensor:
        """The targets, after a check that they and the outputs are of this task.

        Raises ValueError with the shapes and types that they have.
        """

    # --- what outputs mean

    def class_scores(self, outputs: Tensor) -> Tensor:
        """A score for each class or target, [B, C]: the outputs, unless a model has others."""
        return outputs

    def training_priors(self, shares: Mapping[str, float], loss: Loss) -> dict[str, float]:
        """The share that training saw of each class, by name.

        shares: how often an epoch has them. loss: its class weights count like more images. Raises
        ValueError for a task whose outputs are not a score for each class.
        """
        raise ValueError(
            f"adjust_priors() is for classes, and task={self.name!r} has no output for each of "
            "them that holds its share in training: what it predicts can't be moved to other shares"
        )

    def priors(self, wanted: PriorChoice, training: Mapping[str, float]) -> Priors:
        """The way from the shares of `training_priors` to others; see `Learner.adjust_priors`."""
        return between_classes(wanted, training)

    def energy(self, outputs: Tensor) -> Tensor | None:
        """How little a model sees of any class, [B], see `Familiarity`; None without classes."""
        return None

    @abstractmethod
    def activation(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        """Probabilities [B, C] or values [B, K], float32, from a model's outputs.

        It consists of operations that torch.export and ONNX have, for it becomes a part of graphs.
        """

    @abstractmethod
    def inverse_activation(self, activated: Tensor) -> Tensor:
        """Outputs, float32, from which `activation` makes these probabilities or values."""

    # --- metrics

    @abstractmethod
    def named_metrics(self) -> Mapping[str, MetricFactory]:
        """The metrics that can be asked for by name."""

    def standard_metrics(self, counts: Sequence[int]) -> tuple[str, ...]:
        """What is measured unless it is said otherwise. counts: training images of each class."""
        return self.default_metrics

    def metric_error(self, name: str, value: float, count: int | None) -> float | None:
        """The standard error of a metric of `count` examples, see `standard_error.of_share`.

        None for a metric that is no share of examples, such as F1, and where the count is unknown.
        """
        if not count or name not in self.example_shares or not math.isfinite(value):
            return None
        return standard_error.of_share(value, count)

    def metric_errors(self, values: Mapping[str, float], count: int | None) -> dict[str, float]:
        """The standard errors of the metrics that have one, for a file."""
        errors = {}
        for name, value in values.items():
            error = self.metric_error(name, value, count)
            if error is not None:
                errors[name] = error
        return errors

    def metric_headline(self, name: str, value: float, count: int | None = None) -> str:
        """The value of a metric, or of the loss, for a headline. count: as of `metric_error`.

        >>> from finetune.tasks import Regression, SingleLabel
        >>> SingleLabel().metric_headline("accuracy", 0.8768, 341)
        '87.7 % ± 1.8'
        >>> SingleLabel().metric_headline("loss", 0.3934), Regression().metric_headline("mae", 0.25)
        ('0.393', '0.2500')

        What lies in [0, 1] is known of the task's own metrics only.
        """
        if name == "loss":
            return f"{value:.3f}"
        error = self.metric_error(name, value, count)
        if self.metrics_are_shares and name in self.named_metrics():
            percentage = None if error is None else 100 * error
            return standard_error.with_error(f"{100 * value:.1f} %", percentage, 1)
        return number(value)

    def metric_text(self, name: str, value: float, count: int | None = None) -> str:
        """The value of a metric, or of the loss, in a list. count: as of `metric_error`.

        >>> from finetune.tasks import SingleLabel
        >>> SingleLabel().metric_text("accuracy", 0.8768, 341), SingleLabel().metric_text("f1", 0.5)
        ('0.8768 ± 0.0178', '0.5000')
        """
        return standard_error.with_error(number(value), self.metric_error(name, value, count), 4)

    def adapt_metric(self, metric: Any) -> Any:
        """A torchmetrics object of the user's, behind what it needs of outputs and targets."""
        return metric

    # --- answers

    @abstractmethod
    def answer(
        self, activated: Tensor, classes: Sequence[str], post_processing: PostProcessing
    ) -> Answer:
        """What a person gets for one image. activated: [C], one row of `activation`."""

    @abstractmethod
    def file_prediction(self, path: str, answer: Any) -> FilePrediction:
        """An answer of this task as the row of a file."""

    @abstractmethod
    def table(
        self,
        items: Sequence[str | int],
        classes: Sequence[str],
        targets: Tensor,
        outputs: Tensor,
        losses: Tensor,
        *,
        image: Callable[[int], Any] | None = None,
    ) -> PredictionTable:
        """The table of all examples, without post-processing.

        outputs: [N, C] as the model gives them. losses: [N]. image: opens the image of a row, by
        its number; None where no images are known.
        """

    def fit_coverage(self, table: Any, coverage: float) -> Coverage:
        """The limits with which answers hold the truth with this probability.

        table: of validation data, with all other post-processing. Raises ValueError for too few
        examples, and for a task that has no such limits.
        """
        raise ValueError(f"calibrate(coverage=...) can't be done for task={self.name!r}")

    def adjust(self, table: Any, post_processing: PostProcessing) -> PredictionTable:
        """The table with post-processing; the table itself where that changes nothing."""
        adjusted: PredictionTable = table
        return adjusted
