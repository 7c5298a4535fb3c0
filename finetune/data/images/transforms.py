"""A user's own augmentation, as a pure function of (seed, view, the example's number)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune import turns
from finetune.data.images.augment import Transform
from finetune.image_size import ImageSize, height_and_width
from finetune.randomness import isolated, seed_everything

_ROUNDING = 1e-3
"""How far interpolation may take a pixel value out of [0, 1]."""


def transformed(
    images: Tensor, transform: Transform, seed: int, view: int, indices: Tensor, size: ImageSize
) -> Tensor:
    """Applies a user's transform to each image by itself, so that no view depends on its batch.

    images: uint8 [B, 3, H, W]; indices: [B], the examples' numbers. The transform may draw from
    the global generators of torch, numpy and Python, which are seeded for each image.
    Returns float32 [B, 3, height, width] of `size`, in [0, 1]. Raises ValueError where the
    transform does not return an image.
    """
    name = getattr(transform, "__name__", type(transform).__name__)
    views = []
    with turns.alone(), isolated():
        for image, index in zip(images, indices.tolist(), strict=True):
            seed_everything(seed, "augment", view, index)
            # a copy, because the images may be kept, and a transform may work in place
            result = transform(image.clone())
            view_of_image = _unit_range(result, name, channels=len(image))
            views.append(_resized(view_of_image, *height_and_width(size)))
    return torch.stack(views)


def _unit_range(result: object, name: str, *, channels: int) -> Tensor:
    """What a transform returned as an image, float32 [channels, h, w] in [0, 1].

    name: the transform's, for errors. Raises ValueError for what is no image.
    """
    if not isinstance(result, Tensor):
        raise ValueError(_not_an_image(name, channels, type(result).__name__))
    if result.ndim != 3 or result.shape[0] != channels:
        raise ValueError(_not_an_image(name, channels, f"shape {list(result.shape)}"))
    image = result.as_subclass(Tensor)  # torchvision has its own subclasses
    if image.dtype == torch.uint8:
        return image.float().mul_(1 / 255)
    if not image.is_floating_point():
        raise ValueError(f"augment={name} must give uint8 or float images, got {image.dtype}")
    image = image.float()
    low, high = float(image.min()), float(image.max())
    # NaN fails the comparison, too
    if not -_ROUNDING <= low <= high <= 1 + _ROUNDING:
        raise ValueError(
            f"augment={name} must give numbers in [0, 1], got {low:.3g} to {high:.3g}; leave "
            "out Normalize, which comes afterwards and suits the backbone"
        )
    return image.clamp(0, 1)


def _not_an_image(name: str, channels: int, received: str) -> str:
    return f"augment={name} must give a tensor [{channels}, h, w] of an image, got {received}"


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """The image in the model's size, float32 [3, height, width]; as it is where it has that."""
    if image.shape[1:] == (height, width):
        return image
    batch = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)
    return batch[0].clamp(0, 1)
