"""Batch and DataLoaders: what a Learner trains on, whatever kind of data it is.

An `EpochLoader` gives the batches of an epoch, from any batch on, as a pure function of the seed
and the epoch's number. `TorchLoader` makes one of a torch DataLoader.
"""

import copy
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Sampler

from finetune import arguments, distributed, turns
from finetune.data.fingerprints import of_loader
from finetune.data.sampling import Sampling
from finetune.files.fingerprints import Fingerprint, of_tensor, of_texts
from finetune.nested import count_examples, map_tensors, rows_of, tensors_in
from finetune.randomness import key, seed_everything
from finetune.tasks import DEFAULT_TASK, TaskLike, resolve_task


@dataclass(frozen=True, slots=True)
class Batch:
    """B examples as they enter a train step.

    inputs: a tensor, or a tuple, dict or data class of tensors, nested as you like, whose first
    dimension is B. targets: the same. indices: [B] int64, the examples' numbers in the data set;
    None where the loader does not know them.

    >>> batch = Batch(torch.zeros(8, 3, 32, 32), torch.arange(8))
    >>> [len(part) for part in batch.split(3)]
    [2, 3, 3]
    """

    inputs: Any
    targets: Any
    indices: Tensor | None = None

    def __len__(self) -> int:
        """The number of examples. Raises ValueError for tensors that differ in it."""
        return count_examples(self.inputs, self.targets)

    def split(self, parts: int) -> "list[Batch]":
        """The same examples as at most `parts` batches of about equal size, in order."""
        size = len(self)
        count = max(1, min(parts, size))
        edges = [number * size // count for number in range(count + 1)]
        return [self._part(slice(start, stop), size) for start, stop in pairwise(edges)]

    def _part(self, rows: slice, size: int) -> "Batch":
        inputs, targets = rows_of(self.inputs, rows, size), rows_of(self.targets, rows, size)
        return Batch(inputs, targets, rows_of(self.indices, rows, size))

    def to(self, device: torch.device) -> "Batch":
        """The batch with inputs and targets on another device; the indices stay where they are.

        The copy from pinned memory to a CUDA device is asynchronous.
        """
        return Batch(move(self.inputs, device), move(self.targets, device), self.indices)


def move(value: Any, device: torch.device) -> Any:
    """The same with every tensor on the device; a list becomes a tuple, see `map_tensors`."""
    non_blocking = device.type == "cuda"
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking), value)


Batches: TypeAlias = Generator[Batch, None, None]


def next_batches(batches: Batches, count: int) -> list[Batch]:
    """The next `count` batches. Raises RuntimeError if there are fewer."""
    following = list(islice(batches, count))
    if len(following) < count:
        raise RuntimeError("the training loader gave fewer batches than its length says")
    return following


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
    """An EpochLoader whose examples have numbers, so that their features can be cached.

    targets: [N, ...], the target of each example by its number.
    """

    @property
    def targets(self) -> Tensor: ...

    def order(self, seed: int, epoch: int) -> list[Tensor]:
        """The numbers of the examples in each batch of an epoch, [B] int64 each.

        With several processes these are the examples of this one.
        """
        ...

    def fetch(self, order: Sequence[Tensor]) -> Batches:
        """The examples with these numbers, batch by batch."""
        ...


class InputPipeline(Protocol):
    """How examples become a model's inputs, wherever they come from.

    seed: the seed of every random decision. has_views: whether `prepare` makes random views of an
    example that differ from each other.
    """

    @property
    def seed(self) -> int: ...

    @property
    def has_views(self) -> bool: ...

    def prepare(self, batch: Batch, view: int | None) -> Batch:
        """Does on the device what is left to do; see `DataLoaders.prepare`."""
        ...

    def inputs(self, items: Sequence[Any], device: torch.device) -> Any:
        """A batch of model inputs from single items without batch dimension."""
        ...

    def displayable(self, inputs: Tensor) -> Any:
        """Model inputs [B, C, H, W] for a person to look at: an array [B, H, W, C] in [0, 1]."""
        ...


class TorchLoader:
    """An `EpochLoader` of a torch DataLoader, or of any sized iterable of (inputs, targets).

    Before each batch the global generators are seeded by (seed, epoch, batch); the generators of
    the loader and its sampler are seeded by (seed, epoch) before each epoch. To start in the middle
    of an epoch, the earlier batches are read and dropped. name: what errors call the loader.

    Each of several processes reads all batches and takes its share of each, whatever the sampler,
    unless the loader divides the examples itself: by a sampler that says so, as DistributedSampler
    does, or an IterableDataset whose batches are others in each process.
    """

    def __init__(self, loader: Any, name: str = "loader") -> None:
        try:
            length = len(loader)
        except TypeError:
            raise TypeError(
                f"{name}, a {type(loader).__name__}, has no length, but a schedule needs the "
                "number of batches per epoch; give the loader a __len__"
            ) from None
        if length == 0:
            raise ValueError(
                f"{name}, a {type(loader).__name__}, has no batch: fewer examples than batch_size?"
            )
        self.loader = loader
        self._takes_share = True

    def whole(self) -> "TorchLoader":
        """A loader of the same batches that gives all of them to every process."""
        loader = copy.copy(self)
        loader._takes_share = False
        return loader

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Batches:
        states = [(generator, generator.get_state()) for generator in self._generators()]
        try:
            yield from self._batches(seed, epoch, start)
        finally:
            # the generators are the caller's and must look untouched
            for generator, state in states:
                generator.set_state(state)

    def _generators(self) -> list[torch.Generator]:
        """The generators of the loader and its sampler, each once; often they share one."""
        sampler = getattr(self.loader, "sampler", None)
        generators: list[torch.Generator] = []
        for owner in (self.loader, sampler):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator) and generator not in generators:
                generators.append(generator)
        return generators

    def _batches(self, seed: int, epoch: int, start: int) -> Batches:
        for generator in self._generators():
            generator.manual_seed(key(seed, "loader", epoch))
        self._set_epoch(epoch)
        _end_persistent_workers(self.loader)
        iterator: Iterator[Any] | None = None
        for number in range(len(self)):
            # what another thread draws meanwhile would be missing here
            with turns.alone():
                seed_everything(seed, "loader", epoch, number)
                if iterator is None:
                    # seeded with the first batch: torch draws both from one stream
                    iterator = iter(self.loader)
                try:
                    item = next(iterator)
                except StopIteration:
                    raise RuntimeError(
                        f"the loader promised {len(self)} batches and gave {number} in epoch "
                        f"{epoch}"
                    ) from None
            batch = _as_batch(item)
            if number == 0:
                takes_share = self._takes_share and self._gives_all_to_each(batch)
            if number >= start:
                yield _own_share(batch) if takes_share else batch

    def _gives_all_to_each(self, first: Batch) -> bool:
        """Whether every process reads the same batches. first: the first one of an epoch."""
        if distributed.world_size() == 1:
            return False
        for owner in self._samplers():
            if getattr(owner, "num_replicas", 1) > 1:
                return False
        if isinstance(getattr(self.loader, "sampler", None), Sampler):
            is_iterable = isinstance(getattr(self.loader, "dataset", None), IterableDataset)
            if not is_iterable:
                return True
        tensors = [*tensors_in(first.inputs), *tensors_in(first.targets)]
        content = of_texts(of_tensor(tensor.cpu()) for tensor in tensors)
        return len(set(distributed.gathered_objects(content))) == 1

    def _samplers(self) -> list[Any]:
        names = ("sampler", "batch_sampler")
        return [getattr(self.loader, name) for name in names if hasattr(self.loader, name)]

    def _set_epoch(self, epoch: int) -> None:
        """Tells the samplers the epoch, as those for several processes need it."""
        for sampler in self._samplers():
            set_epoch = getattr(sampler, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)


def _own_share(batch: Batch) -> Batch:
    """The examples of a batch that this process has: as of images, they are dealt out in turn."""
    rows, size = slice(distributed.rank(), None, distributed.world_size()), len(batch)
    return Batch(
        rows_of(batch.inputs, rows, size),
        rows_of(batch.targets, rows, size),
        rows_of(batch.indices, rows, size),
    )


def _end_persistent_workers(loader: Any) -> None:
    """Ends the worker processes of the last epoch, if they are still there.

    They would go on drawing random numbers from where they stopped, so that an epoch would depend
    on the one before it.
    """
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None


def _as_batch(item: Any) -> Batch:
    """The batch that an item of a loader is. Raises TypeError unless it is (inputs, targets)."""
    if isinstance(item, Batch):
        return item
    is_sequence = isinstance(item, tuple | list)
    if is_sequence and len(item) == 2:
        return Batch(item[0], item[1])
    received = f"a {type(item).__name__}"
    if is_sequence:
        received += f" of {len(item)}"
    raise TypeError(
        f"a loader must give (inputs, targets) pairs, got {received}; several inputs go into one "
        "tuple"
    )


class DataLoaders:
    """Training and validation batches, and the seed of every random decision.

    train, valid: torch DataLoaders, other sized iterables of (inputs, targets), or EpochLoaders;
    valid may be None. classes: names of the classes in the order of the model's outputs, if they
    have names; for a regression, names of the numbers. task: what targets are, by name or as a
    `Task`: one class of each example, int64 [B]; several classes (task="multi_label"), float32
    [B, C] of 0 and 1; or numbers (task="regression"), float32 [B, K].

    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> pairs = TensorDataset(torch.randn(8, 3), torch.arange(8) % 2)
    >>> data = DataLoaders(DataLoader(pairs, 4, shuffle=True), DataLoader(pairs, 4))
    >>> len(data.train)
    2
    """

    sampling: Sampling | None = None
    """How often the classes come in an epoch, where that is not as often as they are there."""

    def __init__(
        self,
        train: Any,
        valid: Any = None,
        *,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        task: TaskLike = DEFAULT_TASK,
    ) -> None:
        self.train = epoch_loader("train", train)
        self.valid = None if valid is None else epoch_loader("valid", valid)
        self.seed = arguments.whole_number("seed", seed)
        self.task = resolve_task(task)
        self.classes: tuple[str, ...] | None = None
        if classes is not None:
            self.classes = tuple(arguments.sequence("classes", classes, "class names"))

    def prepare(self, batch: Batch, view: int | None) -> Batch:
        """Does on the device what is left to do, such as augmentation; here that is nothing.

        view: the number of a random view, which is the same for the same number; None is the
        deterministic view. Training passes the epoch's number unless its phase says otherwise.
        With an `IndexedLoader`, what an example becomes must not depend on the other examples of
        its batch, because the features that a frozen backbone makes of it are cached, and used when
        it is in another batch.
        """
        return batch

    def inputs(self, items: Sequence[Any], device: torch.device) -> Any:
        """A batch of model inputs for prediction, from single inputs without batch dimension."""
        return torch.stack([torch.as_tensor(item) for item in items]).to(device)

    @property
    def has_views(self) -> bool:
        """Whether `prepare` makes random views of an example that differ from each other."""
        return type(self).prepare is not DataLoaders.prepare

    def displayable(self, inputs: Tensor) -> Any:
        """Model inputs [B, C, H, W] for a person to look at: an array [B, H, W, C] in [0, 1].

        How they were normalised is not known here, so each image is scaled such that its darkest
        value becomes 0 and its brightest 1.
        """
        images = inputs.float().cpu()
        darkest = images.amin(dim=(1, 2, 3), keepdim=True)
        brightest = images.amax(dim=(1, 2, 3), keepdim=True)
        scaled = (images - darkest) / (brightest - darkest).clamp_min(1e-6)
        return scaled.clamp(0, 1).permute(0, 2, 3, 1).numpy()

    def describe_inputs(self) -> dict[str, Any] | None:
        """The preprocessing as plain data, if `inputs` can be rebuilt from it elsewhere."""
        return None

    def fingerprint(self) -> Fingerprint:
        """What tells these data from others, as far as it decides the result of a run.

        Plain values by name, for a checkpoint. Where the data are is not in them, nor who reads
        them. It takes one pass over names and targets, and reads no example.
        """
        fingerprint: Fingerprint = {"seed": self.seed, "task": self.task.name}
        loaders = (("training", self.train), ("validation", self.valid))
        for name, loader in loaders:
            if loader is not None:
                # the caller's loader, if there is one behind ours
                fingerprint |= of_loader(name, getattr(loader, "loader", loader))
        return fingerprint

    def training_groups(self) -> Sequence[str] | None:
        """The group of each training example, none of which may be divided, see `data.groups`.

        None where there are no groups, or a single one, which would leave nothing beside it.
        """
        return None

    def class_shares(self) -> dict[str, float]:
        """How often training sees each class: the share of an epoch's examples that have it.

        Empty where it is not known, and for a regression.
        """
        return {}

    def class_counts(self) -> dict[str, dict[str, Any]]:
        """`{"train": {"images": how many, "classes": {class: how many}}, "valid": ...}`.

        Empty where it is not known; `classes` is empty for a regression.
        """
        return {}


def epoch_loader(name: str, loader: Any) -> EpochLoader:
    """The loader itself if it is an EpochLoader, or else one made of it. name: for errors."""
    has_epochs = callable(getattr(loader, "epoch", None)) and hasattr(loader, "__len__")
    if has_epochs and not isinstance(loader, type):
        own_loader: EpochLoader = loader
        return own_loader
    if not isinstance(loader, Iterable) or isinstance(loader, str | bytes | Mapping):
        raise TypeError(
            f"{name} must be a torch DataLoader or another iterable of (inputs, targets) with a "
            f"length, got {arguments.shown(loader)}"
        )
    return TorchLoader(loader, name)
