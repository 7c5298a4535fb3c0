"""Training images as the model sees them, with their labels."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import torch

from finetune.interpret.image_grids import plot_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finetune.data.picture_loaders import ImageLoaders


def show(data: ImageLoaders, count: int, epoch: int, columns: int) -> Figure:
    """The first `count` images of an epoch in its order, without normalisation."""
    if count < 1 or columns < 1:
        raise ValueError(f"count and columns must be positive, got {count} and {columns}")
    numbers = torch.cat(data.train.order(data.seed, epoch))[:count]
    with closing(data.train.fetch([numbers])) as batches:
        batch = data.prepare(next(batches), epoch)
    mean, std = (v.view(1, 3, 1, 1) for v in data.preprocessing.normalisation(torch.device("cpu")))
    images = (batch.inputs.cpu() * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return plot_images(images, data.train_examples.select(numbers).texts(), columns=columns)
