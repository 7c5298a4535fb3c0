"""Stateless randomness: every random decision is a pure function of (seed, purpose, index)."""

import hashlib
import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune import turns


def key(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit integer that depends on all arguments and on nothing else.

    >>> key(0, "shuffle", 3) == key(0, "shuffle", 3)
    True
    >>> key(0, "shuffle", 3) == key(0, "shuffle", 4)
    False
    """
    # doubled slashes: no purpose can be mistaken for a shorter one with an index behind it
    escaped_purpose = purpose.replace("/", "//")
    text = "/".join(map(str, (seed, escaped_purpose, *index)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


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
    # the highest 24 bits are as many as a float32 holds exactly
    highest_bits = (z >> np.uint64(40)).astype(np.float32)
    return torch.from_numpy(highest_bits / np.float32(1 << 24))


def seed_everything(seed: int, purpose: str, *index: int) -> None:
    """Seeds the global generators of torch, numpy and Python, for code that takes no generator.

    Dropout draws from torch's; a user's data set may draw from any of them. Call it inside of
    `isolated`.
    """
    value = key(seed, purpose, *index)
    # not torch.manual_seed, which formats a stack trace at each call
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)


@dataclass(frozen=True, slots=True)
class _GeneratorState:
    """The state of every global generator; None for devices that are not in use."""

    python: tuple[Any, ...]
    numpy: Any
    cpu: Tensor
    mps: Tensor | None
    cuda: list[Tensor] | None

    @classmethod
    def now(cls) -> "_GeneratorState":
        mps: Tensor | None = None
        if torch.backends.mps.is_available():
            mps = torch.mps.get_rng_state()
        cuda: list[Tensor] | None = None
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            cuda = torch.cuda.get_rng_state_all()
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), mps, cuda)

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.mps is not None:
            torch.mps.set_rng_state(self.mps)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)


# by the number of each thread that is inside of `isolated`, what it will restore last
_states_to_restore: dict[int, _GeneratorState] = {}

if hasattr(os, "register_at_fork"):
    # a forked process has none of these threads
    os.register_at_fork(after_in_child=_states_to_restore.clear)


@contextmanager
def isolated() -> Iterator[None]:
    """Restores the global generators of torch (every device), numpy and Python on leaving.

    Blocks of several threads that overlap restore what was before the first of them.

    >>> torch.manual_seed(3) and None
    >>> with isolated():
    ...     seed_everything(0, "step", 7)
    >>> float(torch.rand(())) == float(torch.rand((), generator=torch.Generator().manual_seed(3)))
    True
    """
    thread = threading.get_ident()
    is_outermost = thread not in _states_to_restore
    with turns.alone():
        if is_outermost and _states_to_restore:
            # the present state is that of another thread's work
            state = next(iter(_states_to_restore.values()))
        else:
            state = _GeneratorState.now()
        if is_outermost:
            _states_to_restore[thread] = state
    try:
        yield
    finally:
        # not while a step in another thread draws
        with turns.alone():
            state.restore()
            if is_outermost:
                _states_to_restore.pop(thread, None)
