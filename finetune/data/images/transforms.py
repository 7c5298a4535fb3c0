"""A user's own augmentation as a pure function of (seed, view, the example's number)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.data.images.augment import Transform
from finetune.randomness import isolated, seed_everything

_ROUNDING = 1e-3
"""How far from [0, 1] an interpolation may stray."""


def transformed(
    images: Tensor, transform: Transform, seed: int, view: int, indices: Tensor, size: int
) -> Tensor:
    """Every image by itself, so that what becomes of it doesn't depend on its batch.

    images: uint8 [B, 3, S, S]; indices: [B], the examples' numbers. The transform may draw from
    the global generators of torch, numpy and Python, which are seeded for each image.
    Returns float32 [B, 3, size, size] in [0, 1].
    """
    views = []
    with isolated():
        for image, index in zip(images, indices.tolist(), strict=True):
            seed_everything(seed, "augment", view, index)
            # a copy of its own: the images are kept, and a transform may work in place
            views.append(_image(transform(image.clone()), transform, size))
    return torch.stack(views)


def _image(found: object, transform: Transform, size: int) -> Tensor:
    """float32 [3, size, size] from what a transform gives."""
    name = getattr(transform, "__name__", type(transform).__name__)
    if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[0] != 3:
        what = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"augment={name} must give a tensor [3, h, w] of an image, got {what}")
    if found.dtype == torch.uint8:
        view = found.float().mul_(1 / 255)
    elif found.is_floating_point():
        view = found.float()
        low, high = float(view.min()), float(view.max())
        if not -_ROUNDING <= low <= high <= 1 + _ROUNDING:
            raise ValueError(
                f"augment={name} must give numbers in [0, 1], got {low:.3g} to {high:.3g}; leave "
                "out Normalize, which comes afterwards and suits the backbone"
            )
        view = view.clamp(0, 1)
    else:
        raise ValueError(f"augment={name} must give uint8 or float images, got {found.dtype}")
    view = view.as_subclass(Tensor)  # torchvision has its own subclasses
    if view.shape[1:] != (size, size):
        view = F.interpolate(view[None], (size, size), mode="bilinear", antialias=True)[0]
        view = view.clamp(0, 1)
    return view
