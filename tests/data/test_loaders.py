from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from support import tiny_data
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from finetune import DataLoaders
from finetune.data.loaders import Batch, TorchLoader, move
from finetune.randomness import isolated
from finetune.tasks import Regression, SingleLabel

NUMBERS = TensorDataset(torch.arange(20), torch.arange(20) % 2)


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Draws from torch's and numpy's global generators, as many users' augmentations do."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.rand(3) + float(np.random.rand()), torch.tensor(index)


def shuffled(**options: object) -> DataLoader:
    return DataLoader(NUMBERS, 4, **{"shuffle": True, **options})  # type: ignore[arg-type]


def order(loader: TorchLoader, seed: int = 0, epoch: int = 0, start: int = 0) -> list[list[int]]:
    with isolated():
        return [batch.inputs.tolist() for batch in loader.epoch(seed, epoch, start)]


# --- repeatable epochs


def test_shuffled_epoch_repeats() -> None:
    loader = TorchLoader(shuffled())
    assert order(loader, 1, 2) == order(loader, 1, 2)


def test_shuffled_epoch_holds_each_example_once() -> None:
    batches = order(TorchLoader(shuffled()))
    assert sorted(i for batch in batches for i in batch) == list(range(20))


def test_order_depends_on_the_epoch_and_the_seed() -> None:
    loader = TorchLoader(shuffled())
    assert len({str(order(loader, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_order_does_not_depend_on_the_global_generators() -> None:
    loader = TorchLoader(shuffled())
    expected = order(loader)
    torch.manual_seed(5)
    seen = []
    with isolated():
        for batch in loader.epoch(0, 0):
            torch.rand(7)
            seen.append(batch.inputs.tolist())
    assert seen == expected


@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_start_in_the_middle_gives_the_rest(start: int) -> None:
    loader = TorchLoader(shuffled())
    assert order(loader, 0, 3, start) == order(loader, 0, 3)[start:]


@pytest.mark.parametrize("start", [0, 1, 3])
def test_start_in_the_middle_gives_the_rest_of_random_items(start: int) -> None:
    loader = TorchLoader(DataLoader(Noisy(), 4, shuffle=True))
    assert order(loader, 0, 3, start) == order(loader, 0, 3)[start:]


def test_draws_by_the_reader_between_batches_change_no_random_item() -> None:
    loader = TorchLoader(DataLoader(Noisy(), 4, shuffle=True))
    seen = []
    with isolated():
        for batch in loader.epoch(0, 0):
            torch.rand(7), np.random.rand()
            seen.append(batch.inputs.tolist())
    assert seen == order(loader)


def test_workers_change_no_order() -> None:
    with_workers = TorchLoader(shuffled(num_workers=2))
    assert order(with_workers, 0, 1) == order(TorchLoader(shuffled()), 0, 1)


def test_persistent_workers_change_no_order() -> None:
    """A second epoch keeps the workers and draws no seed for them, which shifts torch's stream."""
    persistent = TorchLoader(shuffled(num_workers=1, persistent_workers=True))
    seen = [order(persistent, 0, epoch) for epoch in (0, 1)]
    assert seen == [order(TorchLoader(shuffled()), 0, epoch) for epoch in (0, 1)]


# --- the loader's own generator and samplers


def test_epoch_repeats_with_the_loaders_own_generator() -> None:
    loader = TorchLoader(shuffled(generator=torch.Generator()))
    assert order(loader, 0, 1) == order(loader, 0, 1)
    assert order(loader, 0, 1) != order(loader, 0, 2)


@pytest.mark.parametrize("batches", [1, 5])
def test_loaders_own_generator_is_put_back(batches: int) -> None:
    own = torch.Generator().manual_seed(3)
    before = own.get_state()
    epoch = TorchLoader(shuffled(generator=own)).epoch(0, 0)
    with isolated():
        for _ in range(batches):
            next(epoch)
        epoch.close()  # type: ignore[attr-defined]
    assert torch.equal(own.get_state(), before)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda own: RandomSampler(NUMBERS, generator=own),
        lambda own: WeightedRandomSampler([1.0] * 20, 20, generator=own),
    ],
)
def test_epoch_repeats_with_a_samplers_own_generator(sampler: Callable) -> None:
    loader = TorchLoader(DataLoader(NUMBERS, 4, sampler=sampler(torch.Generator())))
    assert order(loader, 0, 1) == order(loader, 0, 1)


def test_epoch_repeats_with_a_weighted_sampler() -> None:
    loader = TorchLoader(DataLoader(NUMBERS, 4, sampler=WeightedRandomSampler([1.0] * 20, 20)))
    assert order(loader, 0, 1) == order(loader, 0, 1)
    assert order(loader, 0, 1) != order(loader, 0, 2)


def test_sampler_is_told_the_epoch() -> None:
    sampler = DistributedSampler(NUMBERS, num_replicas=2, rank=1)
    loader = TorchLoader(DataLoader(NUMBERS, 5, sampler=sampler))
    first = order(loader, epoch=0)
    assert order(loader, epoch=7) != first
    assert sampler.epoch == 7
    assert order(loader, epoch=0) == first


def test_batch_sampler_is_told_the_epoch() -> None:
    class Turning:
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[list[int]]:
            return iter([[self.epoch, 1], [2, 3]])

        def __len__(self) -> int:
            return 2

    loader = TorchLoader(DataLoader(NUMBERS, batch_sampler=Turning()))  # type: ignore[arg-type]
    assert order(loader, epoch=7) == [[7, 1], [2, 3]]


# --- other iterables


def test_list_of_pairs_is_a_loader() -> None:
    pairs = [(torch.tensor([1]), torch.tensor([0])), [torch.tensor([2]), torch.tensor([1])]]
    batches = list(TorchLoader(pairs).epoch(0, 0))
    assert [batch.inputs.item() for batch in batches] == [1, 2]
    assert [batch.targets.item() for batch in batches] == [0, 1]


def test_batches_of_the_loader_are_passed_on() -> None:
    batch = Batch(torch.zeros(2), torch.zeros(2), torch.arange(2))
    assert next(iter(TorchLoader([batch]).epoch(0, 0))) is batch


def test_length_is_that_of_the_loader() -> None:
    assert len(TorchLoader(shuffled())) == 5


def test_loader_without_length_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"generator, has no length, but a schedule needs the number"
    ):
        TorchLoader(pair for pair in [(0, 0)])


@pytest.mark.parametrize(
    "loader", [[], DataLoader(TensorDataset(torch.zeros(3)), 4, drop_last=True)]
)
def test_empty_loader_is_refused(loader: object) -> None:
    with pytest.raises(ValueError, match="has no batch: fewer examples than batch_size"):
        TorchLoader(loader)


def test_loader_that_gives_too_little_is_named_with_the_epoch() -> None:
    class Short:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter([(torch.zeros(1), torch.zeros(1))])

    with (
        isolated(),
        pytest.raises(RuntimeError, match="promised 3 batches and gave 1 in epoch 4"),
    ):
        list(TorchLoader(Short()).epoch(0, 4))


@pytest.mark.parametrize("item", [torch.zeros(2), (1, 2, 3), {"x": 1}])
def test_item_that_is_no_pair_is_refused(item: object) -> None:
    with isolated(), pytest.raises(TypeError, match=r"must give \(inputs, targets\) pairs, got"):
        list(TorchLoader([item]).epoch(0, 0))


# --- batches


def test_length_of_a_batch_is_that_of_its_targets() -> None:
    assert len(Batch({"x": torch.zeros(5, 2)}, torch.zeros(5))) == 5


def test_move_goes_into_tuples_lists_and_dicts() -> None:
    moved = move({"a": [torch.zeros(1), "text"], "b": (torch.zeros(2),)}, torch.device("meta"))
    assert moved["a"][0].is_meta
    assert moved["a"][1] == "text"
    assert moved["b"][0].is_meta


def test_batch_moves_inputs_and_targets() -> None:
    moved = Batch(torch.zeros(2), torch.zeros(2), torch.arange(2)).to(torch.device("meta"))
    assert moved.inputs.is_meta
    assert moved.targets.is_meta
    assert moved.indices is not None
    assert moved.indices.tolist() == [0, 1]


# --- DataLoaders


def test_torch_loaders_become_epoch_loaders() -> None:
    data = tiny_data()
    assert isinstance(data.train, TorchLoader)
    assert isinstance(data.valid, TorchLoader)
    assert data.classes == ("no", "yes")


def test_epoch_loader_is_kept() -> None:
    loader = TorchLoader(shuffled())
    assert DataLoaders(loader).train is loader


def test_validation_may_be_missing() -> None:
    data = DataLoaders(shuffled())
    assert (data.valid, data.classes) == (None, None)


def test_inputs_are_stacked() -> None:
    inputs = tiny_data().inputs([torch.zeros(4), np.ones(4, np.float32)], torch.device("cpu"))
    assert inputs.tolist() == [[0] * 4, [1] * 4]


def test_prepare_does_nothing() -> None:
    batch = Batch(torch.zeros(2), torch.zeros(2))
    assert tiny_data().prepare(batch, 0) is batch


def test_preprocessing_of_tensors_has_no_description() -> None:
    assert tiny_data().describe_inputs() is None


class Drawing(Dataset):
    """Draws from the global generator, as random transforms do."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(2), index


def test_what_persistent_workers_draw_does_not_depend_on_earlier_epochs() -> None:
    used = TorchLoader(DataLoader(Drawing(), 4, num_workers=1, persistent_workers=True))
    fresh = TorchLoader(DataLoader(Drawing(), 4, num_workers=1, persistent_workers=True))
    list(used.epoch(0, 0))
    for one, other in zip(used.epoch(0, 1), fresh.epoch(0, 1), strict=True):
        assert torch.equal(one.inputs, other.inputs)


def test_task_is_single_label_unless_said_otherwise() -> None:
    loader = DataLoader(TensorDataset(torch.zeros(4, 3), torch.zeros(4, 2)), 2)
    assert DataLoaders(loader).task == SingleLabel()
    assert DataLoaders(loader, task="regression").task == Regression()
    with pytest.raises(ValueError, match=r"task must be one of .* got 'regresion'"):
        DataLoaders(loader, task="regresion")  # type: ignore[arg-type]


def test_parts_of_a_batch_are_even() -> None:
    sizes = [len(part) for part in Batch(torch.zeros(50, 2), torch.zeros(50)).split(8)]
    assert sum(sizes) == 50
    assert set(sizes) == {6, 7}


@pytest.mark.parametrize(
    "targets",
    [{"label": torch.zeros(50)}, (torch.zeros(50), torch.ones(50)), {"a": {"b": torch.zeros(50)}}],
)
def test_length_and_parts_of_a_batch_do_not_depend_on_the_structure_of_its_targets(
    targets: object,
) -> None:
    batch = Batch((torch.zeros(50, 2), {"more": torch.zeros(50)}), targets, torch.arange(50))
    assert len(batch) == 50
    parts = batch.split(3)
    assert [len(part) for part in parts] == [16, 17, 17]
    assert torch.cat([part.indices for part in parts]).tolist() == list(range(50))


def test_batch_whose_sizes_differ_is_refused() -> None:
    with pytest.raises(ValueError, match=r"differ: \[3, 2\]; \{'label': \[4\]\}"):
        len(Batch(torch.zeros(3, 2), {"label": torch.zeros(4)}))


def test_batch_without_examples_is_one_part() -> None:
    (part,) = Batch(torch.zeros(0, 2), torch.zeros(0)).split(4)
    assert len(part) == 0
