import random
import time
from contextlib import closing

import numpy as np
import pytest
import torch
import torch.distributed as dist

from finetune.data.batching import ImageLoader
from finetune.data.examples import Examples
from finetune.data.images.cache import ImageCache
from finetune.data.images.opening import ImageError
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.loaders import Batch


def make_loader(
    count: int = 22, batch_size: int = 4, *, shuffle: bool = True, num_workers: int = 2
) -> ImageLoader:
    """Images in one grey each, which is their number."""
    items = [np.full((8, 8, 3), number, dtype=np.uint8) for number in range(count)]
    examples = Examples(items, torch.arange(count) % 3, ("a", "b", "c"))
    cache = ImageCache(items, Preprocessing(8), num_workers)
    return ImageLoader(examples, cache, batch_size, shuffle=shuffle)


def order(loader: ImageLoader, seed: int = 0, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.indices.tolist() for batch in loader.epoch(seed, epoch, start)]  # type: ignore[union-attr]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.inputs, b.inputs)
        and torch.equal(a.targets, b.targets)
        and torch.equal(a.indices, b.indices)  # type: ignore[arg-type]
        for a, b in zip(one, other, strict=True)
    )


# --- what an epoch holds


def test_training_epoch_holds_each_example_at_most_once_and_no_short_batch() -> None:
    batches = order(make_loader())
    assert [len(batch) for batch in batches] == [4] * 5
    assert len({i for batch in batches for i in batch}) == 20


def test_validation_epoch_holds_each_example_once_in_order() -> None:
    batches = order(make_loader(shuffle=False))
    assert [len(batch) for batch in batches] == [4] * 5 + [2]
    assert [i for batch in batches for i in batch] == list(range(22))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("count", [4, 5, 7, 8])
def test_length_is_the_number_of_batches(shuffle: bool, count: int) -> None:
    loader = make_loader(count, shuffle=shuffle)
    assert len(loader) == len(order(loader))


def test_images_targets_and_indices_belong_together() -> None:
    for batch in make_loader().epoch(0, 0):
        assert torch.equal(batch.inputs[:, 0, 0, 0].long(), batch.indices)
        assert torch.equal(batch.targets, batch.indices % 3)


def test_every_example_has_its_turn_over_the_epochs() -> None:
    loader = make_loader()
    assert {i for epoch in range(20) for batch in order(loader, epoch=epoch) for i in batch} == set(
        range(22)
    )


# --- a pure function of (seed, epoch)


def test_epoch_repeats_bit_for_bit() -> None:
    loader = make_loader()
    assert same(list(loader.epoch(3, 5)), list(loader.epoch(3, 5)))


def test_order_depends_on_the_epoch_and_the_seed_alone() -> None:
    loader = make_loader()
    orders = {str(order(loader, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_order_does_not_depend_on_earlier_epochs() -> None:
    loader = make_loader()
    for epoch in (0, 1, 2):
        last = order(loader, epoch=epoch)
    assert order(make_loader(), epoch=2) == last


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("start", [0, 1, 3, 5, 6, 7])
def test_start_in_the_middle_gives_the_rest(shuffle: bool, start: int) -> None:
    loader = make_loader(shuffle=shuffle)
    assert same(list(loader.epoch(1, 2, start)), list(loader.epoch(1, 2))[start:])


def test_start_in_the_middle_decodes_nothing_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: set[int] = set()
    presize = Preprocessing.presize

    def noted(self: Preprocessing, image: np.ndarray, margin: int = 0) -> np.ndarray:
        decoded.add(int(image[0, 0, 0]))
        return presize(self, image, margin)

    monkeypatch.setattr(Preprocessing, "presize", noted)
    rest = {i for batch in order(make_loader(), start=3) for i in batch}
    assert len(rest) == 8
    assert decoded == rest


@pytest.mark.parametrize("num_workers", [1, 4])
def test_number_of_workers_changes_nothing(num_workers: int) -> None:
    one, other = make_loader(num_workers=2), make_loader(num_workers=num_workers)
    assert same(list(one.epoch(0, 1)), list(other.epoch(0, 1)))


def test_order_does_not_depend_on_the_global_generators() -> None:
    loader = make_loader()
    expected = order(loader)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    mixed = []
    for batch in loader.epoch(0, 0):
        torch.rand(3), np.random.rand(), random.random()
        mixed.append(batch.indices.tolist())  # type: ignore[union-attr]
    assert mixed == expected


@pytest.mark.parametrize("shuffle", [True, False])
def test_epoch_leaves_the_global_generators_alone(shuffle: bool) -> None:
    loader = make_loader(shuffle=shuffle)
    python, numpy_, torch_ = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    order(loader)
    assert random.getstate() == python
    assert str(np.random.get_state()) == numpy_
    assert torch.equal(torch.get_rng_state(), torch_)


def test_epoch_left_early_can_be_run_again() -> None:
    loader = make_loader()
    expected = order(make_loader())
    for _ in loader.epoch(0, 0):
        break
    assert order(loader) == expected


def test_two_epochs_may_be_read_at_once() -> None:
    loader = make_loader()
    pairs = list(zip(loader.epoch(0, 0), loader.epoch(0, 1), strict=True))
    assert same([a for a, _ in pairs], list(loader.epoch(0, 0)))
    assert same([b for _, b in pairs], list(loader.epoch(0, 1)))


# --- several processes


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_out_each_batch(
    monkeypatch: pytest.MonkeyPatch, world: int, shuffle: bool
) -> None:
    loader = make_loader(shuffle=shuffle)
    whole = order(loader)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        shares.append(order(loader))
    assert [sorted(sum(parts, ())) for parts in zip(*map(tuples, shares), strict=True)] == [
        sorted(batch) for batch in whole
    ]


def tuples(batches: list[list[int]]) -> list[tuple[int, ...]]:
    return [tuple(batch) for batch in batches]


# --- errors


def test_fewer_training_images_than_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="3 training images make no batch of 4; pass batch_size=3"):
        make_loader(3)


def test_fewer_validation_images_than_a_batch_are_a_batch() -> None:
    assert order(make_loader(3, shuffle=False)) == [[0, 1, 2]]


def test_unreadable_image_ends_the_epoch_with_its_name() -> None:
    loader = make_loader()
    loader.cache.items[7] = "gone.jpg"  # type: ignore[index]
    with pytest.raises(ImageError, match=r"gone\.jpg: there is no such file"):
        list(loader.epoch(0, 1))


@pytest.mark.parametrize(("gpu", "ahead"), [(True, 2), (False, 1)])
def test_next_batch_is_made_beside_a_gpu_only(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, ahead: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: gpu)
    loader, made = make_loader(), []
    images = loader.cache.images
    monkeypatch.setattr(loader.cache, "images", lambda i: [made.append(i), images(i)][1])
    with closing(loader.epoch(0, 0)) as batches:
        first = next(batches)
        for _ in range(100):
            if len(made) < 2:
                time.sleep(0.001 if not gpu else 0.05)
        assert len(made) == ahead
        assert same([first, *batches], list(make_loader().epoch(0, 0)))
