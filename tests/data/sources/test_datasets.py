import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import write_photos
from torch.utils.data import Subset

from finetune import ImageDataLoaders
from finetune.data.images.decode import read_image
from finetune.data.images.opening import ImageError
from finetune.data.sources.datasets import from_dataset


class Images:
    """A data set of (image, label) that counts how often it is read."""

    def __init__(self, labels: list[int]) -> None:
        self.labels, self.reads = labels, 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.reads += 1
        return np.full((8, 8, 3), index, dtype=np.uint8), self.labels[index]


class Targets(Images):
    classes = ("ant", "bee")

    @property
    def targets(self) -> list[int]:
        return self.labels


def test_dataset_with_classes_of_its_own_is_called_by_them() -> None:
    dataset = Targets([0, 1, 1])
    examples = from_dataset(dataset, None)
    assert examples.classes == ("ant", "bee")
    assert examples.labels.tolist() == [0, 1, 1]
    assert dataset.reads == 3


def test_dataset_items_are_its_images() -> None:
    examples = from_dataset(Targets([0, 1, 1]), None)
    assert len(examples.items) == 3
    assert np.asarray(examples.items[2])[0, 0].tolist() == [2, 2, 2]


def test_dataset_without_targets_and_classes_is_read_once() -> None:
    dataset = Images([0, 2, 1])
    examples = from_dataset(dataset, None)
    assert examples.classes == ("0", "1", "2")
    assert examples.labels.tolist() == [0, 2, 1]
    assert dataset.reads == 3


def test_given_classes_go_before_those_of_the_dataset() -> None:
    assert from_dataset(Targets([0, 1]), ("x", "y")).classes == ("x", "y")


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_targets_may_be_a_tensor_or_an_array(kind: type) -> None:
    dataset = Targets(kind([0, 1, 1]))  # type: ignore[arg-type]
    assert from_dataset(dataset, None).labels.tolist() == [0, 1, 1]


def test_split_of_a_dataset_reads_no_image() -> None:
    """Else a random split would decode all images and keep them in memory at full size."""
    dataset = Targets([0, 1] * 10)
    examples = from_dataset(dataset, None)
    dataset.reads = 0
    train, valid = examples.split(0.2, seed=0)
    assert len(train) + len(valid) == 20
    assert dataset.reads == 0


def test_split_of_a_dataset_keeps_images_and_labels_together() -> None:
    for part in from_dataset(Targets([0, 1] * 10), None).split(0.2, seed=0):
        numbers = [int(np.asarray(image)[0, 0, 0]) for image in part.items]
        assert [number % 2 for number in numbers] == part.labels.tolist()


def test_torchvision_image_folder_is_read(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    examples = from_dataset(ImageFolder(str(write_photos(tmp_path, per_class=2))), None)
    assert examples.classes == ("blue", "green", "red")
    assert examples.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert examples.items[0].size == (48, 40)  # type: ignore[union-attr]


def test_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="the data set is empty"):
        from_dataset(Targets([]), None)


@pytest.mark.parametrize("labels", [[0, 2], [-1, 1]])
def test_dataset_label_without_a_class_is_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"labels go from -?\d to \d, but there are 2 classes"):
        from_dataset(Targets(labels), None)


def test_dataset_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least two classes, found only \['0'\]"):
        from_dataset(Images([0, 0]), None)


# --- Hugging Face


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Twelve photos as a Hugging Face data set, written to and read from its own files."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("rows")
    files = sorted(write_photos(folder / "photos", per_class=4).rglob("*.jpg"))
    features = datasets.Features(
        photo=datasets.Image(), kind=datasets.ClassLabel(names=["blue", "green", "red"]),
        name=datasets.Value("string"), number=datasets.Value("int64"),
    )  # fmt: skip
    columns = {
        "photo": list(map(str, files)),
        "kind": [file.parent.name for file in files],
        "name": [file.parent.name.upper() for file in files],
        "number": [i % 2 for i in range(len(files))],
    }
    made = datasets.Dataset.from_dict(columns, features=features)
    made.save_to_disk(str(folder / "saved"))
    return datasets.load_from_disk(str(folder / "saved"))


def test_rows_have_images_labels_and_names(rows: Any) -> None:
    examples = from_dataset(rows, None)
    assert examples.classes == ("blue", "green", "red")
    assert examples.labels.tolist() == rows["kind"][:]
    assert read_image(examples.items[9]).tobytes() == rows[9]["photo"].tobytes()


def test_rows_are_read_when_they_are_asked_for(rows: Any, monkeypatch: Any) -> None:
    import datasets

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(datasets.Image, "decode_example", refuse)
    train, valid = from_dataset(rows, None).split(0.25, 0)
    assert len(train) + len(valid) == 12
    with pytest.raises(ImageError, match="decoded"):
        _ = train.items[0]


@pytest.mark.parametrize(
    ("column", "classes"), [("name", ("BLUE", "GREEN", "RED")), ("number", ("0", "1"))]
)
def test_column_of_labels_can_be_named(rows: Any, column: str, classes: tuple[str, ...]) -> None:
    examples = from_dataset(rows, None, label_column=column)
    assert examples.classes == classes
    assert len(set(examples.labels.tolist())) == len(classes)


def test_columns_have_usual_names(rows: Any) -> None:
    renamed = rows.rename_columns({"photo": "image", "name": "label"}).remove_columns("kind")
    assert from_dataset(renamed, None).classes == ("BLUE", "GREEN", "RED")


def test_format_of_the_rows_does_not_matter(rows: Any) -> None:
    examples = from_dataset(rows.with_format("numpy"), None)
    assert isinstance(examples.items[0], Image.Image)


def test_images_that_are_not_decoded_are_read(rows: Any) -> None:
    import datasets

    plain = rows.cast_column("photo", datasets.Image(decode=False))
    examples = from_dataset(plain, None, image_column="photo")
    assert read_image(examples.items[3]).size == (48, 40)


def test_rows_train_and_validate(rows: Any) -> None:
    halves = rows.train_test_split(0.5, seed=0)
    data = ImageDataLoaders.from_dataset(
        halves["train"], halves["test"], image_size=16, batch_size=3
    )
    assert data.classes == ("blue", "green", "red")
    batch = next(data.valid.epoch(0, 0))
    assert batch.targets.tolist() == halves["test"]["kind"][:]
    assert data.summary().leaks == ()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_column": "foto"}, "no column 'foto'; did you mean 'photo'"),
        ({"label_column": "photo"}, "column 'photo' holds no class indices or names"),
    ],
)
def test_wrong_column_is_named(rows: Any, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dataset(rows, None, **wrong)


def test_column_that_can_not_be_told_is_asked_for(rows: Any) -> None:
    with pytest.raises(
        ValueError, match=r"which column is the label\? pass label_column=; there a"
    ):
        from_dataset(rows.remove_columns("kind"), None)


def test_several_data_sets_at_once_are_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match="a mapping of 'train', 'test'; pass one data set of it"):
        from_dataset(rows.train_test_split(0.5), None)


def test_pairs_have_no_columns() -> None:
    with pytest.raises(ValueError, match="for data sets with named columns; list has none"):
        from_dataset([(np.zeros((4, 4)), 0)] * 2, None, label_column="x")


# --- what would be another label


def test_numbers_that_are_no_class_indices_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"class indices, got 1\.5; for a regression pass .* from_l"
    ):
        from_dataset(Targets([0.0, 1.5, 1.0]), None)  # type: ignore[list-item]
    assert from_dataset(Targets([0.0, 1.0]), None).labels.tolist() == [0, 1]  # type: ignore[list-item]


def test_part_of_a_dataset_has_its_classes() -> None:
    whole = Targets([0, 1] * 4)
    part = Subset(Subset(whole, [1, 2, 3, 4]), [0, 1])  # type: ignore[arg-type, var-annotated]
    examples = from_dataset(part, None)
    assert (examples.classes, examples.labels.tolist()) == (("ant", "bee"), [1, 0])
    data = ImageDataLoaders.from_dataset(whole, part, image_size=16, batch_size=2)
    assert data.valid_examples.texts() == ["bee", "ant"]


def test_classes_of_a_dataset_may_be_an_array() -> None:
    train, valid, names = Targets([0, 1]), Targets([0, 1]), np.array(["x", "y"])
    data = ImageDataLoaders.from_dataset(train, valid, classes=names, batch_size=2)  # type: ignore[arg-type]
    assert data.valid_examples.texts() == ["x", "y"]


# --- labels beside the images


class StoredLabels(Images):
    """Stores labels under a name, which need not be those of its items."""

    def __init__(self, labels: list[int], name: str, stored: Any) -> None:
        super().__init__(labels)
        self.item_labels = labels
        del self.labels
        setattr(self, name, stored)

    def __len__(self) -> int:
        return len(self.item_labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.reads += 1
        return np.full((8, 8, 3), index, dtype=np.uint8), self.item_labels[index]


@pytest.mark.parametrize("stored", [None, 3, {"a": 1, "b": 2}])
def test_what_is_no_list_of_labels_is_not_taken_for_one(stored: Any) -> None:
    dataset = StoredLabels([0, 1], "labels", stored)
    assert from_dataset(dataset, None).labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["targets", "labels", "_labels"])
def test_items_say_the_labels_whatever_is_stored(name: str) -> None:
    """What a data set gives is the truth; a few items that agree would prove nothing."""
    wrong = StoredLabels([0, 1, 0, 0], name, [0, 1, 1, 0])
    assert from_dataset(wrong, None).labels.tolist() == [0, 1, 0, 0]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("stored"), per_class=3)


def test_labels_of_a_known_class_are_not_read_from_its_items(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import ImageFolder

    class Renamed(ImageFolder):
        """Reads its items as the library does."""

    monkeypatch.setattr("finetune.data.sources.datasets.read_one", None)
    for dataset in (ImageFolder(str(photos)), Renamed(str(photos))):
        dataset.targets = [2] * 9  # its items have the labels of `samples`
        assert from_dataset(dataset, None).labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
        part = Subset(dataset, [8, 0])
        assert from_dataset(part, None).labels.tolist() == [2, 0]


def test_item_that_is_corrected_in_a_subclass_is_the_truth(photos: Path) -> None:
    from torchvision.datasets import ImageFolder

    class Turned(ImageFolder):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image, 2 - label

    class TurnedPart(Subset):
        def __getitem__(self, index: Any) -> Any:
            image, label = super().__getitem__(index)
            return image, 2 - label

        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [self[index] for index in indices]

    expected = [2, 2, 2, 1, 1, 1, 0, 0, 0]
    assert from_dataset(Turned(str(photos)), None).labels.tolist() == expected
    part = TurnedPart(ImageFolder(str(photos)), range(9))
    assert from_dataset(part, None).labels.tolist() == expected


def test_target_transform_takes_the_names_of_the_classes_away(photos: Path) -> None:
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(photos), target_transform=lambda label: label // 2)
    with pytest.warns(UserWarning, match=r"target_transform .* makes other labels, so that"):
        examples = from_dataset(dataset, None)
    assert (examples.classes, examples.labels.tolist()) == (("0", "1"), [0] * 6 + [1] * 3)
    assert from_dataset(dataset, ("cold", "warm")).classes == ("cold", "warm")


def test_image_of_a_folder_is_called_by_its_path(photos: Path) -> None:
    """So that an image which is added before others moves none of them to another side."""
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(photos))
    items = from_dataset(dataset, None).items
    assert items.identities[3].endswith("green/000.jpg")  # type: ignore[attr-defined]
    part = from_dataset(Subset(dataset, [3]), None).items
    assert part.identities == [items.identities[3]]  # type: ignore[attr-defined]


def test_items_may_be_dicts() -> None:
    rows = [
        {"image": np.full((8, 8, 3), i, np.uint8), "label": torch.tensor(i % 2)} for i in (0, 1)
    ]
    examples = from_dataset(rows, None)
    assert examples.labels.tolist() == [0, 1]
    assert np.asarray(examples.items[1]).max() == 1


def test_data_set_without_a_length_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a length and items by number, which generator la"):
        from_dataset((pair for pair in [(0, 0)]), None)  # type: ignore[arg-type]


def test_item_that_can_not_be_read_is_named() -> None:
    class Torn(Images):
        def __getitem__(self, index: int) -> Any:
            raise OSError("torn")

    with pytest.raises(ImageError, match=r"can't read image 0 of Torn: torn \(OSError\)"):
        from_dataset(Torn([0, 1]), None)


# --- one thread at a time


class OneFile(Images):
    """Reads all items from one place, as from an open file: two readers are too many."""

    place = 0

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.place = index
        time.sleep(0.0005)
        return np.full((8, 8, 3), self.place, dtype=np.uint8), self.labels[index]


def test_data_set_is_read_by_one_thread_at_a_time() -> None:
    whole = OneFile([0, 1] * 30)
    data = ImageDataLoaders.from_dataset(whole, whole, image_size=8, batch_size=60, num_workers=8)
    numbers = torch.arange(60)
    images = data.train.cache.squares().images(numbers)
    assert images.amax(dim=(1, 2, 3)).tolist() == numbers.tolist()


def test_rows_that_a_transform_makes_are_the_truth(rows: Any) -> None:
    def turn(batch: dict) -> dict:
        return {"image": batch["photo"], "label": [2 - kind for kind in batch["kind"]]}

    examples = from_dataset(rows.with_transform(turn), None)
    assert examples.labels.tolist() == [2 - kind for kind in rows["kind"][:]]
    assert isinstance(examples.items[0], Image.Image)


def test_classes_of_a_data_set_may_differ_in_case_only() -> None:
    letters = Targets([0, 1])
    assert from_dataset(letters, ["A", "a"]).classes == ("A", "a")


@pytest.mark.parametrize("targets", [[[0, 1], [1, 1]], ["x", "y"], [[0], [1, 1]]])
def test_labels_that_are_no_indices_name_the_way(targets: Any) -> None:
    with pytest.raises(ValueError, match=r"are class indices, got .*; pass images and names"):
        from_dataset(Targets(targets), None)


def test_transform_of_the_dataset_is_said_to_run_once() -> None:
    dataset = Targets([0, 1])
    dataset.transform = lambda image: image  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="transform of this Targets runs once an image"):
        from_dataset(dataset, None)
