"""The frozen prefix of a model runs once a view; what follows trains on its kept outputs."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from finetune import distributed, turns
from finetune.data.loaders import Batch, Batches, DataLoaders, IndexedLoader
from finetune.data.memory import memory_bytes
from finetune.nested import concatenated, count_examples, map_tensors, rows_of
from finetune.training.events import Precompute
from finetune.training.frozen.kept_features import KeptFeatures
from finetune.training.frozen.prefix import Prefix, Suffix
from finetune.training.frozen.prefixes import FrozenPrefixes
from finetune.training.phase import Phase
from finetune.training.runtime.folding import FoldedNorms
from finetune.training.setup import Setup, folded_norms

MEMORY_FRACTION = 0.125
"""Share of the machine's memory that the features of one phase may take."""

_CHUNK_ON_CPU, _CHUNK_ON_GPU = 32, 256
"""Images that run at a time: small enough for a processor's cache, large enough to keep a graphics
card busy."""


@dataclass(slots=True)
class FeatureLoader:
    """The order of a loader, with features [N, ...] in place of its images.

    features_of: the number of an epoch -> features and targets of all examples.
    """

    loader: IndexedLoader
    features_of: Callable[[int], Batch]

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Batches:
        features = self.features_of(epoch)
        for numbers in self.loader.order(seed, epoch)[start:]:
            targets = rows_of(features.targets, numbers, len(features))
            yield Batch(features.inputs[numbers], targets, numbers)


def features_fit(setup: Setup, suffix: Suffix, *, views: int) -> bool:
    """Whether the features of so many views at a time, and those for validation, may be kept."""
    examples = views * count_examples(_indexed(setup.data.train).targets)
    if setup.data.valid is not None:
        examples += count_examples(_indexed(setup.data.valid).targets)
    bytes_per_example = 4 * suffix.features.shape.numel()  # float32
    # a fixed limit: what a plan is like must not depend on what else is kept at the moment
    return examples * bytes_per_example <= MEMORY_FRACTION * memory_bytes()


def head_on_features(setup: Setup, prefixes: FrozenPrefixes, *, views: int) -> Suffix | None:
    """What trains on kept features where all groups but the last are frozen.

    None where one of these groups must run in every step, or there is no room for the features.
    """
    suffix = prefixes.find_behind_all_but_the_last_group()
    # processes must agree, or they would go on in different ways
    is_refused = suffix is None or not features_fit(setup, suffix, views=views)
    return None if distributed.any_process(is_refused) else suffix


class FeatureCache:
    """The features of one phase: `fill` before each epoch, then train with `setup`.

    setup: the whole one, but its model is what trains, and its data are features; torch.compile
    can't follow that model, which runs as it is. first_epoch: the number of the phase's first
    epoch. Make one with `create`, and do both inside `suffix.active()`.
    """

    def __init__(self, whole: Setup, suffix: Suffix, phase: Phase, first_epoch: int) -> None:
        self.whole, self.suffix = whole, suffix
        self.phase, self.first_epoch = phase, first_epoch
        self.views = min(phase.views or phase.epochs, phase.epochs)
        on_cpu = whole.runtime.device.type == "cpu"
        self._chunk = _CHUNK_ON_CPU if on_cpu else _CHUNK_ON_GPU
        self._folded: FoldedNorms | None = None  # found with the first images
        self._train = _indexed(whole.data.train)
        self._valid = None if whole.data.valid is None else _indexed(whole.data.valid)
        features: dict[int | None, Batch] = {}  # of training, by view
        valid_features: dict[None, Batch] = {}
        self._features, self._valid_features = features, valid_features

        # the loaders know the dictionaries and not this object, which would keep itself alive
        def features_of(epoch: int) -> Batch:
            return features[phase.view(epoch - first_epoch, first_epoch)]

        train = FeatureLoader(self._train, features_of)
        valid = None
        if self._valid is not None:
            valid = FeatureLoader(self._valid, lambda epoch: valid_features[None])
        data = DataLoaders(
            train,
            valid,
            seed=whole.data.seed,
            classes=whole.data.classes,
            task=whole.data.task,
        )
        self.setup = replace(
            whole,
            model=suffix,
            data=data,
            runtime=replace(whole.runtime, compile=False),
            # features are of whole images: their mixture is not that of a mixture of images
            settings=replace(whole.settings, mixup=0.0, cutmix=0.0),
        )

    @classmethod
    def create(
        cls, setup: Setup, phase: Phase, first_epoch: int, prefixes: FrozenPrefixes
    ) -> "FeatureCache | None":
        """None where no prefix is frozen, the images have no numbers, or there is no room.

        Nor where images are to be mixed and more than the last group trains: features of mixed
        images are no mixture of features. The last group alone trains on images as they are.
        """
        mixes = setup.settings.mixup > 0 or setup.settings.cutmix > 0
        if mixes and phase.frozen < len(setup.optimizer.groups) - 1:
            return None
        suffix = prefixes.find()
        views = 1 if phase.views is None else min(phase.views, phase.epochs)
        is_refused = suffix is None or not features_fit(setup, suffix, views=views)
        # processes must agree, or they would wait for each other in different places
        if distributed.any_process(is_refused):
            return None
        assert suffix is not None
        return cls(setup, suffix, phase, first_epoch)

    def fill(self, epoch_number: int) -> Generator[Precompute, None, None]:
        """Makes sure that the features of this epoch are there, and those for validation."""
        yield from self.fill_training(epoch_number)
        if self._valid is not None and not self._valid_features:
            self._valid_features[None] = yield from self._all_features(self._valid, None, None)

    def fill_training(self, epoch_number: int) -> Generator[Precompute, None, None]:
        """As `fill`, for those who do not validate."""
        epoch = epoch_number - self.first_epoch
        view = self.phase.view(epoch, self.first_epoch)
        if view not in self._features:
            if self.phase.views is None:
                self._features.clear()  # another epoch's, which will not come again
            position = epoch % self.views + 1
            self._features[view] = yield from self._all_features(self._train, view, position)

    def training_features(self, epoch_number: int) -> Batch:
        """The features and targets of all training examples, by number, that `fill` computed."""
        return self._features[self.phase.view(epoch_number - self.first_epoch, self.first_epoch)]

    def _all_features(
        self, loader: IndexedLoader, view: int | None, position: int | None
    ) -> Generator[Precompute, None, Batch]:
        """As `_run_all`, but those of an earlier run of these layers on these images are kept."""
        features_kept = KeptFeatures(self.whole, self.suffix)
        features = features_kept.get(loader, view)
        if features is None:
            features = yield from self._run_all(loader, view, position)
            features_kept.put(loader, view, features)
        return features

    def _run_all(
        self, loader: IndexedLoader, view: int | None, position: int | None
    ) -> Generator[Precompute, None, Batch]:
        """Features and targets of all examples, by number. position: of the view, from 1."""
        self._folded = None  # a callback may have changed the frozen layers meanwhile
        count, done = count_examples(loader.targets), 0
        rank, world_size = distributed.rank(), distributed.world_size()
        chunks = torch.split(torch.arange(count), self._chunk * world_size)
        own_shares = []
        for chunk in chunks:
            # a process without a share in a short last chunk runs one image for nothing
            has_share = rank < len(chunk)
            own_shares.append(chunk[rank::world_size] if has_share else chunk[:1])
        features: torch.Tensor | None = None
        targets: list[Any] = []
        with closing(loader.fetch(own_shares)) as batches:
            for chunk, raw_batch in zip(chunks, batches, strict=True):
                batch = self._run(raw_batch, view)
                own_features = batch.inputs.float()
                if features is None:
                    # all at once, as to put chunks together would take the memory twice
                    features = own_features.new_empty(count, *own_features.shape[1:], device="cpu")
                features[chunk] = _of_all_processes(own_features, len(chunk))
                targets.append(
                    map_tensors(partial(_of_all_processes, count=len(chunk)), batch.targets)
                )
                done += len(chunk)
                yield Precompute(self.phase.name, position, self.views, done, count)
        assert features is not None
        return Batch(features, concatenated(targets))

    @torch.no_grad()
    def _run(self, raw_batch: Batch, view: int | None) -> Batch:
        """The batch with features in place of its images."""
        runtime = self.whole.runtime
        batch = self.whole.data.prepare(raw_batch.to(runtime.device), view)
        with turns.shared():
            if self._folded is None:
                prefix = Prefix(self.suffix)
                self._folded = folded_norms(prefix, runtime, batch.inputs, training=False)
            with runtime.autocast(), self._folded.active():
                return replace(batch, inputs=self.suffix.prefix(batch.inputs))


def _of_all_processes(rows: torch.Tensor, count: int) -> torch.Tensor:
    """The rows of a chunk of `count` examples, on the CPU."""
    return distributed.interleaved(rows, count).cpu()


def _indexed(loader: object) -> IndexedLoader:
    assert isinstance(loader, IndexedLoader)  # `FrozenPrefixes.find` refuses others
    return loader
