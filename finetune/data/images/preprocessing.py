"""Preprocessing: how an image becomes the backbone's input, alike in training and prediction."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune import arguments
from finetune.data.images.augment import center_crop
from finetune.data.images.decode import read_bands, read_image
from finetune.data.images.opening import ImageSource
from finetune.data.images.resize import RESIZE_METHODS, Resize, presize, presize_whole, whole_size
from finetune.data.images.rows import Presized, margin_of
from finetune.data.images.value_range import Depth, Windows, checked_value_range, has_windows
from finetune.data.images.whole import WholeImages
from finetune.image_size import ImageSize, height_and_width, is_square, size_of_sides
from finetune.models.channels import of_channels

_DERIVED = ("presized_side", "steps")
"""Keys of `Preprocessing.to_dict` which follow from the other keys."""


def _checked_range(value_range: Any, channels: int) -> Windows | Depth | None:
    if isinstance(value_range, int):
        return arguments.whole_number("value_range", value_range, at_least=1, at_most=64)
    return checked_value_range(value_range, channels)


# kept, because a copy to a device for every batch would make the host wait
@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


# kept, because it is asked for with every image
@lru_cache(maxsize=16)
def _presized_size(image_size: ImageSize, crop_fraction: float) -> ImageSize:
    height, width = height_and_width(image_size)
    return size_of_sides(_with_margins(height, crop_fraction), _with_margins(width, crop_fraction))


def _with_margins(side: int, crop_fraction: float) -> int:
    return side + 2 * round((side / crop_fraction - side) / 2)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The deterministic steps from an image to the model's input.

    image_size: side of the model's input in pixels, or (height, width). resize: how an image gets
    that shape, see `presize`. crop_fraction: sides of the input as a fraction of the presized
    image's. channels: of the images, see `read_bands`. mean,
    std: for each channel, of pixel values in [0, 1], as in the backbone's training; or for red,
    green and blue, of which other numbers of channels take theirs in turn, as timm does with the
    weights of the first layer, and a single one takes the mean. value_range:
    the values that are black and white in images of more than 8 bits, or such a pair for each
    channel, or how many bits of integers are used, as the training images showed; None: see
    `read_image`.
    """

    image_size: ImageSize
    resize: Resize = "crop"
    crop_fraction: float = 0.875
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    value_range: Windows | Depth | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        size = arguments.image_size("image_size", self.image_size)
        object.__setattr__(self, "image_size", size)
        arguments.choice("resize", self.resize, RESIZE_METHODS)
        arguments.whole_number("channels", self.channels, at_least=1)
        value_range = _checked_range(self.value_range, self.channels)
        object.__setattr__(self, "value_range", value_range)
        object.__setattr__(self, "mean", of_channels(self.mean, self.channels))
        object.__setattr__(self, "std", of_channels(self.std, self.channels))
        arguments.real_number("crop_fraction", self.crop_fraction, at_least=0.1, at_most=1)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the model's input."""
        return (self.channels, *height_and_width(self.image_size))

    @property
    def presized_size(self) -> ImageSize:
        """Size of the presized image.

        It has the same margin on opposite sides, in whole pixels, so that its middle can be cropped
        without resampling.
        """
        return _presized_size(self.image_size, self.crop_fraction)

    def without_normalisation(self) -> "Preprocessing":
        """The same steps with the default mean and std.

        Presized images do not depend on mean and std, so all backbones can share a cache of them.
        """
        return Preprocessing(
            self.image_size,
            self.resize,
            self.crop_fraction,
            value_range=self.value_range,
            channels=self.channels,
        )

    def are_presized(self, inputs: Any) -> bool:
        """Whether the inputs are images that are still to be cropped and normalised.

        Inputs that are not uint8 are ready for the model. Raises ValueError for uint8 images that
        have neither the presized side nor the model's.
        """
        if isinstance(inputs, WholeImages):
            if inputs.side == self.presized_size:
                return True
            inputs = inputs.pixels
        if not isinstance(inputs, Tensor) or inputs.dtype != torch.uint8:
            return False
        presized_shape = (self.channels, *height_and_width(self.presized_size))
        if tuple(inputs.shape[1:]) not in (presized_shape, self.input_shape):
            expected = ", ".join(map(str, self.input_shape))
            raise ValueError(
                f"images in uint8 must be [B, {expected}], got {list(inputs.shape)}; others must "
                "be ready for the model, in float"
            )
        return True

    @property
    def margin(self) -> int:
        """Pixels that may be kept beyond either end of the middle square of an elongated image.

        0 where the whole image becomes a square, and where the model's input is none.
        """
        side = self.presized_size
        return margin_of(side) if self.resize == "crop" and isinstance(side, int) else 0

    def presize(self, source: ImageSource, margin: int = 0) -> np.ndarray:
        """Decodes and presizes an image: uint8 [height, width, channels] of `presized_size`.

        margin: keeps so many pixels beyond either end of the middle square, if the image has them;
        the smaller of height and width is the square's side then. Raises ImageError for an image
        that can't be read.
        """
        presized = []
        size = self.presized_size
        for image in self._read(source):
            if margin:
                assert isinstance(size, int)
                presized.append(presize_whole(image, size, margin))
            else:
                presized.append(presize(image, size, self.resize))
        return self._together(presized)

    def presize_middle(self, source: ImageSource, margin: int) -> Presized:
        """The middle square of what `presize` gives for a margin, and the size of the whole."""
        images, side = self._read(source), self.presized_size
        assert isinstance(side, int)
        middles = [presize(image, side) for image in images]
        return self._together(middles), whole_size(images[0], side, margin)

    def _together(self, presized: list[np.ndarray]) -> np.ndarray:
        """What `_read` gave, in one array: uint8 [height, width, channels]."""
        return presized[0] if self.channels == 3 else np.stack(presized, axis=-1)

    def _read(self, source: ImageSource) -> list[Image.Image]:
        """One image in colour, or a grey one for each channel."""
        if self.channels != 3:
            return read_bands(source, self.channels, value_range=self.value_range)
        # JPEG's own scaling is coarse, so it stops at twice the side; `presize` does the rest
        min_side = 2 * max(height_and_width(self.presized_size))
        return [read_image(source, min_side=min_side, value_range=self.value_range)]

    def normalisation(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std on the device, float32 [channels] each."""
        return _constant(self.mean, device), _constant(self.std, device)

    def inputs(self, sources: Sequence[ImageSource], device: torch.device) -> Tensor:
        """Images of any kind as model input: float32 [B, *input_shape].

        Raises ImageError for an image that can't be read.
        """
        num_workers = min(8, os.cpu_count() or 1, max(len(sources), 1))
        with ThreadPoolExecutor(num_workers) as threads:
            presized = list(threads.map(self.presize, sources))
        images = torch.from_numpy(np.stack(presized))
        images = images.to(device).permute(0, 3, 1, 2)
        return center_crop(images, self.image_size, *self.normalisation(device))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `from_dict` makes the same object again.

        For other programs there are also the size of the presized image and every step in words.
        """
        fields = asdict(self)
        if self.value_range is None:
            del fields["value_range"]  # so that older versions can read it
        if self.channels == 3:
            del fields["channels"]
        return {**fields, "presized_side": self.presized_size, "steps": self.steps()}

    def steps(self) -> list[str]:
        """The steps from a file to the model's input, in words; sizes in pixels."""
        rows, columns = height_and_width(self.presized_size)
        height, width = height_and_width(self.image_size)
        return [
            "decode; a JPEG at 1/2, 1/4 or 1/8 of its size where both sides stay at least "
            f"{2 * max(rows, columns)} (PIL: draft)",
            f"turn upright as EXIF says; {self._depth_in_words()}; {self._channels_in_words()}",
            f"resize to {rows} x {columns}: {self._resize_in_words()}; bilinear with antialiasing "
            "(PIL: BILINEAR)",
            f"crop the middle {height} x {width}",
            f"divide by 255: {'RGB in ' if self.channels == 3 else ''}[0, 1], float32 [batch, "
            f"{self.channels}, {height}, {width}]",
            "normalise each channel: (value - mean) / std",
        ]

    def _depth_in_words(self) -> str:
        if self.value_range is None:
            return "16-bit values to 8 bits"
        if isinstance(self.value_range, int):
            return f"the upper 8 of {self.value_range} bits, in integers of more than 8"
        if not has_windows(self.value_range):
            window = "from {:g} (black) to {:g} (white)".format(*self.value_range)
            return f"values of more than 8 bits {window} to 8 bits"
        windows = ", ".join("{:g} to {:g}".format(*window) for window in self.value_range)
        return f"values of more than 8 bits, channel by channel from {windows}, to 8 bits"

    def _channels_in_words(self) -> str:
        if self.channels == 3:
            return "transparent parts on white; RGB"
        if self.channels == 1:
            return "transparent parts on white; grey"
        return f"{self.channels} channels as they are"

    def _resize_in_words(self) -> str:
        side = self.presized_size
        if is_square(side):
            return {
                "crop": f"the shorter side becomes {side}, the middle of the longer one stays",
                "squish": f"both sides become {side}",
                "pad": f"the longer side becomes {side}, the rest black",
            }[self.resize]
        return {
            "crop": "it covers all of that, the middle of what reaches beyond stays",
            "squish": "whatever shape it had",
            "pad": "as large as fits in there, the rest black",
        }[self.resize]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Preprocessing":
        """The preprocessing from the data that `to_dict` gives.

        Raises TypeError for a key that is unknown.
        """
        fields = {name: value for name, value in data.items() if name not in _DERIVED}
        # JSON has lists and knows no difference between 1 and 1.0
        fields["mean"] = tuple(map(float, fields["mean"]))
        fields["std"] = tuple(map(float, fields["std"]))
        return cls(**fields)
