"""compare: which backbone suits these images, answered by the probes of all candidates."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from typing_extensions import Unpack

from finetune import arguments
from finetune.callbacks.monitor import Monitor
from finetune.data.image_loaders import ImageDataLoaders
from finetune.image_size import ImageSize, height_and_width, in_pixels
from finetune.learner_options import LearnerOptions, LearnerSettings
from finetune.metrics import create_metrics
from finetune.models.backbones import Weights
from finetune.models.listing import backbone_names
from finetune.probe.linear_probe import LinearProbe, fit_probe
from finetune.randomness import generator
from finetune.tables import Table
from finetune.tasks import Task
from finetune.training.probing import frozen_features
from finetune.training.timing import step_seconds
from finetune.vision import vision_learner
from finetune.wording import did_you_mean

WeightsByName: TypeAlias = "Literal['pretrained'] | str | Path | Mapping[str, Any] | None"
"""As in `vision_learner`, the same for all backbones; or by the name of each."""

_PARTS = 20
"""Groups of examples that the jackknife leaves out in turn."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backbone, or several side by side, and what its probe says.

    backbones: the names, which `vision_learner` takes as they are. score: of the metric, on
    training images that were held out. error: its standard error. behind: how far the score is
    behind the best one, and behind_error: the standard error of that difference, which is smaller
    than that of either score, since the images are the same.
    parameters: of the backbones. features: how many they give. image_size: pixels.
    feature_seconds: to run them over all training images once. step_seconds: of a training step
    with everything unfrozen; both on this machine, as it was.
    """

    backbones: tuple[str, ...]
    score: float
    error: float
    behind: float
    behind_error: float
    parameters: int
    features: int
    image_size: ImageSize
    feature_seconds: float
    step_seconds: float

    @property
    def name(self) -> str:
        """The backbones in words, such as "resnet50 + convnext_tiny"."""
        return " + ".join(self.backbones)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found: candidates, the best first, and one that is recommended.

    metric: whose scores they are. not_tried: candidates for which there was no time.

    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> comparison = compare(data, ["test_resnet", "test_vit"], weights=None, progress=False)
    >>> comparison.metric, len(comparison.candidates)  # each alone, and both together
    ('accuracy', 3)
    """

    metric: str
    candidates: tuple[Candidate, ...]
    not_tried: tuple[str, ...] = ()

    @property
    def recommended(self) -> Candidate:
        """Of those within one standard error of the best, the one whose training steps are fastest.

        Source: the one-standard-error rule, Breiman et al. 1984.
        """
        as_good = [row for row in self.candidates if row.behind <= row.behind_error]
        return min(as_good, key=lambda row: row.step_seconds)

    @property
    def table(self) -> Table:
        """A row for each candidate."""
        header = [
            "backbone",
            f"{self.metric} ± error",
            "behind ± error",
            "parameters",
            "pixels",
            "features, s",
            "step, s",
        ]
        rows: list[list[str]] = []
        for row in self.candidates:
            behind = ""
            if row.behind > 0:
                behind = f"{row.behind:.3f} ± {row.behind_error:.3f}"
            rows.append(
                [
                    row.name,
                    f"{row.score:.3f} ± {row.error:.3f}",
                    behind,
                    f"{row.parameters / 1e6:.1f} M",
                    in_pixels(row.image_size).removesuffix(" px"),
                    f"{row.feature_seconds:.1f}",
                    f"{row.step_seconds:.2f}",
                ]
            )
        return Table.of(header, rows)

    def _notes(self) -> list[str]:
        best = self.recommended
        notes = [f"recommended: {best.name}"]
        if best is not self.candidates[0]:
            notes[0] += ", as good as the best within the error, and the fastest to train"
        if self.not_tried:
            notes.append(f"no time was left for {', '.join(self.not_tried)}")
        return notes

    def __str__(self) -> str:
        return "\n".join([self.table.text(), *self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        notes = "".join(f"<div>{note}</div>" for note in self._notes())
        return self.table.html() + notes


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """A candidate's features, and what was measured with them."""

    backbones: tuple[str, ...]
    features: Tensor
    held_out: Tensor
    was_held_out: Tensor
    parameters: int
    image_size: ImageSize
    feature_seconds: float
    step_seconds: float


def compare(
    data: ImageDataLoaders,
    backbones: Sequence[str],
    *,
    seconds: float | None = None,
    weights: WeightsByName = "pretrained",
    metric: str | None = None,
    together: bool = True,
    **options: Unpack[LearnerOptions],
) -> Comparison:
    """Which of these backbones suits the images, without fine-tuning any of them.

    Each one runs over the training images once, and the best linear head on its features is found
    by cross-validation, see `Learner.probe`; validation images are not looked at. The features stay
    with `data`, so that `vision_learner(data, name).fine_tune(...)` need not compute them again.
    It ranks the features as they are: a backbone may gain more than another one by training.
    backbones: names, or patterns such as "convnext_*"; of a pattern those with weights. seconds:
    candidates that are not begun by then are left out, except the first. weights: of all, or by
    name, see `vision_learner`. metric: a name; None is the first one of the task. together: also
    tries the features of the best side by side with those of the second and the third.
    options: see `LearnerSettings`.
    Raises ValueError for names that are not known, WeightsError where weights can't be had.

    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> comparison = compare(data, ["test_resnet"], weights=None, progress=False)
    >>> comparison.recommended.name
    'test_resnet'
    """
    arguments.instance("data", data, ImageDataLoaders, "such as ImageDataLoaders.from_folder(...)")
    names = _expanded(arguments.sequence("backbones", backbones, "names of backbones"))
    if seconds is not None:
        arguments.real_number("seconds", seconds, above=0)
    arguments.flag("together", together)
    progress = LearnerSettings(**options).progress
    options["progress"] = False
    if metric is None:
        metric = data.task.default_metrics[0]
    arguments.text("metric", metric)
    create_metrics(metric, len(data.classes or ()), torch.device("cpu"), data.task)
    started_at = time.perf_counter()
    tried: list[_Tried] = []
    not_tried: list[str] = []
    targets = data.train_examples.labels
    for name in names:
        is_late = seconds is not None and time.perf_counter() - started_at > seconds
        if tried and is_late:
            not_tried.append(name)
            continue
        row = _try(data, name, _weights_of(name, weights), options)
        tried.append(row)
        if progress:
            print(f"{name}: {len(targets):,} images in {row.feature_seconds:.1f} s", flush=True)
    scores = _Scores(data, metric, targets)
    tried.sort(key=scores.of, reverse=scores.higher_is_better)
    if together and len(tried) > 1:
        for partner in tried[1:3]:
            tried.append(_side_by_side(data, tried[0], partner, targets))
        tried.sort(key=scores.of, reverse=scores.higher_is_better)
    candidates = tuple(scores.candidate(row, best=tried[0]) for row in tried)
    return Comparison(metric, candidates, tuple(not_tried))


def _expanded(backbones: Sequence[str]) -> list[str]:
    """The names, with those that a pattern stands for in its place; each once."""
    names: dict[str, None] = {}
    for backbone in backbones:
        arguments.text("backbones", backbone)
        if not any(sign in backbone for sign in "*?["):
            names[backbone] = None
            continue
        matches = backbone_names(backbone, pretrained=True)
        if not matches:
            hint = did_you_mean(backbone.strip("*"), backbone_names())
            raise ValueError(f"no backbone with weights matches {backbone!r}; {hint}")
        names.update(dict.fromkeys(matches))
    if not names:
        raise ValueError("backbones names no backbone to compare")
    return list(names)


def _weights_of(name: str, weights: WeightsByName) -> Any:
    """Those of one backbone; a mapping of tensors is the weights of all, as in `vision_learner`."""
    if isinstance(weights, Mapping) and name in weights:
        return weights[name]
    return weights


def _try(data: ImageDataLoaders, name: str, weights: Weights, options: LearnerOptions) -> _Tried:
    learner = vision_learner(data, name, weights=weights, head="linear", **options)
    started_at = time.perf_counter()
    features, targets = frozen_features(learner.trainer.setup)
    feature_seconds = time.perf_counter() - started_at
    probe = _probe(data, features, targets, None)
    data_in_size = learner.data
    assert isinstance(data_in_size, ImageDataLoaders)
    parameters = sum(p.numel() for p in learner.model.get_submodule("backbone").parameters())
    return _Tried(
        (name,),
        features,
        probe.held_out,
        probe.was_held_out,
        parameters,
        data_in_size.preprocessing.image_size,
        feature_seconds,
        step_seconds(learner.trainer.setup),
    )


def _probe(
    data: ImageDataLoaders, features: Tensor, targets: Tensor, blocks: Sequence[int] | None
) -> LinearProbe:
    classes = data.classes
    assert classes is not None
    return fit_probe(
        features,
        targets,
        data.task,
        classes,
        groups=data.training_groups(),
        blocks=blocks,
        seed=data.seed,
    )


def _side_by_side(data: ImageDataLoaders, first: _Tried, second: _Tried, targets: Tensor) -> _Tried:
    """The two as one candidate; it costs what both cost."""
    features = torch.cat([first.features, second.features], dim=1)
    blocks = [first.features.shape[1], second.features.shape[1]]
    probe = _probe(data, features, targets, blocks)
    return _Tried(
        (*first.backbones, *second.backbones),
        features,
        probe.held_out,
        probe.was_held_out,
        first.parameters + second.parameters,
        max(first.image_size, second.image_size, key=height_and_width),
        first.feature_seconds + second.feature_seconds,
        first.step_seconds + second.step_seconds,
    )


class _Scores:
    """The metric on held-out outputs, with standard errors."""

    def __init__(self, data: ImageDataLoaders, metric: str, targets: Tensor) -> None:
        self._task: Task = data.task
        self._classes = data.classes
        self._metric = metric
        self._targets = targets
        self.higher_is_better = Monitor(metric).mode == "max"
        order = torch.randperm(len(targets), generator=generator(data.seed, "jackknife"))
        self._part_of = torch.empty(len(targets), dtype=torch.int64)
        self._part_of[order] = torch.arange(len(targets)) % _PARTS

    def of(self, tried: _Tried) -> float:
        """The score of a candidate."""
        return self._value(tried, tried.was_held_out)

    def candidate(self, tried: _Tried, *, best: _Tried) -> Candidate:
        """The candidate with its errors, by the delete-a-group jackknife (Kott 2001)."""
        scores, differences = [], []
        for part in range(_PARTS):
            rows = self._part_of != part
            score = self._value(tried, tried.was_held_out & rows)
            scores.append(score)
            differences.append(self._value(best, best.was_held_out & rows) - score)
        sign = 1 if self.higher_is_better else -1
        score = self.of(tried)
        return Candidate(
            tried.backbones,
            score,
            _jackknife_error(scores),
            sign * (self.of(best) - score),
            _jackknife_error(differences),
            tried.parameters,
            tried.features.shape[1],
            tried.image_size,
            tried.feature_seconds,
            tried.step_seconds,
        )

    def _value(self, tried: _Tried, rows: Tensor) -> float:
        count = len(self._classes or ())
        (metric,) = create_metrics(self._metric, count, torch.device("cpu"), self._task).values()
        metric.update(tried.held_out[rows], self._targets[rows])
        return float(metric.compute())


def _jackknife_error(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    return math.sqrt(squares * (len(values) - 1) / len(values))
