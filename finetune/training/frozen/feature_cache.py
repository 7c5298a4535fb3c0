"""The frozen prefix of a model runs once a view; what follows trains on its kept outputs."""

import random
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from finetune import distributed
from finetune.data.loaders import Batch, Batches, DataLoaders, IndexedLoader
from finetune.data.memory import memory_bytes
from finetune.randomness import isolated, seed_everything
from finetune.training.events import Precompute
from finetune.training.frozen.prefix import Prefix, Suffix
from finetune.training.phase import Phase
from finetune.training.runtime.folding import FoldedNorms, results_of, same_results
from finetune.training.runtime.modules import eval_mode
from finetune.training.setup import Setup, folded_norms

FRACTION = 0.125
"""Share of the machine's memory that the features of one phase may take."""

Autocast: TypeAlias = Callable[[], AbstractContextManager[object]]


def find_suffix(model: nn.Module, images: Tensor, autocast: Autocast) -> Suffix | None:
    """What may train on kept features; None where the results would not be those of the model.

    model: with the modes and flags of training; it is left as it was. images: [N, ...], some to
    try it on. autocast: what goes around a forward pass.
    """
    with _untouched(model), torch.no_grad():
        try:
            with autocast():
                suffix = Suffix.find(model, images[[0, -1]])
            if suffix is None:
                return None
            # one more than was watched: a size that has nothing to do with their number shows
            return suffix if _is_proven(suffix, images[[0, -1, 0]], autocast) else None
        except Exception:  # NaN that is changed in place, no room: all will run in every step
            return None


def _is_proven(suffix: Suffix, images: Tensor, autocast: Autocast) -> bool:
    """Outputs and gradients are those of the whole model, and features are always the same."""
    whole = FoldedNorms([])
    with suffix.active():
        with eval_mode(suffix.model):
            with autocast():
                features = suffix.prefix(images)
            with autocast():  # each by itself, since autocast keeps weights that it converted
                expected = results_of(suffix.model, images, whole)
            with autocast():
                found = results_of(suffix, features, whole)
        if not same_results(expected, found):
            return False
        seed_everything(0, "prefix")
        undrawn = _next_numbers(images.device)
        seed_everything(0, "prefix")
        with autocast():
            again = suffix.prefix(images)
        if _next_numbers(images.device) != undrawn or not torch.equal(features, again):
            return False
        with autocast():  # in train mode, too, nothing may go round the boundary
            outputs = tree_leaves(suffix(features))
    return not any(isinstance(o, Tensor) and bool(o.isnan().any()) for o in outputs)


def _next_numbers(device: torch.device) -> list[float]:
    """Of the generators that dropout may draw from."""
    on_device, on_cpu = torch.rand((), device=device), torch.rand(())
    return [float(on_device), float(on_cpu), random.random(), float(np.random.rand())]


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Buffers and random generators are as before on leaving: copies stand in for the buffers."""
    buffers = [
        (owner._buffers, name, buffer)
        for owner in model.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    with isolated():
        try:
            for own, name, buffer in buffers:
                own[name] = buffer.clone()
            yield
        finally:
            for own, name, buffer in buffers:
                own[name] = buffer


@dataclass(slots=True)
class FeatureLoader:
    """The order of a loader, with features [N, ...] in place of its images."""

    loader: IndexedLoader
    kept: Callable[[int], Batch]  # all examples of an epoch, by its number

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Batches:
        kept = self.kept(epoch)
        for numbers in self.loader.order(seed, epoch)[start:]:
            yield Batch(kept.inputs[numbers], kept.targets[numbers], numbers)


class FeatureCache:
    """The features of one phase: `fill` before each epoch, then train with `setup`.

    setup: the whole one, but its model is what trains, and its data are features; torch.compile
    can't follow that model, which runs as it is. first: the number of the phase's first epoch. Make
    one with `create`, and do both inside `suffix.active()`.
    """

    def __init__(
        self,
        whole: Setup,
        suffix: Suffix,
        train: IndexedLoader,
        valid: IndexedLoader | None,
        phase: Phase,
        first: int,
    ) -> None:
        self.whole, self.suffix, self.train, self.valid = whole, suffix, train, valid
        self.phase, self.first = phase, first
        self._folded: FoldedNorms | None = None  # what the first images show
        self.views = min(phase.views or phase.epochs, phase.epochs)
        # small enough for a processor's cache, large enough to keep a graphics card busy
        self._chunk = 32 if whole.runtime.device.type == "cpu" else 256
        kept: dict[int | None, Batch] = {}  # by view
        kept_valid: dict[None, Batch] = {}
        self._kept, self._kept_valid = kept, kept_valid
        loaders = (  # they know what is kept, not this object, which would then keep itself alive
            FeatureLoader(train, lambda number: kept[phase.view(number - first, first)]),
            None if valid is None else FeatureLoader(valid, lambda _: kept_valid[None]),
        )
        own = whole.data
        data = DataLoaders(*loaders, seed=own.seed, classes=own.classes, task=own.task)
        runtime = replace(whole.runtime, compile=False)
        # what is kept is of whole images: a mixture of features is none of a mixture of images
        settings = replace(whole.settings, mixup=0.0, cutmix=0.0)
        self.setup = replace(whole, model=suffix, data=data, runtime=runtime, settings=settings)

    @classmethod
    def create(cls, setup: Setup, phase: Phase, first: int) -> "FeatureCache | None":
        """None where no prefix is frozen, the images have no numbers, or there is no room."""
        train, valid = setup.data.train, setup.data.valid
        if not isinstance(train, IndexedLoader):
            return None
        if valid is not None and not isinstance(valid, IndexedLoader):
            return None
        distributed.share_weights(setup.model)
        suffix = _find_suffix_for(setup, train)
        cache = None if suffix is None else cls(setup, suffix, train, valid, phase, first)
        # a fixed limit: what a plan is like must not depend on what else is kept at the moment
        refused = cache is None or cache.bytes > FRACTION * memory_bytes()
        # processes must agree, or they would wait for each other in different places
        return None if distributed.any_process(refused, setup.runtime.device) else cache

    @property
    def bytes(self) -> int:
        """Of all features that are kept at a time."""
        views = 1 if self.phase.views is None else self.views
        valid = 0 if self.valid is None else len(self.valid.targets)
        return 4 * self.suffix.features.shape.numel() * (views * len(self.train.targets) + valid)

    def fill(self, number: int) -> Generator[Precompute, None, None]:
        """Makes sure that the features of epoch `number` are there, and those for validation."""
        epoch = number - self.first
        view = self.phase.view(epoch, self.first)
        if view not in self._kept:
            if self.phase.views is None:
                self._kept.clear()  # another epoch's, which will not come again
            self._kept[view] = yield from self._run_all(self.train, view, epoch % self.views + 1)
        if self.valid is not None and not self._kept_valid:
            self._kept_valid[None] = yield from self._run_all(self.valid, None, None)

    def _run_all(
        self, loader: IndexedLoader, view: int | None, position: int | None
    ) -> Generator[Precompute, None, Batch]:
        """Features and targets of all examples, by number."""
        self._folded = None  # a callback may have changed the frozen layers meanwhile
        count, done = len(loader.targets), 0
        rank, world = distributed.rank(), distributed.world_size()
        parts = torch.split(torch.arange(count), self._chunk * world)
        # a process without a share in a short last part runs one image for nothing
        shares = [part[rank::world] if rank < len(part) else part[:1] for part in parts]
        found: list[Tensor] = []
        with closing(loader.fetch(shares)) as batches:
            for part, raw in zip(parts, batches, strict=True):
                batch = self._run(raw, view)
                values = (batch.inputs.float(), batch.targets)
                found = found or [torch.empty(count, *v.shape[1:], dtype=v.dtype) for v in values]
                for kept, own in zip(found, values, strict=True):
                    kept[part] = distributed.interleaved(own, len(part)).cpu()
                done += len(part)
                yield Precompute(self.phase.name, position, self.views, done, count)
        return Batch(*found)

    @torch.no_grad()
    def _run(self, raw: Batch, view: int | None) -> Batch:
        batch = self.whole.data.prepare(raw.to(self.whole.runtime.device), view)
        if self._folded is None:
            prefix = replace(self.whole, model=Prefix(self.suffix))
            self._folded = folded_norms(prefix, batch.inputs, training=False)
        with self.whole.runtime.autocast(), self._folded.active():
            return replace(batch, inputs=self.suffix.prefix(batch.inputs))


def _find_suffix_for(setup: Setup, train: IndexedLoader) -> Suffix | None:
    """Tried on the first images."""
    numbers = torch.arange(min(2, len(train.targets)))
    with closing(train.fetch([numbers])) as batches:
        raw = next(batches).to(setup.runtime.device)
    images = setup.data.prepare(raw, None).inputs
    if not isinstance(images, Tensor):
        return None
    return find_suffix(setup.model, images, setup.runtime.autocast)
