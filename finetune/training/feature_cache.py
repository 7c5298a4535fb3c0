"""The frozen prefix of a model runs once a view; what follows trains on its kept outputs."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune import distributed
from finetune.data.loaders import Batch, Batches, DataLoaders, IndexedLoader
from finetune.data.memory import memory_bytes
from finetune.training.events import Precompute
from finetune.training.plan import Phase
from finetune.training.step import Setup, forward

FRACTION = 0.125
"""Share of the machine's memory that the features of one phase may take."""


def split_frozen(model: nn.Module) -> tuple[nn.Sequential, nn.Sequential] | None:
    """(what gives the same output whatever is trained, the rest), None if there is no such prefix.

    A prefix ends where a `Sequential` goes from one child to the next, nested ones included, before
    the first parameter that trains and the first module in train mode.
    """
    layers = list(_chain(model))
    frozen = list(takewhile(_is_constant, layers))
    worthwhile = any(True for layer in frozen for _ in layer.parameters())
    if not worthwhile or len(frozen) == len(layers):
        return None
    return nn.Sequential(*frozen), nn.Sequential(*layers[len(frozen) :])


def _chain(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that are called one after the other, each with the output of the last."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    bare = not any(hooks) and not module._backward_pre_hooks and "forward" not in vars(module)
    if type(module).forward is nn.Sequential.forward and bare:
        for child in module._modules.values():  # children() leaves out what comes again
            assert child is not None
            yield from _chain(child)
    else:
        yield module


def _is_constant(module: nn.Module) -> bool:
    """Whether a picture's output depends on the picture only."""
    trains = any(parameter.requires_grad for parameter in module.parameters())
    return not trains and not any(map(_depends_on_more, module.modules()))


def _depends_on_more(part: nn.Module) -> bool:
    without_statistics = isinstance(part, _BatchNorm) and part.running_mean is None
    return part.training or without_statistics


@dataclass(slots=True)
class FeatureLoader:
    """The order of a loader, with features [N, ...] in place of its pictures."""

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

    setup: the whole one, but its model is what trains, and its data are features. first: the
    number of the phase's first epoch. Make one with `create`.
    """

    def __init__(
        self,
        whole: Setup,
        parts: tuple[nn.Sequential, nn.Sequential],
        train: IndexedLoader,
        valid: IndexedLoader | None,
        phase: Phase,
        first: int,
    ) -> None:
        self.whole, self.train, self.valid, self.phase, self.first = (
            whole, train, valid, phase, first,
        )  # fmt: skip
        self.prefix, suffix = parts
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
        data = DataLoaders(*loaders, seed=whole.data.seed, classes=whole.data.classes)
        self.setup = replace(whole, model=suffix, data=data)

    @classmethod
    def create(cls, setup: Setup, phase: Phase, first: int) -> "FeatureCache | None":
        """None where no prefix is frozen, the pictures have no numbers, or there is no room."""
        train, valid = setup.data.train, setup.data.valid
        parts = split_frozen(setup.model)
        if parts is None or not isinstance(train, IndexedLoader):
            return None
        if valid is not None and not isinstance(valid, IndexedLoader):
            return None
        distributed.share_weights(parts[0])
        cache = cls(setup, parts, train, valid, phase, first)
        views = 1 if phase.views is None else cache.views
        count = views * len(train.targets) + (0 if valid is None else len(valid.targets))
        size = cache._bytes_of_one()
        # a fixed limit: what a plan is like must not depend on what else is kept at the moment
        refused = size is None or size * count > FRACTION * memory_bytes()
        # processes must agree, or they would wait for each other in different places
        return None if distributed.any_process(refused, setup.runtime.device) else cache

    def _bytes_of_one(self) -> int | None:
        """Of one picture's features; None if they are no tensor with a row for each picture."""
        numbers = torch.arange(min(2, len(self.train.targets)))
        with closing(self.train.fetch([numbers])) as batches:
            features = self._run(next(batches), None).inputs
        if not isinstance(features, Tensor) or len(features) != len(numbers):
            return None
        return 4 * features[0].numel()

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
        count, done = len(loader.targets), 0
        rank, world = distributed.rank(), distributed.world_size()
        parts = torch.split(torch.arange(count), self._chunk * world)
        # a process without a share in a short last part runs one picture for nothing
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
        with self.whole.runtime.computing():
            return replace(batch, inputs=forward(self.prefix, batch.inputs))
