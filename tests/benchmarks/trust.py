"""What answers are worth on photos of clothing: uneven classes, sets, and images of no class.

Run by `python tests/benchmarks/quality.py long_tail coverage unknown tuned_coverage`.
ImageNet EfficientNet-Lite0, photos at 128 px. Features of all photos are computed once; each seed
draws other photos, and fits the linear probe to them; tuned_coverage fine-tunes in its place.
Prints mean and standard error over the seeds.
"""

import argparse
import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ablation
import numpy as np
import torch
from clothing import CLOTHING
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor

from finetune import ImageDataLoaders, Learner, vision_learner
from finetune.demo import BACKBONE, imagenet_weights
from finetune.interpret.analysis import fit_temperature, softmax
from finetune.interpret.conformal import class_sets, least_probabilities
from finetune.probe.linear_probe import LinearProbe, fit_probe
from finetune.randomness import generator
from finetune.tasks import Familiarity, SingleLabel
from finetune.tasks.priors import between_classes
from finetune.tasks.unevenness import balanced_weights

TASK = SingleLabel()
COVERAGE = 0.9
HALVES = 20
"""So many times validation is halved at random: one half is fitted to, the other one counted."""

Result = tuple[str, float]
"""What is measured, and its value for one seed or one of its parts."""

Measure = Callable[[argparse.Namespace], None]
"""Prints what it measures; of the options it reads seeds, epochs and weights."""


@dataclass(frozen=True)
class Photos:
    """Features [N, F] and classes [N] of all photos. learner: with the backbone of the features."""

    features: Tensor
    targets: Tensor
    classes: tuple[str, ...]
    learner: Learner

    @classmethod
    def read(cls, weights: Path) -> "Photos":
        files = sorted(CLOTHING.rglob("*.jpg"))
        data = ImageDataLoaders.from_lists(
            files,
            [file.parent.name for file in files],
            is_valid=[number % 2 == 1 for number in range(len(files))],
            image_size=128,
            augment="none",
        )
        learner = vision_learner(data, BACKBONE, weights=imagenet_weights(weights), progress=False)
        parts = [learner.features(loader) for loader in (learner.data.train, learner.data.valid)]
        features = torch.cat([part.values for part in parts])
        targets = torch.cat([part.targets for part in parts])
        return cls(features, targets, data.classes, learner)

    def shuffled(self, seed: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(self.targets), generator=generator(seed, "quality"))
        return self.features[order], self.targets[order]


def probe_of(features: Tensor, targets: Tensor, weights: Tensor | None = None) -> LinearProbe:
    classes = [str(number) for number in range(int(targets.max()) + 1)]
    example_weights = None if weights is None else weights[targets]
    return fit_probe(features, targets, TASK, classes, example_weights=example_weights)


# --- uneven classes


def long_tail(photos: Photos, seed: int) -> Iterator[Result]:
    """150 to 5 images a class, the largest class first; balanced accuracy on all other photos."""
    features, targets = photos.shuffled(seed)
    count = len(photos.classes)
    is_training = torch.zeros(len(targets), dtype=torch.bool)
    by_size = torch.bincount(targets).argsort(descending=True).tolist()
    for rank, number in enumerate(by_size):
        size = round(150 * (5 / 150) ** (rank / (count - 1)))
        is_training[torch.nonzero(targets == number)[:size]] = True
    train, train_targets = features[is_training], targets[is_training]
    counts = torch.bincount(train_targets).tolist()
    shares = {name: size / sum(counts) for name, size in zip(photos.classes, counts, strict=True)}
    shift = torch.tensor(list(between_classes("uniform", shares).shift.values()))

    def balanced_accuracy(outputs: Tensor) -> float:
        predicted, truth = outputs.argmax(dim=1), targets[~is_training]
        return float(
            np.mean([float((predicted[truth == c] == c).float().mean()) for c in range(count)])
        )

    plain = probe_of(train, train_targets).outputs(features[~is_training])
    weighted = probe_of(train, train_targets, torch.tensor(balanced_weights(counts)))
    yield "long tail, balanced accuracy: plain", balanced_accuracy(plain)
    yield (
        'long tail, balanced accuracy: class_weights="balanced"',
        balanced_accuracy(weighted.outputs(features[~is_training])),
    )
    yield 'long tail, balanced accuracy: adjust_priors("uniform")', balanced_accuracy(plain + shift)


# --- sets of classes


def coverage(photos: Photos, seed: int) -> Iterator[Result]:
    """1,000 photos to train on; of 1,000 others one half calibrates, and the other one is counted.

    The halves are random, so that a seed's value is a mean over several of them.
    """
    features, targets = photos.shuffled(seed)
    probe = probe_of(features[:1000], targets[:1000])
    yield from _sets("probe", probe.outputs(features[1000:2000]), targets[1000:2000], seed)


def tuned_coverage(epochs: int, weights: Path, seed: int) -> Iterator[Result]:
    """The coverage and the size of sets after `fine_tune(epochs)`."""
    backbone, tensors, augment, make = ablation.clothing(imagenet_weights(weights))
    learner = vision_learner(make(seed, augment), backbone, weights=tensors, progress=False)
    learner.fine_tune(epochs)
    outputs = learner.predictor().outputs()
    yield from _sets(f"fine_tune({epochs})", outputs.outputs, outputs.targets, seed)


def _sets(name: str, outputs: Tensor, targets: Tensor, seed: int) -> Iterator[Result]:
    scores, truth = outputs.numpy(), targets.numpy()
    held, sizes = [], []
    for number in range(HALVES):
        order = torch.randperm(len(truth), generator=generator(seed, "halves", number)).numpy()
        fitted, counted = np.array_split(order, 2)
        temperature = fit_temperature(scores[fitted], truth[fitted])
        probabilities = softmax(scores, temperature)
        of_truth = probabilities[fitted, truth[fitted]]
        limits = least_probabilities(of_truth, truth[fitted], scores.shape[1], COVERAGE)
        sets = class_sets(probabilities[counted], limits)
        held.append(sets[np.arange(len(counted)), truth[counted]].mean())
        sizes.append(sets.sum(axis=1).mean())
    yield f"{name}: accuracy", float((scores.argmax(axis=1) == truth).mean())
    yield f"{name}: coverage of sets for {COVERAGE}", float(np.mean(held))
    yield f"{name}: classes a set", float(np.mean(sizes))


# --- images of no class


def unknown(photos: Photos, seed: int) -> Iterator[Result]:
    """AUROC of `unknown`: each class left out of training (near), and digits (far)."""
    features, targets = photos.shuffled(seed)
    digits = _digit_features(photos.learner)
    near = []
    for left_out in range(len(photos.classes)):
        is_known = targets != left_out
        numbers = targets - (targets > left_out).long()
        known, known_targets = features[is_known], numbers[is_known]
        near.append(_auroc(known[:1000], known_targets[:1000], known[1000:], features[~is_known]))
    yield "unknown, AUROC: a class left out", float(np.mean(near))
    yield (
        "unknown, AUROC: digits",
        _auroc(features[:1000], targets[:1000], features[1000:], digits),
    )


def _auroc(train: Tensor, targets: Tensor, known: Tensor, strange: Tensor) -> float:
    """Fitted with half of the known images, counted on the other half and the strange ones."""
    probe = probe_of(train, targets)

    def energy(features: Tensor) -> Tensor:
        value = TASK.energy(probe.outputs(features))
        assert value is not None
        return value

    fitted, counted = known[::2], known[1::2]
    familiarity = Familiarity.fit(energy(fitted), fitted, train)
    values = [
        *familiarity.unknown(energy(counted), counted),
        *familiarity.unknown(energy(strange), strange),
    ]
    return float(roc_auc_score([0] * len(counted) + [1] * len(strange), values))


def _digit_features(learner: Learner) -> Tensor:
    """Features of the 1,797 digits of scikit-learn, enlarged."""
    pixels = (load_digits().images * 255 / 16).astype(np.uint8)
    images = [Image.fromarray(p).convert("RGB").resize((146, 146)) for p in pixels]
    assert isinstance(learner.data, ImageDataLoaders)
    return learner.features(learner.data.test_loader(images)).values


# --- means of the seeds


def _on_features(measure: Callable[[Photos, int], Iterator[Result]]) -> Measure:
    def run(options: argparse.Namespace) -> None:
        photos = _photos(options.weights)
        print_means(measure(photos, seed) for seed in options.seeds)

    return run


@functools.cache
def _photos(weights: Path) -> Photos:
    return Photos.read(weights)


def _tuned_coverage(options: argparse.Namespace) -> None:
    print_means(tuned_coverage(options.epochs, options.weights, seed) for seed in options.seeds)


def print_means(results_of_seeds: Iterable[Iterator[Result]]) -> None:
    """A line for each thing that was measured: the mean over the seeds and its standard error."""
    values: dict[str, list[float]] = defaultdict(list)
    for results in results_of_seeds:
        for what, value in results:
            values[what].append(value)
            print(json.dumps([what, value]), flush=True)
    for what, of_seeds in values.items():
        error = np.std(of_seeds, ddof=1) / len(of_seeds) ** 0.5 if len(of_seeds) > 1 else np.nan
        print(f"{what:<60}{np.mean(of_seeds):>8.3f} +- {error:.3f}", flush=True)


MEASURES: dict[str, Measure] = {
    "long_tail": _on_features(long_tail),
    "coverage": _on_features(coverage),
    "unknown": _on_features(unknown),
    "tuned_coverage": _tuned_coverage,
}
