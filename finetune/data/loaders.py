"""Batch and DataLoaders: what a Learner trains on, whatever the data is.

An `EpochLoader` gives the batches of epoch e from any batch on, as a pure function of (seed, e).
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from finetune.randomness import key, seed_everything
from finetune.tasks import DEFAULT_TASK, TaskLike, resolve_task


@dataclass(frozen=True, slots=True)
class Batch:
    """inputs: tensor, tuple or dict of tensors, first dimension B. targets: first dimension B.

    indices: [B] int64, the examples' numbers in the data set, where the loader knows them.
    """

    inputs: Any
    targets: Any
    indices: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def split(self, parts: int) -> "list[Batch]":
        """At most `parts` batches of about equal size."""
        parts = min(parts, len(self))
        edges = [i * len(self) // parts for i in range(parts + 1)]
        bounds = [slice(*pair) for pair in pairwise(edges)]
        fields = (self.inputs, self.targets, self.indices)
        return [Batch(*(_rows(value, rows) for value in fields)) for rows in bounds]

    def to(self, device: torch.device) -> "Batch":
        """On another device; to a CUDA device from pinned memory the copy is asynchronous."""
        return Batch(move(self.inputs, device), move(self.targets, device), self.indices)


def _rows(value: Any, rows: slice) -> Any:
    if isinstance(value, dict):
        return {name: _rows(part, rows) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_rows(part, rows) for part in value)
    return None if value is None else value[rows]


def move(value: Any, device: torch.device) -> Any:
    """Every tensor in `value` (tensor, tuple, list or dict) on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=device.type == "cuda")
    if isinstance(value, dict):
        return {name: move(part, device) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(move(part, device) for part in value)
    return value


Batches: TypeAlias = Generator[Batch, None, None]


def next_batches(batches: Batches, count: int) -> list[Batch]:
    """The next `count` batches. Raises RuntimeError if there are fewer."""
    taken = list(islice(batches, count))
    if len(taken) < count:
        raise RuntimeError("the training loader gave fewer batches than its length says")
    return taken


class EpochLoader(Protocol):
    """Batches that are a pure function of (seed, epoch)."""

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Batches:
        """The batches of one epoch, from number `start` on."""
        ...


@runtime_checkable
class IndexedLoader(EpochLoader, Protocol):
    """An EpochLoader whose examples have numbers, so that what is computed of them can be kept.

    targets: [N], by the example's number.
    """

    @property
    def targets(self) -> Tensor: ...

    def order(self, seed: int, epoch: int) -> list[Tensor]:
        """The numbers of the examples in each batch of an epoch; this process's share of them."""
        ...

    def fetch(self, order: Sequence[Tensor]) -> Batches:
        """The examples with these numbers, batch by batch."""
        ...


class InputPipeline(Protocol):
    """How examples become a model's inputs, apart from where they come from.

    seed: of every random decision. has_views: whether random views of an example differ.
    """

    @property
    def seed(self) -> int: ...

    @property
    def has_views(self) -> bool: ...

    def prepare(self, batch: Batch, view: int | None) -> Batch:
        """What is left to do on the device; see `DataLoaders.prepare`."""
        ...

    def inputs(self, items: Sequence[Any], device: torch.device) -> Any:
        """A batch of model inputs from single items without batch dimension."""
        ...

    def displayable(self, inputs: Tensor) -> Any:
        """Model inputs [B, C, H, W] for a person to look at: an array [B, H, W, C] in [0, 1]."""
        ...


class TorchLoader:
    """Repeatable epochs of a torch DataLoader, or any sized iterable of (inputs, targets).

    Everything that draws from a global generator, or from the loader's own, is seeded by (seed,
    epoch, batch) before each batch; to start in the middle, earlier batches are read and dropped.
    """

    def __init__(self, loader: Any) -> None:
        try:
            length = len(loader)
        except TypeError:
            raise TypeError(
                f"{type(loader).__name__} has no length, but a schedule needs the number of "
                "batches per epoch; give the loader a __len__"
            ) from None
        if length == 0:
            raise ValueError(
                f"{type(loader).__name__} has no batch: fewer examples than batch_size?"
            )
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Batches:
        kept = [(own, own.get_state()) for own in self._generators()]
        try:
            yield from self._batches(seed, epoch, start)
        finally:
            for own, state in kept:  # the caller's generators show no trace of us
                own.set_state(state)

    def _generators(self) -> list[torch.Generator]:
        """The loader's own and its sampler's, if they have any; often they are one."""
        parts = (self.loader, getattr(self.loader, "sampler", None))
        found = (getattr(part, "generator", None) for part in parts)
        return [own for own in dict.fromkeys(found) if isinstance(own, torch.Generator)]

    def _batches(self, seed: int, epoch: int, start: int) -> Batches:
        for own in self._generators():
            own.manual_seed(key(seed, "loader", epoch))
        for name in ("sampler", "batch_sampler"):
            set_epoch = getattr(getattr(self.loader, name, None), "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
        # seeded once for the sampler and the first batch: torch draws both from one stream
        seed_everything(seed, "loader", epoch, 0)
        _end_persistent_workers(self.loader)
        iterator = iter(self.loader)
        for number in range(len(self)):
            if number:
                seed_everything(seed, "loader", epoch, number)
            try:
                item = next(iterator)
            except StopIteration:
                raise RuntimeError(
                    f"the loader promised {len(self)} batches and gave {number} in epoch {epoch}"
                ) from None
            if number >= start:
                yield _as_batch(item)


def _end_persistent_workers(loader: Any) -> None:
    """Workers that live on draw from where they stopped; an epoch must not depend on the last."""
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None


def _as_batch(item: Any) -> Batch:
    if isinstance(item, Batch):
        return item
    if isinstance(item, tuple | list) and len(item) == 2:
        return Batch(item[0], item[1])
    size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
    raise TypeError(
        f"a loader must give (inputs, targets) pairs, got a {type(item).__name__}{size}; several "
        "inputs go into one tuple"
    )


class DataLoaders:
    """Training and validation batches, and the seed of every random decision.

    train, valid: torch DataLoaders, other sized iterables of (inputs, targets), or EpochLoaders.
    classes: names of the classes in the order of the model's outputs, if there are any. task:
    what targets are, by name or as a `Task`: one class, as int64 [B]; several (task="multi_label"),
    as float32 [B, C] of 0 and 1; or numbers (task="regression"), as float32 [B, K], whose names
    `classes` are.

    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> pairs = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
    >>> data = DataLoaders(DataLoader(pairs, 4, shuffle=True), DataLoader(pairs, 4))
    >>> len(data.train)
    2
    """

    def __init__(
        self,
        train: Any,
        valid: Any = None,
        *,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        task: TaskLike = DEFAULT_TASK,
    ) -> None:
        self.train = _epoch_loader(train)
        self.valid = None if valid is None else _epoch_loader(valid)
        self.seed = seed
        self.task = resolve_task(task)
        self.classes = None if classes is None else tuple(classes)

    def prepare(self, batch: Batch, view: int | None) -> Batch:
        """What is left to do on the device, such as augmentation: here nothing.

        view: the number of a random view, the same for the same number; None for the
        deterministic one. Training takes the epoch's number unless its phase says otherwise.
        With an `IndexedLoader`, what an example becomes must not depend on the others of its batch:
        what a frozen backbone makes of it is kept, and met again in another batch.
        """
        return batch

    def inputs(self, items: Sequence[Any], device: torch.device) -> Any:
        """A batch of model inputs for prediction from single inputs without batch dimension."""
        return torch.stack([torch.as_tensor(item) for item in items]).to(device)

    @property
    def has_views(self) -> bool:
        """Whether `prepare` makes random views of an example that differ."""
        return type(self).prepare is not DataLoaders.prepare

    def displayable(self, inputs: Tensor) -> Any:
        """Model inputs [B, C, H, W] for a person to look at: an array [B, H, W, C] in [0, 1].

        How they were normalised is not known here, so each goes from its darkest to its brightest.
        """
        images = inputs.float().cpu()
        darkest = images.amin(dim=(1, 2, 3), keepdim=True)
        brightest = images.amax(dim=(1, 2, 3), keepdim=True)
        scaled = (images - darkest) / (brightest - darkest).clamp_min(1e-6)
        return scaled.clamp(0, 1).permute(0, 2, 3, 1).numpy()

    def describe_inputs(self) -> dict[str, Any] | None:
        """The preprocessing as plain data, if `inputs` can be rebuilt from it elsewhere."""
        return None

    def class_counts(self) -> dict[str, dict[str, Any]]:
        """`{"train": {"images": how many, "classes": {class: how many}}, "valid": ...}`.

        Empty where it is not known; `classes` is empty for a regression.
        """
        return {}


def _epoch_loader(loader: Any) -> EpochLoader:
    own = callable(getattr(loader, "epoch", None)) and hasattr(loader, "__len__")
    return loader if own else TorchLoader(loader)
