"""SingleLabel: every image has exactly one class."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune import arguments
from finetune.interpret.conformal import class_sets, least_probabilities
from finetune.interpret.predictions import Predictions
from finetune.tasks.answers import Answer, FilePrediction, Prediction
from finetune.tasks.base import CardText, Task
from finetune.tasks.checks import dtype_and_shape
from finetune.tasks.coverage import Coverage
from finetune.tasks.labels import (
    class_name,
    class_names,
    is_empty,
    list_in_text,
    number_classes,
    python_values,
)
from finetune.tasks.loss_weight import LossWeight
from finetune.tasks.losses import Loss, example_losses
from finetune.tasks.metric_adapters import (
    MetricAdapter,
    MetricFactory,
    WholeSetMetric,
    class_mean,
    mean_auroc,
    torch_metric,
)
from finetune.tasks.post_processing import PostProcessing
from finetune.tasks.unevenness import (
    ClassWeights,
    are_uneven,
    balanced_weights,
    named_weights,
)

UNKNOWN_CLASS = -1
"""Stands for the class of an image that has no label."""

_TOP = (2, 3, 5, 10)
"""Of so many classes the metrics `top_3_accuracy` and the like are."""


class SingleLabel(Task):
    """One class an image. Targets: int64 [N], class numbers. Outputs: logits [B, C].

    A task whose labels and answers are as here, but whose outputs are other than one logit for each
    class, overrides `output_count`, `class_scores`, `default_loss`, `example_losses`,
    `inverse_activation` and `card`.
    """

    name: ClassVar[str] = "single_label"
    exclusive: ClassVar[bool] = True
    example_shares: ClassVar[frozenset[str]] = frozenset(
        {"accuracy", "error_rate", *(f"top_{k}_accuracy" for k in _TOP)}
    )
    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    strata: ClassVar[str] = "each class"
    card: ClassVar[CardText] = CardText(
        model_kind="An image classifier",
        outputs="probabilities",
        raw_outputs="logits",
        activation="{logits}.softmax(dim=1)",
        results="`probabilities` is [batch, classes], in the order of the classes:",
        results_code='print(spec["classes"][probabilities[0].argmax()], probabilities[0].max())',
        coverage_code='limits = spec["post_processing"]["coverage"]["limits"]\n'
        'pairs = zip(spec["classes"], probabilities[0])\n'
        "print({name for name, p in pairs if p >= limits[name] or p == probabilities[0].max()})",
        energy="-logits.logsumexp(dim=1)",
        limits=("It answers with one of its classes for any image, also for one of none.",),
        problem_type="single_label_classification",
    )

    def class_scores(self, outputs: Tensor) -> Tensor:
        """A score for each class, [B, C], whose softmax is the classes' probabilities."""
        return outputs

    # --- labels and targets

    def encode(
        self, labels: Sequence[Any], classes: Sequence[str] | None, *, of_training: bool = False
    ) -> tuple[Tensor, tuple[str, ...]]:
        names = class_names(python_values(labels))
        classes, number_of = number_classes(set(names), classes, of_training=of_training)
        return torch.tensor([number_of[name] for name in names]), classes

    def read_label(self, cells: Sequence[Any], where: str, delimiter: str) -> str:
        (cell,) = cells
        if is_empty(cell):
            raise ValueError(f"{where} has no label; fill the cell or leave the row out")
        name = class_name(cell, where).strip()
        if list_in_text(name, where) is not None:
            raise ValueError(
                f"{where} needs one class name, got the list {name!r:.80}; for several labels an "
                "image pass task='multi_label'"
            )
        return name

    def class_names_in(self, labels: Sequence[Any]) -> set[str]:
        return set(class_names(python_values(labels)))

    def unlabelled(self, count: int, classes: Sequence[str]) -> Tensor:
        return torch.full((count,), UNKNOWN_CLASS)

    def describe(self, targets: Tensor, classes: Sequence[str]) -> list[str]:
        return [classes[number] for number in targets.tolist()]

    def class_counts(self, targets: Tensor, classes: Sequence[str]) -> list[int]:
        counts: list[int] = torch.bincount(targets, minlength=len(classes)).tolist()
        return counts

    def stratify(self, targets: Tensor, classes: Sequence[str]) -> Sequence[Tensor]:
        # sorted once: a search per class would read all targets as often as there are classes
        by_class = torch.from_numpy(np.argsort(targets.numpy(), kind="stable"))
        return torch.split(by_class, self.class_counts(targets, classes))

    # --- training

    def default_loss(self, target_std: Tensor | None = None) -> Loss:
        return F.cross_entropy

    def weighted_loss(
        self, class_weights: ClassWeights, classes: Sequence[str], targets: Tensor
    ) -> Loss | None:
        """Cross-entropy, as a mean by the weights of the images' classes.

        "balanced" is N / (C * n) for a class of n images, so that all classes count alike.
        """
        if self.default_loss() is not F.cross_entropy:
            return None  # a subclass has a loss of its own
        if isinstance(class_weights, str):
            arguments.choice("class_weights", class_weights, ["balanced"])
            weights = balanced_weights(self.class_counts(targets, classes))
        else:
            weights = named_weights(class_weights, classes)
        return nn.CrossEntropyLoss(torch.tensor(weights))

    def class_weights_of(self, loss: Loss) -> Tensor | None:
        return LossWeight.of(loss).class_weights

    def example_losses(self, loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
        return example_losses(
            loss, outputs, targets, functions=[F.cross_entropy], modules=[nn.CrossEntropyLoss]
        )

    def probe_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy: a softmax regression."""
        return F.cross_entropy(outputs, targets, reduction="none")

    def checked_targets(self, outputs: Any, targets: Any) -> Tensor:
        are_tensors = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
        are_numbers = are_tensors and not targets.is_floating_point() and targets.ndim == 1
        if not are_numbers or outputs.ndim != 2 or self.class_scores(outputs).shape[1] < 2:
            raise ValueError(
                "this analysis is for one class per example: outputs [B, C] and whole numbers [B] "
                f"as targets, here they are {dtype_and_shape(outputs)} and "
                f"{dtype_and_shape(targets)}; for several labels or numbers as targets pass task= "
                "to DataLoaders"
            )
        class_count = self.class_scores(outputs).shape[1]
        numbers: Tensor = targets.long()
        # before the loss, which on a GPU would end the process's use of it
        impossible = numbers[(numbers < 0) | (numbers >= class_count)]
        if len(impossible):
            raise ValueError(
                f"targets are class numbers from 0 to {class_count - 1}, a class for each of the "
                f"model's outputs, got {int(impossible[0])}; leave out what has no label"
            )
        return numbers

    # --- what outputs mean

    def training_priors(self, shares: Mapping[str, float], loss: Loss) -> dict[str, float]:
        if type(self).class_scores is not SingleLabel.class_scores:
            return super().training_priors(shares, loss)
        weights = self.class_weights_of(loss)
        if weights is None:
            return dict(shares)
        weighted = {}
        for (name, share), weight in zip(shares.items(), weights.tolist(), strict=True):
            weighted[name] = share * weight
        total = sum(weighted.values())
        return {name: value / total for name, value in weighted.items()}

    def energy(self, outputs: Tensor) -> Tensor | None:
        return -self.class_scores(outputs).float().logsumexp(dim=1)

    def activation(self, outputs: Tensor, temperature: float = 1.0) -> Tensor:
        return (self.class_scores(outputs).float() / temperature).softmax(dim=1)

    def inverse_activation(self, activated: Tensor) -> Tensor:
        return activated.clamp_min(torch.finfo(torch.float32).tiny).log().float()

    # --- metrics

    def named_metrics(self) -> Mapping[str, MetricFactory]:
        return {
            "accuracy": self._of_scores("MulticlassAccuracy", average="micro"),
            "balanced_accuracy": self._mean_over_classes("recall"),
            "f1": self._mean_over_classes("f1"),
            "precision": self._mean_over_classes("precision"),
            "recall": self._mean_over_classes("recall"),
            "auroc": self._area_under_curve,
            "error_rate": self._error_rate,
            **{f"top_{k}_accuracy": self._top(k) for k in _TOP},
        }

    def standard_metrics(self, counts: Sequence[int]) -> tuple[str, ...]:
        """The balanced accuracy, too, where classes are uneven: a large one hides the others."""
        if are_uneven(counts) and "accuracy" in self.default_metrics:
            return (*self.default_metrics, "balanced_accuracy")
        return self.default_metrics

    def _of_scores(self, metric_name: str, **options: Any) -> MetricFactory:
        """A metric that needs to know which class scores highest."""

        def create(class_count: int) -> MetricAdapter:
            metric = torch_metric(
                metric_name, num_classes=class_count, validate_args=False, **options
            )
            return MetricAdapter(metric, self._scores_and_numbers)

        return create

    def _mean_over_classes(self, score: str) -> MetricFactory:
        def create(class_count: int) -> MetricAdapter:
            metric = torch_metric(
                "MulticlassStatScores", num_classes=class_count, validate_args=False, average="none"
            )
            return class_mean(metric, score, self._scores_and_numbers)

        return create

    def _top(self, k: int) -> MetricFactory:
        """The share of examples whose class is among the k that score highest."""

        def create(class_count: int) -> MetricAdapter:
            if class_count <= k:
                raise ValueError(
                    f"top_{k}_accuracy needs more than {k} classes, and there are {class_count}: "
                    "it would be 1 whatever the model says"
                )
            metric = torch_metric(
                "MulticlassAccuracy",
                num_classes=class_count,
                validate_args=False,
                average="micro",
                top_k=k,
            )
            return MetricAdapter(metric, self._scores_and_numbers)

        return create

    def _error_rate(self, class_count: int) -> MetricAdapter:
        metric = torch_metric(
            "MulticlassAccuracy", num_classes=class_count, validate_args=False, average="micro"
        )
        return MetricAdapter(
            metric, self._scores_and_numbers, finish=lambda accuracy: 1 - float(accuracy)
        )

    def _area_under_curve(self, class_count: int) -> MetricAdapter:
        def probabilities(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            scores, numbers = self._scores_and_numbers(outputs, targets)
            # of every pixel, where an image has many targets: [B, C, ...] -> [B * ..., C]
            rows = scores.float().softmax(dim=1).movedim(1, -1).flatten(0, -2)
            return rows, F.one_hot(numbers.flatten().long(), class_count).bool()

        return MetricAdapter(WholeSetMetric(mean_auroc), probabilities)

    def _scores_and_numbers(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Raises ValueError for targets of another task, which would be counted as something."""
        if targets.is_floating_point() or targets.ndim > max(outputs.ndim - 1, 1):
            raise ValueError(
                f"a metric of task {self.name!r} needs class numbers [B] as targets, got "
                f"{targets.dtype} {list(targets.shape)}; pass task='multi_label' or "
                "task='regression' to the data, or a function as a metric"
            )
        return self.class_scores(outputs), targets

    # --- answers

    def answer(
        self, activated: Tensor, classes: Sequence[str], post_processing: PostProcessing
    ) -> Answer:
        probabilities = dict(zip(classes, activated.tolist(), strict=True))
        label = classes[int(activated.argmax())]
        answer = Prediction(label, probabilities[label], probabilities)
        if post_processing.coverage is not None:
            limits = post_processing.coverage.limits_of(classes)
            (is_in_set,) = class_sets(activated.numpy()[None], limits)
            by_probability = sorted(probabilities, key=lambda name: -probabilities[name])
            members = {name for name, inside in zip(classes, is_in_set, strict=True) if inside}
            answer.set = tuple(name for name in by_probability if name in members)
        return answer

    def fit_coverage(self, table: Predictions, coverage: float) -> Coverage:
        true_probabilities = table.probabilities[np.arange(len(table)), table.targets]
        limits = least_probabilities(
            true_probabilities.astype(np.float64), table.targets, len(table.classes), coverage
        )
        return Coverage(coverage, dict(zip(table.classes, limits.tolist(), strict=True)))

    def file_prediction(self, path: str, answer: Prediction) -> FilePrediction:
        probability, probabilities = answer.probability, answer.probabilities
        return FilePrediction(path, answer.label, probability, probabilities, set=answer.set)

    def table(
        self,
        items: Sequence[str | int],
        classes: Sequence[str],
        targets: Tensor,
        outputs: Tensor,
        losses: Tensor,
        *,
        image: Callable[[int], Any] | None = None,
    ) -> Predictions:
        return Predictions(
            items,
            classes,
            targets.numpy(),
            self.class_scores(outputs).numpy(),
            losses.numpy(),
            image=image,
        )

    def adjust(self, table: Predictions, post_processing: PostProcessing) -> Predictions:
        if post_processing.temperature == 1 and post_processing.priors is None:
            return table
        scores = post_processing.shifted(torch.as_tensor(table.scores), table.classes)
        return table.adjusted(scores.numpy(), post_processing.temperature)
