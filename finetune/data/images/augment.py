"""Batched augmentation on the device: one projective resample and one colour transform an image."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune import arguments
from finetune.data.images.whole import WholeImages
from finetune.image_size import ImageSize, height_and_width, in_pixels
from finetune.randomness import uniforms
from finetune.wording import did_you_mean

DRAWS = (
    "affine",
    "place",
    "window",
    "angle",
    "flip",
    "shift_x",
    "shift_y",
    "tilt_x",
    "tilt_y",
    "lit",
    "brightness",
    "contrast",
)
"""The random numbers that an image needs. Each is keyed by its name: a new one changes no other.

place: of the square in an elongated image; all that follows happens in that square.
"""
Draws: TypeAlias = Mapping[str, Tensor]
"""For each of `DRAWS` a number in [0, 1) an image: [B], on the images' device."""
AugmentName: TypeAlias = Literal["none", "light", "standard", "strong"]
Transform: TypeAlias = Callable[[Tensor], Any]
"""One presized image, uint8 [3, H, W] -> tensor [3, h, w], uint8 or float in [0, 1]."""
Augment: TypeAlias = "AugmentName | Augmentation | Transform | None"


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What may happen to a training image; all of it in one resample and one colour transform.

    Of an elongated image a view sees one square, in which all of this happens. It may be anywhere
    along the image, and is more often near the middle.

    flip: probability of a left-right flip. min_window: smallest side of the random square window,
    as a fraction of the presized image's side; the largest is 1. rotate: degrees each way.
    warp: how much nearer one edge may come than the other, as a fraction. affine_probability: of
    rotation and warp. lighting: relative change of brightness and of contrast each way.
    lighting_probability: of both.

    >>> no_mirror = Augmentation(flip=0, rotate=5)  # digits, letters, traffic signs
    >>> no_mirror.min_window
    0.75
    """

    flip: float = 0.5
    min_window: float = 0.75
    rotate: float = 10.0
    warp: float = 0.1
    affine_probability: float = 0.75
    lighting: float = 0.2
    lighting_probability: float = 0.75

    def __post_init__(self) -> None:
        for name in ("flip", "affine_probability", "lighting_probability"):
            arguments.real_number(name, getattr(self, name), at_least=0, at_most=1)
        arguments.real_number("rotate", self.rotate, at_least=-360, at_most=360)
        arguments.real_number("min_window", self.min_window, above=0, at_most=1)
        arguments.real_number("lighting", self.lighting, at_least=0, below=1)
        arguments.real_number("warp", self.warp, at_least=0, below=0.5)


LIGHT = Augmentation(min_window=0.9, rotate=0.0, warp=0.0, lighting=0.1)
STANDARD = Augmentation()
STRONG = Augmentation(min_window=0.5, rotate=20.0, warp=0.2, lighting=0.4)
NAMED: dict[str, Augmentation | None] = {
    "none": None, "light": LIGHT, "standard": STANDARD, "strong": STRONG
}  # fmt: skip


def resolve(augment: Augment) -> Augmentation | Transform | None:
    """What a name stands for; anything else as it is.

    >>> resolve("light").min_window
    0.9
    """
    if isinstance(augment, str):
        if augment not in NAMED:
            hint = did_you_mean(augment, NAMED)
            raise ValueError(f"augment={augment!r} is no augmentation; {hint}")
        return NAMED[augment]
    if augment is None or isinstance(augment, Augmentation) or callable(augment):
        return augment
    raise TypeError(
        f"augment must be one of {', '.join(map(repr, NAMED))}, an Augmentation, None or a "
        f"function of an image, got {arguments.shown(augment)}"
    )


def for_channels(augment: Augment, channels: int) -> Augment:
    """The same, but what a name stands for leaves the values of bands alone that are no colours."""
    resolved = resolve(augment)
    if isinstance(augment, str) and channels not in (1, 3) and isinstance(resolved, Augmentation):
        return replace(resolved, lighting=0.0)
    return augment


def center_crop(images: Tensor | WholeImages, size: ImageSize, mean: Tensor, std: Tensor) -> Tensor:
    """The deterministic view: the middle of the presized image, normalised.

    images: uint8 [B, 3, H, W], or whole ones; mean, std: [3], in [0, 1]. Returns float32
    [B, 3, height, width] of `size`. Raises ValueError for images that are smaller.
    """
    if isinstance(images, WholeImages):
        images = images.middle_squares()
    height, width = height_and_width(size)
    rows, columns = images.shape[-2:]
    if rows < height or columns < width:
        raise ValueError(f"there is no middle of {in_pixels(size)} in images {list(images.shape)}")
    top, left = (rows - height) // 2, (columns - width) // 2
    view = images[:, :, top : top + height, left : left + width]
    return normalise(view.float().mul_(1 / 255), mean, std)


def augment(
    images: Tensor | WholeImages,
    draws: Draws,
    spec: Augmentation,
    size: ImageSize,
    mean: Tensor,
    std: Tensor,
) -> Tensor:
    """A random view, resampled once.

    images: uint8 [B, 3, H, W], or whole ones, of which each view sees a square, anywhere along the
    image. draws: see `draw_numbers`; mean, std: [3], in [0, 1]. Returns float32
    [B, 3, height, width] of `size`.
    """
    if isinstance(images, WholeImages):
        matrices = homographies(draws, spec)
        # to look at a transposed image with x and y exchanged costs less than to turn it
        exchanged = torch.cat([matrices[:, :2].flip(1), matrices[:, 2:]], dim=1)
        matrices = torch.where(images.is_transposed.view(-1, 1, 1), exchanged, matrices)
        # cubed: most views are near the middle, which is what validation sees
        places = (1 + _signed(draws["place"]) ** 3) / 2
        images = images.squares(places)
    else:
        rows, columns = images.shape[-2:]
        matrices = homographies(draws, spec, aspect=columns / rows)
    grid = _sampling_grid(matrices, *height_and_width(size))
    view = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    return _recolour(view, draws, spec, mean, std)


def draw_numbers(seed: int, view: int, indices: Tensor, device: torch.device) -> Draws:
    """The random numbers of these images in a view, on the device.

    indices: [B] int64 on the CPU, the examples' numbers in the data set.
    """
    numbers = uniforms(seed, "augment", view, indices, DRAWS)
    if device.type == "cuda":
        numbers = numbers.pin_memory().to(device, non_blocking=True)
    else:
        numbers = numbers.to(device)
    return dict(zip(DRAWS, numbers, strict=True))


def homographies(draws: Draws, spec: Augmentation, *, aspect: float = 1.0) -> Tensor:
    """Matrices [B, 3, 3] that take a point of the view to one of the image, both in [-1, 1]^2.

    aspect: width of the image by its height, for a rotation that leaves shapes as they are.
    """
    is_affine = (draws["affine"] < spec.affine_probability).float()
    window = spec.min_window + (1 - spec.min_window) * draws["window"]
    angle = _signed(draws["angle"]) * math.radians(spec.rotate) * is_affine
    mirror = 1 - 2 * (draws["flip"] < spec.flip).float()
    cos, sin = torch.cos(angle) * window, torch.sin(angle) * window
    # as far as the window stays inside of the image
    shift_x = _signed(draws["shift_x"]) * (1 - window)
    shift_y = _signed(draws["shift_y"]) * (1 - window)
    zeros, ones = torch.zeros_like(window), torch.ones_like(window)
    # a step in y is `aspect` times as short as one in x, whose unit is half the width
    sin_of_x, sin_of_y = sin * mirror * aspect, -sin / aspect
    similarity = torch.stack(
        [cos * mirror, sin_of_y, shift_x, sin_of_x, cos, shift_y, zeros, zeros, ones], dim=1
    )
    tilt_x = _signed(draws["tilt_x"]) * spec.warp * is_affine
    tilt_y = _signed(draws["tilt_y"]) * spec.warp * is_affine
    tilt = torch.stack([ones, zeros, zeros, zeros, ones, zeros, tilt_x, tilt_y, ones], dim=1)
    return similarity.view(-1, 3, 3) @ tilt.view(-1, 3, 3)


def _signed(draw: Tensor) -> Tensor:
    """[0, 1) to [-1, 1)."""
    return draw * 2 - 1


def _sampling_grid(matrices: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel of the view looks in the image: [B, height, width, 2]."""
    xs, ys = _pixel_centres(width, like=matrices), _pixel_centres(height, like=matrices)
    of_x, of_y, constant = matrices[..., None, None].unbind(2)
    # row by row, 8 times as fast as a product with [B, height * width, 3] points
    points = of_x * xs + (of_y * ys[:, None] + constant)  # [B, 3, height, width]
    # x and y stay in planes of their own, which both division and grid_sample read faster
    return points[:, :2].div_(points[:, 2:]).permute(0, 2, 3, 1)


def _pixel_centres(count: int, *, like: Tensor) -> Tensor:
    """The centres of so many pixels side by side, in [-1, 1]: [count]."""
    # with the numbers' own type, which need not be torch's default
    numbers = torch.arange(count, dtype=like.dtype, device=like.device)
    return (numbers * 2 + 1) / count - 1


def _recolour(view: Tensor, draws: Draws, spec: Augmentation, mean: Tensor, std: Tensor) -> Tensor:
    """Brightness, contrast and normalisation as one multiply-add and two limits, in place.

    view: [B, 3, h, w] in [0, 255].
    """
    is_lit = (draws["lit"] < spec.lighting_probability).float()
    brightness = 1 + _signed(draws["brightness"]) * spec.lighting * is_lit
    contrast = 1 + _signed(draws["contrast"]) * spec.lighting * is_lit
    grey = view.mean(dim=(2, 3)).mean(dim=1) / 255  # one sum would be shared by threads for B = 1
    scale = (brightness * contrast / 255).view(-1, 1)
    offset = (grey * brightness * (1 - contrast)).view(-1, 1)
    # normalised beforehand, because every pass over all pixels counts
    scale, offset = scale / std, (offset - mean) / std
    black, white = -mean / std, (1 - mean) / std
    view.mul_(_of_channels(scale)).add_(_of_channels(offset))
    # clamp_ with tensors as limits takes three times as long
    torch.maximum(view, _of_channels(black), out=view)
    return torch.minimum(view, _of_channels(white), out=view)


def _of_channels(numbers: Tensor) -> Tensor:
    """[B, C] or [C] as [B, C, 1, 1] or [C, 1, 1], for all pixels of an image."""
    return numbers[..., None, None]


def normalise(view: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """In place: [B, C, h, w] in [0, 1] -> what the backbone expects. mean, std: [C]."""
    return view.sub_(_of_channels(mean)).div_(_of_channels(std))
