"""How often the classes come in an epoch."""

import numpy as np
import pytest
import torch

from finetune import ImageDataLoaders, distributed
from finetune.data.batching import ImageLoader
from finetune.data.examples import Examples
from finetune.data.images.cache import ImageCache
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.sampling import Sampling, class_shares, draw
from finetune.randomness import generator

COUNTS = [90, 9, 1]
LABELS = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))


def make_loader(sampling: Sampling | None = "balanced") -> ImageLoader:
    """100 images of three classes, 90, 9 and 1."""
    items = [np.full((8, 8, 3), number, dtype=np.uint8) for number in range(100)]
    cache = ImageCache(items, Preprocessing(8), 1)
    examples = Examples(items, LABELS, ("a", "b", "c"))
    return ImageLoader(examples, cache, 10, shuffle=True, sampling=sampling)


def order(loader: ImageLoader, seed: int, epoch: int, start: int = 0) -> list[list[int]]:
    return [batch.indices.tolist() for batch in loader.epoch(seed, epoch, start)]  # type: ignore[union-attr]


def uneven_data(**options: object) -> ImageDataLoaders:
    images = [np.full((8, 8, 3), number, dtype=np.uint8) for number in range(24)]
    labels = ["a"] * 15 + ["b"] * 3 + ["a"] * 3 + ["b"] * 3
    is_valid = [number >= 18 for number in range(24)]
    small: dict = {"image_size": 8, "batch_size": 6, "augment": "none", **options}
    return ImageDataLoaders.from_lists(images, labels, is_valid=is_valid, **small)


@pytest.mark.parametrize("sampling", ["balanced", "sqrt"])
def test_each_class_has_its_share_of_an_epoch_and_each_of_its_images_alike(sampling: str) -> None:
    shares = class_shares(COUNTS, sampling)  # type: ignore[arg-type]
    numbers = draw(LABELS, sampling, seed=0, epoch=1)  # type: ignore[arg-type]
    assert len(numbers) == 100
    by_class = torch.bincount(LABELS[numbers], minlength=3) / 100
    assert by_class.tolist() == pytest.approx(shares, abs=0.0101)
    times = torch.bincount(numbers, minlength=100)
    for number, count in enumerate(COUNTS):
        of_class = times[number == LABELS]
        assert len(of_class) == count
        assert of_class.max() - of_class.min() <= 1


def test_over_many_epochs_every_image_comes_as_often_as_its_share() -> None:
    times = sum(
        torch.bincount(draw(LABELS, "sqrt", 3, epoch), minlength=100) for epoch in range(300)
    )
    expected = torch.tensor(class_shares(COUNTS, "sqrt"))[LABELS] / torch.tensor(COUNTS)[LABELS]
    assert torch.allclose(times / 30_000, expected, rtol=0.25)  # type: ignore[operator]


def test_an_epoch_is_a_function_of_seed_and_epoch_from_any_batch_on() -> None:
    loader = make_loader()
    whole = order(loader, 3, 2)
    assert order(loader, 3, 2, start=4) == whole[4:]
    assert order(make_loader(), 3, 2) == whole
    assert order(loader, 3, 3) != whole
    assert [len(batch) for batch in whole] == [10] * 10


def test_processes_share_the_batches_of_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make_loader()
    whole = loader.order(0, 0)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        shares.append(loader.order(0, 0))
    for batch, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(batch[0::2], first)
        assert torch.equal(batch[1::2], second)


def test_without_sampling_the_order_is_the_one_of_before() -> None:
    expected = torch.randperm(100, generator=generator(0, "shuffle", 4))
    assert torch.equal(torch.cat(make_loader(None).order(0, 4)), expected)


def test_the_data_say_how_often_training_sees_each_class() -> None:
    assert uneven_data().class_shares() == pytest.approx({"a": 15 / 18, "b": 3 / 18})
    assert uneven_data(sampling="balanced").class_shares() == {"a": 0.5, "b": 0.5}


def test_sampling_is_part_of_what_a_run_is_known_by() -> None:
    fingerprints = [uneven_data(sampling=kind).fingerprint() for kind in (None, "sqrt")]
    assert fingerprints[0] != fingerprints[1]


def test_several_labels_an_image_can_not_be_sampled() -> None:
    images = [np.zeros((8, 8, 3), np.uint8)] * 4
    with pytest.raises(ValueError, match=r"sampling='sqrt' is for one .*multi_label"):
        ImageDataLoaders.from_lists(
            images,
            [["a"], ["b"], ["a"], []],
            task="multi_label",
            is_valid=[False, False, True, True],
            sampling="sqrt",
            batch_size=1,
        )


def test_an_unknown_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="sampling must be one of 'balanced', 'sqrt', got 'even'"):
        uneven_data(sampling="even")
