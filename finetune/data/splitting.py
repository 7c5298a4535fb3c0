"""The random split: on which side an example is depends on its identity, its class and the seed.

An example's identity is what its owner calls it: the path of its file below the folder of the data
set, or else its row. It is hashed, together with the seed, to a number in [0, 1), and those below
`valid_fraction` are for validation. So an example that is added later, or left out, moves no other
one from validation to training, and a model that is trained again on grown data is not validated on
images that an earlier one was trained on.

The price is that the share is met on average only, like heads in tosses of a coin. A bound keeps
small classes from having bad luck: each holds out at least half and at most one and a half times
its share. Where a class meets the bound, the limit for its numbers is moved as little as possible,
and then, rarely, an added example moves another one.
"""

import math
import os
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.data.images.dataset_images import DatasetImages
from finetune.data.images.decode import ImageSource
from finetune.files.names import shared_folder
from finetune.randomness import uniforms

_LEAST_SHARE, _LARGEST_SHARE = 0.5, 1.5
"""How much a class holds out, as multiples of `valid_fraction` times its size."""


def identities_of(items: Sequence[ImageSource], root: str | Path | None = None) -> list[str]:
    """What the images are called: their paths below `root`, or else their positions.

    root: None takes the folder that all files are in, so that data which are copied elsewhere are
    split as before. Two spellings of one path are one identity.

    >>> identities_of(["photos/a/1.jpg", "photos/./b.jpg"], "photos")
    ['a/1.jpg', 'b.jpg']
    """
    if isinstance(items, DatasetImages):
        return list(map(str, items.identities))
    if not isinstance(items, list | tuple):  # an array or a tensor of images
        return list(map(str, range(len(items))))
    identities = [str(item) if isinstance(item, str | Path) else "" for item in items]
    if not _are_plain(identities):
        identities = [_spelling(path) if path else "" for path in identities]
    if root is None:
        prefix = shared_folder([path for path in identities if path])
    else:
        prefix = os.path.join(_spelling(str(root)), "")
    for position, path in enumerate(identities):
        identities[position] = path.removeprefix(prefix) or str(position)
    return identities


def _are_plain(paths: Sequence[str]) -> bool:
    """Whether none of the paths has another spelling. To look at all at once is fast."""
    text = "\n".join(paths)
    return os.sep == "/" and text.isascii() and "//" not in text and "./" not in text


def _spelling(path: str) -> str:
    """The one spelling of a path, with slashes."""
    path = os.path.normpath(path).replace(os.sep, "/")
    # a Mac writes letters with accents in another way than other systems
    return unicodedata.normalize("NFC", path)


def held_out(
    identities: Sequence[str], strata: Sequence[Tensor], valid_fraction: float, seed: int
) -> Tensor:
    """Which examples are for validation, bool [N].

    identities: of the N examples; those that are the same are on the same side. strata: positions
    of the examples of each class, int64; each holds out its share. A stratum keeps an example for
    training, and has one for validation if it has two that differ. valid_fraction: in (0, 1).
    """
    hashes = np.fromiter(map(_hash, identities), np.int64, len(identities))
    (numbers,) = uniforms(seed, "split", 0, torch.from_numpy(hashes), ["valid"]).numpy()
    limits = np.zeros(len(identities), numbers.dtype)
    for members in strata:
        positions = members.numpy()
        limits[positions] = _limit(numbers[positions], valid_fraction)
    is_held_out = numbers < limits
    # an image in two classes with different limits may be on both sides: then it is for training
    between = np.flatnonzero((limits.min() <= numbers) & (numbers < limits.max()))
    trained = hashes[between[~is_held_out[between]]]
    is_held_out[between] &= ~np.isin(hashes[between], trained)
    return torch.from_numpy(is_held_out)


def _hash(identity: str) -> int:
    # names of files need not be UTF-8; Python keeps such bytes as surrogates
    return zlib.crc32(identity.encode("utf-8", "surrogatepass"))


def _limit(numbers: np.ndarray, valid_fraction: float) -> float:
    """The number below which the examples of a class are held out. numbers: [M], in [0, 1)."""
    share = valid_fraction * len(numbers)
    most = min(max(math.floor(_LARGEST_SHARE * share), 1), len(numbers) - 1)
    fewest = min(math.ceil(_LEAST_SHARE * share), most)
    count = int((numbers < valid_fraction).sum())
    if fewest <= count <= most:
        return valid_fraction
    if most <= 0:  # a lone example is for training
        return 0.0
    count = min(max(count, fewest), most)
    ordered = np.sort(numbers)
    smallest, limit = float(ordered[0]), float(ordered[count])
    if limit > smallest:
        return limit
    # the first ones are one image, which can't be divided
    larger = ordered[ordered > smallest]
    return float(larger[0]) if len(larger) else 0.0
