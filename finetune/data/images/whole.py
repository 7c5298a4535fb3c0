"""WholeImages: a batch of presized images that have their ends yet, from which views are made."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from finetune.data.images.rows import ImageRows


@dataclass(frozen=True, slots=True, eq=False)
class WholeImages:
    """B images as they lie in the rows of `ImageRows`, on any device.

    pixels: uint8 [B, 3, M + S + M, S] in channels-last layout. sizes: int64 [B, 2], the height and
    the width of each image.
    """

    pixels: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, images: ImageRows) -> "WholeImages":
        """The same images as tensors."""
        sizes = torch.from_numpy(images.sizes.astype(np.int64))
        return cls(torch.from_numpy(images.pixels).permute(0, 3, 1, 2), sizes)

    @property
    def side(self) -> int:
        """S, the short side of every image."""
        return self.pixels.shape[3]

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    @property
    def is_transposed(self) -> Tensor:
        """Which images are wide and lie transposed in their rows, bool [B]."""
        return self.sizes[:, 1] > self.sizes[:, 0]

    def squares(self, places: Tensor) -> Tensor:
        """A square of each image, as it lies in its row: uint8 [B, 3, S, S].

        places: [B], where the square is: 0 is the upper or left end of the image, 1 the other.
        """
        count, channels, length, side = self.pixels.shape
        if length == side:
            return self.pixels
        excess = self.sizes.amax(dim=1) - side
        offsets = (length - side - excess) // 2 + (places * excess).round().long()
        # lines of pixels are copied whole, which takes a fiftieth of the time of the resampling
        lines = self.pixels.permute(0, 2, 3, 1).reshape(count * length, side * channels)
        first = torch.arange(count, device=offsets.device) * length + offsets
        numbers = first[:, None] + torch.arange(side, device=offsets.device)
        squares = lines.index_select(0, numbers.flatten())
        return squares.view(count, side, side, channels).permute(0, 3, 1, 2)

    def middle_squares(self) -> Tensor:
        """The middle square of each image, upright: uint8 [B, 3, S, S]."""
        length, side = self.pixels.shape[2:]
        margin = (length - side) // 2
        squares = self.pixels[:, :, margin : margin + side]
        if length == side:  # none of the images is elongated
            return squares
        return torch.where(self.is_transposed.view(-1, 1, 1, 1), squares.transpose(2, 3), squares)
