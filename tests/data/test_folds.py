"""Folds: every image is for validation once, no group is divided, no image is decoded twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import write_photos

from finetune import ImageDataLoaders
from finetune.data.examples import Examples, join
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.splitting import fold_numbers
from finetune.tasks import MultiLabel

pytestmark = pytest.mark.filterwarnings("ignore:groups= are not divided")

SIZES = {"train": (8, 8), "valid": (9, 9)}
SMALL = {"image_size": 8, "batch_size": 2}


def numbered(labels: list[int], **options: Any) -> Examples:
    """An example for each class number; its item is its number."""
    names = tuple(f"c{number}" for number in range(3))
    items = [str(number) for number in range(len(labels))]
    return Examples(items, torch.tensor(labels), names, **options)


def pictures(count: int, **options: Any) -> ImageDataLoaders:
    """Images in memory, each of one colour, which is its number; two classes in turn."""
    images = [np.full((8, 8, 3), number, np.uint8) for number in range(count)]
    labels = ["a", "b"] * (count // 2)
    return ImageDataLoaders.from_lists(images, labels, **{**SMALL, **options})  # type: ignore[arg-type]


def colours(examples: Examples) -> list[int]:
    return [int(np.asarray(item).flat[0]) for item in examples.items]


# --- which fold an example is in


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), min_size=6, max_size=40),
    count=st.integers(2, 6),
    seed=st.integers(0, 99),
)
def test_each_class_and_all_together_are_divided_evenly(
    labels: list[int], count: int, seed: int
) -> None:
    whole = numbered(labels)
    fold_of = whole.fold_numbers(count, seed)
    for numbers in (fold_of, *(fold_of[whole.labels == label] for label in range(3))):
        sizes = torch.bincount(numbers, minlength=count)
        assert int(sizes.max() - sizes.min()) <= 1


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 2)), min_size=20),
    seed=st.integers(0, 99),
)
def test_no_group_is_divided_and_no_fold_is_empty(rows: list[tuple[str, int]], seed: int) -> None:
    groups = (*(group for group, _ in rows), "i", "j")
    whole = numbered([label for _, label in rows] + [0, 1], groups=groups)
    count = min(3, len(set(groups)))
    fold_of = whole.fold_numbers(count, seed).tolist()
    fold_of_group = dict(zip(groups, fold_of, strict=True))
    assert [fold_of_group[group] for group in groups] == fold_of
    assert set(fold_of) == set(range(count))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=5, max_size=30))
def test_every_label_of_two_images_is_in_every_training(rows: list[list[bool]]) -> None:
    items = [str(number) for number in range(len(rows))]
    whole = Examples(items, torch.tensor(rows).float(), ("a", "b", "c"), MultiLabel())
    fold_of = whole.fold_numbers(5, seed=0)
    for fold in range(5):
        train = whole.select(torch.nonzero(fold_of != fold).flatten())
        for before, left in zip(whole.counts(), train.counts(), strict=True):
            assert left >= 1 or before < 2


def test_rarest_label_is_divided_as_evenly_as_the_common_ones() -> None:
    """It has the fewest images to choose from, and comes first."""
    rows = [[True, number % 2 == 0, number % 6 == 0] for number in range(60)]
    whole = Examples(
        [str(number) for number in range(60)],
        torch.tensor(rows).float(),
        ("a", "b", "c"),
        MultiLabel(),
    )
    fold_of = whole.fold_numbers(5, seed=0)
    for column, expected in enumerate((12, 6, 2)):
        counts = torch.bincount(fold_of[whole.labels[:, column] > 0.5], minlength=5)
        assert counts.tolist() == [expected] * 5


def test_groups_of_uneven_size_make_folds_of_about_one_size() -> None:
    sizes = [30, 20, 10, 10, 10, 5, 5, 5, 5]
    groups = tuple(f"g{number}" for number, size in enumerate(sizes) for _ in range(size))
    fold_of = numbered([0] * 100, groups=groups).fold_numbers(3, seed=0)
    assert torch.bincount(fold_of).max() <= 35


def test_fold_depends_on_the_name_of_an_image_not_on_its_place() -> None:
    whole = numbered([number % 3 for number in range(60)])
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        whole.select(order).fold_numbers(5, seed=0), whole.fold_numbers(5, seed=0)[order]
    )
    assert not torch.equal(whole.fold_numbers(5, seed=1), whole.fold_numbers(5, seed=0))


def test_more_folds_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="5 folds need as many images, or groups of them, and the"):
        fold_numbers(["a", "a", "b"], [torch.arange(3)], 5, seed=0)


# --- all examples of a split


def test_examples_of_a_split_are_joined_in_the_order_that_they_had() -> None:
    whole = numbered([number % 3 for number in range(30)], groups=tuple(map(str, range(30))))
    together, places = join(*whole.split(0.3, seed=0))
    assert together.items == whole.items
    assert torch.equal(together.labels, whole.labels)
    assert together.groups == whole.groups
    train, valid = whole.split(0.3, seed=0)
    assert [[*train.items, *valid.items][place] for place in places] == whole.items


def test_examples_of_two_data_sets_are_joined_with_training_first() -> None:
    train, valid = numbered([0, 1, 2]), numbered([0, 1])
    together, _ = join(train, valid)
    assert together.items == ["0", "1", "2", "0", "1"]
    assert together.numbers is not None
    assert together.numbers.tolist() == [0, 1, 2, 3, 4]


# --- folds of images


def test_every_image_is_for_validation_once() -> None:
    data = pictures(24)
    folds = data.folds(4)
    valid = [colour for fold in folds for colour in colours(fold.valid_examples)]
    assert sorted(valid) == list(range(24))
    for fold in folds:
        assert sorted([*colours(fold.train_examples), *colours(fold.valid_examples)]) == sorted(
            valid
        )
        assert fold.train_examples.counts() == [9, 9]


def test_folds_give_the_images_that_they_name() -> None:
    for fold in pictures(12).folds(3):
        for loader in (fold.train, fold.valid):
            for batch in loader.of_squares().epoch(0, 0):
                expected = [colours(loader.examples)[number] for number in batch.indices.tolist()]  # type: ignore[union-attr]
                assert batch.inputs[:, 0, 0, 0].tolist() == expected


def test_folds_leave_the_data_as_they_were() -> None:
    data = pictures(12)
    before = data.fingerprint()
    data.folds(3)
    assert data.fingerprint() == before


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The images decoded since the start of the test."""
    sources: list[Any] = []
    for name in ("presize", "presize_middle"):
        plain = getattr(Preprocessing, name)

        def counted(self: Preprocessing, source: Any, *more: Any, plain: Any = plain) -> Any:
            sources.append(source)
            return plain(self, source, *more)

        monkeypatch.setattr(Preprocessing, name, counted)
    return sources


def go_through(data: ImageDataLoaders) -> None:
    ready = data.for_backbone(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    list(ready.train.epoch(0, 0))
    list(ready.valid.epoch(0, 0))


def test_no_image_is_decoded_twice_over_folds_and_backbones(
    tmp_path: Path, decoded: list[Any]
) -> None:
    folder = write_photos(tmp_path, per_class=4, size=(8, 8))
    for fold in ImageDataLoaders.from_folder(folder, **SMALL).folds(3):  # type: ignore[arg-type]
        go_through(fold)
        go_through(fold)
    assert len(decoded) == 12


def test_folds_find_what_the_data_decoded_for_training(tmp_path: Path, decoded: list[Any]) -> None:
    folder = write_photos(tmp_path, per_class=4, size=(8, 8))
    data = ImageDataLoaders.from_folder(folder, **SMALL)  # type: ignore[arg-type]
    for part in (data, *data.folds(3)):
        go_through(part)
    # of those that the data validate on there was the middle square alone
    assert len(decoded) == 12 + len(data.valid_examples)


def test_folds_of_a_split_that_was_given_take_the_images_of_both_sides(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        write_photos(tmp_path / part, per_class=3, size=SIZES[part])
    data = ImageDataLoaders.from_folder(tmp_path, train="train", valid="valid", **SMALL)  # type: ignore[arg-type]
    folds = data.folds(3)
    valid = [str(item) for fold in folds for item in fold.valid_examples.items]
    assert sorted(valid) == sorted(map(str, tmp_path.rglob("*.jpg")))


def test_folds_of_two_data_sets_read_each_image_from_its_own() -> None:
    def pairs(first: int) -> list[tuple[np.ndarray, int]]:
        return [(np.full((8, 8, 3), first + number, np.uint8), number % 2) for number in range(6)]

    data = ImageDataLoaders.from_dataset(pairs(0), pairs(100), classes=["a", "b"], **SMALL)  # type: ignore[arg-type]
    valid = [colour for fold in data.folds(3) for colour in colours(fold.valid_examples)]
    assert sorted(valid) == [*range(6), *range(100, 106)]


def test_folds_of_a_data_set_that_was_split_read_what_they_name() -> None:
    images = [(np.full((8, 8, 3), number, np.uint8), number % 2) for number in range(12)]
    data = ImageDataLoaders.from_dataset(images, classes=["a", "b"], **SMALL)  # type: ignore[arg-type]
    valid = [colour for fold in data.folds(3) for colour in colours(fold.valid_examples)]
    assert sorted(valid) == list(range(12))


def test_groups_stay_together_in_folds() -> None:
    data = pictures(24, groups=[number // 4 for number in range(24)], valid_fraction=0.4)
    for fold in data.folds(3):
        assert not set(fold.train_examples.groups or ()) & set(fold.valid_examples.groups or ())


def test_class_of_one_image_is_said() -> None:
    images = [np.full((8, 8, 3), number, np.uint8) for number in range(13)]
    data = ImageDataLoaders.from_lists(images, ["a", "b"] * 6 + ["lone"], **SMALL)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="1 of 3 classes have no training image: 'lone'") as warned:
        data.folds(3)
    assert len(warned) == 1


@pytest.mark.parametrize("count", [1, 0, -3])
def test_fewer_than_two_folds_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="count must be a whole number of at least 2, got"):
        pictures(12).folds(count)
