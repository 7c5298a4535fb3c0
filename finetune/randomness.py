"""Stateless randomness: every random decision is a pure function of (seed, purpose, index)."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def key(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit integer that depends on all arguments and on nothing else.

    >>> key(0, "shuffle", 3) == key(0, "shuffle", 3)
    True
    >>> key(0, "shuffle", 3) == key(0, "shuffle", 4)
    False
    """
    text = "/".join(map(str, (seed, purpose.replace("/", "//"), *index)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A fresh CPU generator for one decision, for instance the order of one epoch.

    >>> a, b = generator(0, "shuffle", 1), generator(0, "shuffle", 1)
    >>> torch.equal(torch.randperm(9, generator=a), torch.randperm(9, generator=b))
    True
    """
    return torch.Generator().manual_seed(key(seed, purpose, *index))


def uniforms(seed: int, purpose: str, epoch: int, indices: Tensor, names: Sequence[str]) -> Tensor:
    """A number in [0, 1) for each name and example, whatever batch or worker the example is in.

    Each is keyed by its name, so that a new name, or another order, changes no other number.

    indices: [B] int64, the examples' numbers in the data set. Returns float32 [names, B] on the
    CPU.
    Source: the SplitMix64 generator in counter mode (Steele, Lea, Flood 2014).

    >>> flips, angles = uniforms(0, "augment", 2, torch.arange(8), ["flip", "angle"])
    >>> torch.equal(angles[5:], uniforms(0, "augment", 2, torch.arange(5, 8), ["angle"])[0])
    True
    """
    keys = [key(seed, f"{purpose}.{name}", epoch) for name in names]
    start = np.array(keys, dtype=np.uint64)[:, None]
    counter = indices.numpy().astype(np.uint64) + np.uint64(1)
    z: np.ndarray = start + counter * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24))


def seed_everything(seed: int, purpose: str, *index: int) -> None:
    """Sets the global generators of torch, numpy and Python: for code that takes no generator.

    Dropout draws from torch's, a user's data set may draw from any. Call it inside `isolated`.
    """
    value = key(seed, purpose, *index)
    torch.default_generator.manual_seed(value)  # torch.manual_seed formats a stack trace each time
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)


@contextmanager
def isolated() -> Iterator[None]:
    """Puts the global generators of torch (every device), numpy and Python back on leaving.

    >>> torch.manual_seed(3) and None
    >>> with isolated():
    ...     seed_everything(0, "step", 7)
    >>> float(torch.rand(())) == float(torch.rand((), generator=torch.Generator().manual_seed(3)))
    True
    """
    python, numpy_, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_)
        torch.set_rng_state(cpu)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
