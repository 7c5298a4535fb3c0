"""Several labels an image: what the ways to train, and tuned thresholds, are worth.

Run by `python tests/benchmarks/quality.py several_labels`.
ImageNet EfficientNet-Lite0 at 160 px. An image is a grid of two by two cells, of which one to three
hold a photo of clothing; its labels are their classes. For each seed 1,000 images of 2,000 photos
to train on and 1,000 images of the other 1,409 photos to validate; one half of these tunes the
thresholds of the classes, on the other half F1 is counted, the mean over the classes.
Prints mean and standard error over the seeds.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clothing import CLOTHING
from PIL import Image, ImageOps
from sklearn.metrics import average_precision_score, f1_score
from trust import Result, print_means

from finetune import ImageDataLoaders, vision_learner
from finetune.demo import BACKBONE, imagenet_weights
from finetune.interpret.analysis import best_threshold
from finetune.interpret.labels_predictions import LabelsPredictions
from finetune.randomness import generator

CELL = 80
"""Pixels of a side; an image has two by two cells."""

TRAINED_ON, VALIDATED_ON = 1000, 1000
PHOTOS_OF_TRAINING = 2000

WAYS: dict[str, dict[str, Any] | None] = {
    "probe": None,
    "fine_tune(1)": {"epochs": 1},
    "fine_tune(4)": {"epochs": 4},
}
"""Arguments of `fine_tune`; None is the probe alone."""


def several_labels(options: argparse.Namespace) -> None:
    """Mean average precision, and mean F1 with usual and with tuned thresholds."""
    weights = imagenet_weights(options.weights)
    print_means(_of_seed(seed, weights) for seed in options.seeds)


def _of_seed(seed: int, weights: Any) -> Iterator[Result]:
    data = _data(seed)
    for way, arguments in WAYS.items():
        learner = vision_learner(data, BACKBONE, weights=weights, progress=False)
        if arguments is None:
            learner.probe()
        else:
            learner.fine_tune(**arguments)
        table = learner.predictions()
        assert isinstance(table, LabelsPredictions)
        yield from _judged(way, table.outputs, table.targets > 0.5)


def _judged(way: str, probabilities: np.ndarray, is_present: np.ndarray) -> Iterator[Result]:
    """probabilities, is_present: [N, C]."""
    half = len(probabilities) // 2
    classes = range(is_present.shape[1])
    tuned = np.array(
        [best_threshold(probabilities[:half, c], is_present[:half, c]) for c in classes]
    )
    judged, truth = probabilities[half:], is_present[half:]
    precision = average_precision_score(truth, judged, average="macro")
    yield f"{way}: mean average precision", float(precision)
    for name, thresholds in (("0.5", 0.5), ("tuned thresholds", tuned)):
        f1 = f1_score(truth, judged >= thresholds, average="macro")
        yield f"{way}: mean F1, {name}", float(f1)


def _data(seed: int) -> ImageDataLoaders:
    files = sorted(CLOTHING.rglob("*.jpg"))
    order = torch.randperm(len(files), generator=generator(seed, "quality")).tolist()
    photos = [files[number] for number in order]
    numbers = np.random.default_rng(seed)
    grids = []
    for of_part, count in (
        (photos[:PHOTOS_OF_TRAINING], TRAINED_ON),
        (photos[PHOTOS_OF_TRAINING:], VALIDATED_ON),
    ):
        grids += [_grid(of_part, numbers) for _ in range(count)]
    images, labels = zip(*grids, strict=True)
    return ImageDataLoaders.from_lists(
        images,
        labels,
        task="multi_label",
        is_valid=[number >= TRAINED_ON for number in range(len(grids))],
        image_size=2 * CELL,
        seed=seed,
    )


def _grid(photos: Sequence[Path], numbers: np.random.Generator) -> tuple[Image.Image, list[str]]:
    """An image and its labels."""
    grid = Image.new("RGB", (2 * CELL, 2 * CELL), (128, 128, 128))
    labels = set()
    cells = numbers.permutation(4)[: numbers.integers(1, 4)]
    for cell in cells:
        photo = photos[numbers.integers(len(photos))]
        labels.add(photo.parent.name)
        grid.paste(ImageOps.fit(Image.open(photo), (CELL, CELL)), _corner(int(cell)))
    return grid, sorted(labels)


def _corner(cell: int) -> tuple[int, int]:
    return CELL * (cell % 2), CELL * (cell // 2)
