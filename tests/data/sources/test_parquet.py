"""Examples from Parquet files: those of the folder that was written into them, in any order."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from parquets import class_label, image, write_folder_as_parquet, write_parquet
from range_server import Store, range_server
from support import same_state, write_photos
from tars import jpeg

from finetune import Callback, ImageDataLoaders, ImageError, Learner, vision_learner
from finetune.data.images import parquet as parquet_images
from finetune.training.events import StepEnd

OPTIONS: dict = {"image_size": 32, "batch_size": 4, "num_workers": 2}
GREYS = [jpeg(9 * number) for number in range(12)]
LABELS = ["cat", "dog"] * 6


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", per_class=6)


class Interrupt(Callback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, event: StepEnd) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise KeyboardInterrupt


def learner_of(data: ImageDataLoaders) -> Learner:
    return vision_learner(data, "test_resnet", weights=None, device="cpu", progress=False)


def inputs_of(data: ImageDataLoaders) -> torch.Tensor:
    """All training inputs of an epoch."""
    return torch.cat([data.prepare(batch, view=1).inputs for batch in data.train.epoch(0, 1)])


def texts_by_row(data: ImageDataLoaders) -> list[str]:
    """The labels of all images in words, in the order of the rows."""
    pairs = []
    for part in (data.train_examples, data.valid_examples):
        rows = [item.row for item in part.items]  # type: ignore[union-attr]
        pairs += zip(rows, part.texts(), strict=True)
    return [text for _, text in sorted(pairs)]


def names_of(data: ImageDataLoaders) -> set[str]:
    items = [*data.train_examples.items, *data.valid_examples.items]
    return {item.name for item in items}  # type: ignore[union-attr]


def of_greys(tmp_path: Path, **columns: Any) -> Path:
    """A file of twelve images, with these columns beside or in place of the usual ones."""
    usual = {"image": [image(content) for content in GREYS], "label": LABELS}
    return write_parquet(tmp_path / "a.parquet", {**usual, **columns})


# --- the same as a folder


@pytest.mark.parametrize(("count", "rows_per_group"), [(1, 100), (2, 4), (3, 1)])
def test_training_is_that_of_the_folder_bit_for_bit(
    photos: Path, tmp_path: Path, count: int, rows_per_group: int
) -> None:
    files = write_folder_as_parquet(photos, tmp_path / "files", count, rows_per_group)
    states = []
    for data in (
        ImageDataLoaders.from_folder(photos, **OPTIONS),
        ImageDataLoaders.from_parquet(files, **{**OPTIONS, "num_workers": 3}),
    ):
        learner = learner_of(data)
        learner.fit(1)
        states.append(learner.model.state_dict())
    assert same_state(*states)


def test_a_run_of_a_folder_goes_on_in_the_middle_of_an_epoch_from_parquet(
    photos: Path, tmp_path: Path
) -> None:
    whole = learner_of(ImageDataLoaders.from_folder(photos, **OPTIONS))
    whole.fit(2)
    interrupted = learner_of(ImageDataLoaders.from_folder(photos, **OPTIONS))
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(2, callbacks=[Interrupt(steps=4)])
    interrupted.save(tmp_path / "run.ckpt")
    files = write_folder_as_parquet(photos, tmp_path / "files", 2)
    learner = learner_of(ImageDataLoaders.from_parquet(files, **OPTIONS))
    learner.load(tmp_path / "run.ckpt")
    learner.resume()
    assert len(whole.history.steps) == 6
    assert same_state(whole.model.state_dict(), learner.model.state_dict())


def test_a_file_of_hugging_face_is_read(photos: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    whole = datasets.load_dataset(
        "imagefolder", data_dir=str(photos), split="train", cache_dir=str(tmp_path / "cache")
    )
    whole.to_parquet(tmp_path / "a.parquet", batch_size=4)
    with pytest.raises(ValueError, match="has only the paths of its images"):
        ImageDataLoaders.from_parquet(tmp_path / "a.parquet", **OPTIONS)
    embed = datasets.table.embed_table_storage  # as push_to_hub does
    whole = whole.with_format("arrow").map(embed, batched=True)
    whole.to_parquet(tmp_path / "a.parquet", batch_size=4)
    data = ImageDataLoaders.from_parquet(tmp_path / "a.parquet", **OPTIONS)
    assert data.classes == ("blue", "green", "red")
    assert texts_by_row(data) == ["blue"] * 6 + ["green"] * 6 + ["red"] * 6


# --- how images are read


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    folder = tmp_path / "store"
    folder.mkdir()
    with range_server(folder) as store:
        yield store


def test_each_row_group_is_read_once_in_a_random_order(
    photos: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_images, "KEPT_BYTES", 1)
    write_folder_as_parquet(photos, store.folder, 2, rows_per_group=3)
    expected = inputs_of(ImageDataLoaders.from_folder(photos, **OPTIONS))
    address = f"{store.address}/train-{{000..001}}.parquet"
    data = ImageDataLoaders.from_parquet(address, **{**OPTIONS, "num_workers": 1})
    store.requests.clear()
    assert torch.equal(inputs_of(data), expected)
    assert len(store.requests) == len(set(store.requests)) == 6
    inputs_of(data)
    assert len(store.requests) == 6


def test_without_room_each_batch_reads_its_groups_and_it_is_said(
    photos: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_images, "KEPT_BYTES", 1)
    monkeypatch.setattr("finetune.data.memory.memory_bytes", lambda: 0)
    usage = shutil.disk_usage(photos)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    write_folder_as_parquet(photos, store.folder, 1, rows_per_group=3)
    address = f"{store.address}/train-000.parquet"
    data = ImageDataLoaders.from_parquet(address, **{**OPTIONS, "num_workers": 1})
    with pytest.warns(UserWarning, match="anew in every epoch, with all that is read together wi"):
        first = inputs_of(data)
    store.requests.clear()
    assert torch.equal(inputs_of(data), first)
    # a batch takes its images in the order of the rows, so that it reads no group twice
    requests = len(store.requests)
    assert 6 < requests == sum(groups_of_batches(data))


def groups_of_batches(data: ImageDataLoaders) -> Iterator[int]:
    """How many row groups of three rows each batch of the first epoch has images of."""
    for batch in data.train.epoch(0, 1):
        assert batch.indices is not None
        items = [data.train_examples.items[number] for number in batch.indices.tolist()]
        yield len({item.row // 3 for item in items})  # type: ignore[union-attr]


def test_nothing_but_labels_and_names_is_read_before_an_image_is(
    photos: Path, store: Store
) -> None:
    write_folder_as_parquet(photos, store.folder, 1, rows_per_group=6)
    file = store.folder / "train-000.parquet"
    address = f"{store.address}/{file.name}"
    data = ImageDataLoaders.from_parquet(address, value_range=(0, 255), **OPTIONS)
    assert len(data.train_examples) == 15
    ends = [text.removeprefix("bytes=").split("-") for _, text in store.requests]
    read_bytes = sum(int(last) - int(first) + 1 for first, last in ends)
    images = sum(photo.stat().st_size for photo in photos.rglob("*.jpg"))
    end_of_file = 1 << 16  # what pyarrow reads of any file
    assert read_bytes < file.stat().st_size - images + 2 * end_of_file
    groups = [(int(first), int(last)) for first, last in ends[1:]]
    assert max(last - first for first, last in groups) < images / 3


def test_images_are_kept_in_the_cache_folder_until_their_file_changes(
    photos: Path, tmp_path: Path
) -> None:
    files = write_folder_as_parquet(photos, tmp_path / "files", 2)
    options = {**OPTIONS, "cache_folder": tmp_path / "cache"}
    before = inputs_of(ImageDataLoaders.from_parquet(files, **options))
    stored = {file.name for file in (tmp_path / "cache").iterdir()}
    assert {Path(name).suffix for name in stored} == {".images", ".identities"}
    assert torch.equal(inputs_of(ImageDataLoaders.from_parquet(files, **options)), before)
    for number, file in enumerate(photos.rglob("*.jpg")):
        file.write_bytes(jpeg(9 * number))
    write_folder_as_parquet(photos, tmp_path / "files", 2)
    assert not torch.equal(inputs_of(ImageDataLoaders.from_parquet(files, **options)), before)
    assert {file.name for file in (tmp_path / "cache").iterdir()} == stored


def test_an_unreadable_image_is_an_error_only_where_it_is_asked_for(
    photos: Path, tmp_path: Path
) -> None:
    broken = photos / "green" / "001.jpg"  # row 7
    broken.write_bytes(b"no image")
    files = write_folder_as_parquet(photos, tmp_path / "files", 1, rows_per_group=100)
    data = ImageDataLoaders.from_parquet(files, **OPTIONS)
    rows = [item.row for item in data.train_examples.items]  # type: ignore[union-attr]
    assert 7 in rows
    others = [number for number, row in enumerate(rows) if row != 7]
    data.train.cache.images(torch.tensor(others[:2]))
    message = r"can't read image .*train-000\.parquet/row 7: cannot identify"
    with pytest.raises(ImageError, match=message):
        inputs_of(data)
    with pytest.warns(UserWarning, match=r"left out 1 unreadable images:\n.*parquet/row 7"):
        data = ImageDataLoaders.from_parquet(files, on_error="skip", **OPTIONS)
    assert len(data.train_examples) + len(data.valid_examples) == 17


def test_a_file_that_changes_afterwards_is_an_error(photos: Path, tmp_path: Path) -> None:
    files = write_folder_as_parquet(photos, tmp_path / "files", 1)
    data = ImageDataLoaders.from_parquet(files, value_range=(0, 255), **OPTIONS)
    write_folder_as_parquet(photos, tmp_path / "files", 1)
    os.utime(tmp_path / "files" / "train-000.parquet", ns=(0, 5))
    with pytest.raises(ImageError, match=r"000\.parquet/row \d+: the file has changed since"):
        inputs_of(data)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this platform")
def test_a_forked_process_reads_the_same(photos: Path, tmp_path: Path) -> None:
    files = write_folder_as_parquet(photos, tmp_path / "files", 1)
    data = ImageDataLoaders.from_parquet(files, **OPTIONS)
    items: Any = data.train_examples.items
    expected = [(photos / item.name).read_bytes() for item in items]
    assert items[0].content() == expected[0]
    child = os.fork()
    if not child:
        contents = [item.content() for item in items]
        os._exit(0 if contents == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_arrays_of_numpy_are_images_by_their_names(tmp_path: Path) -> None:
    cells = []
    for number in range(12):
        file = tmp_path / f"{number}.npy"
        np.save(file, np.full((8, 8, 5), 20 * number, np.uint8))
        cells.append(image(file.read_bytes(), file.name))
    data = ImageDataLoaders.from_parquet(of_greys(tmp_path, image=cells), channels=5, **OPTIONS)
    assert inputs_of(data).shape[1:] == (5, 32, 32)


# --- what is in which column


def test_indices_have_the_names_of_the_metadata(tmp_path: Path) -> None:
    columns = {"picture": GREYS, "n": [9] * 12, "kind": [number % 2 for number in range(12)]}
    features = {"picture": {"_type": "Image"}, "kind": class_label(["no", "yes"])}
    file = write_parquet(tmp_path / "a.parquet", columns, features)
    assert texts_by_row(ImageDataLoaders.from_parquet(file, **OPTIONS)) == ["no", "yes"] * 6
    data = ImageDataLoaders.from_parquet(file, classes=["a", "b"], **OPTIONS)
    assert texts_by_row(data) == ["a", "b"] * 6


def test_texts_are_names_and_other_indices_are_called_by_their_numbers(tmp_path: Path) -> None:
    assert texts_by_row(ImageDataLoaders.from_parquet(of_greys(tmp_path), **OPTIONS)) == LABELS
    dictionary = pyarrow.array(LABELS).dictionary_encode()
    file = of_greys(tmp_path, label=dictionary)
    assert texts_by_row(ImageDataLoaders.from_parquet(file, **OPTIONS)) == LABELS
    file = of_greys(tmp_path, label=[number % 2 for number in range(12)])
    assert texts_by_row(ImageDataLoaders.from_parquet(file, **OPTIONS)) == ["0", "1"] * 6


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
def test_the_only_other_column_is_the_label(tmp_path: Path, kind: Any) -> None:
    columns = {"picture": pyarrow.array(GREYS, kind), "species": LABELS}
    file = write_parquet(tmp_path / "a.parquet", columns)
    assert texts_by_row(ImageDataLoaders.from_parquet(file, **OPTIONS)) == LABELS
    data = ImageDataLoaders.from_parquet(
        file, image_column="picture", label_column="species", **OPTIONS
    )
    assert inputs_of(data).shape[1:] == (3, 32, 32)


def test_several_labels_are_lists_of_names_or_of_indices(tmp_path: Path) -> None:
    lists = [["a", "b"], ["b"], []] * 4
    file = of_greys(tmp_path, label=lists)
    named = ImageDataLoaders.from_parquet(file, task="multi_label", **OPTIONS)
    assert texts_by_row(named)[:2] == ["a, b", "b"]
    for features in (
        {"label": {"feature": class_label(["b", "a"]), "_type": "List"}},
        {"label": [class_label(["b", "a"])]},
    ):
        columns = {
            "image": [image(content) for content in GREYS],
            "label": [[0, 1], [0], []] * 4,
        }
        file = write_parquet(tmp_path / "b.parquet", columns, features)
        data = ImageDataLoaders.from_parquet(file, task="multi_label", **OPTIONS)
        assert data.classes == ("b", "a")
        assert texts_by_row(data)[:2] == ["b, a", "b"]


def test_numbers_are_a_regression(tmp_path: Path) -> None:
    file = of_greys(tmp_path, label=[number + 0.5 for number in range(12)])
    data = ImageDataLoaders.from_parquet(file, task="regression", **OPTIONS)
    assert sorted(data.train_examples.labels.flatten().tolist())[0] in (0.5, 1.5, 2.5)


def test_validation_files_are_in_the_classes_of_training(tmp_path: Path) -> None:
    cells = [image(content) for content in GREYS]
    indices = [number % 2 for number in range(12)]
    for name, names in (("train", ["cat", "dog"]), ("valid", ["dog", "cat"])):
        features = {"label": class_label(names)}
        columns = {"image": cells[:6] if name == "train" else cells[6:], "label": indices[:6]}
        write_parquet(tmp_path / f"{name}.parquet", columns, features)
    data = ImageDataLoaders.from_parquet(
        tmp_path / "train.parquet", valid=tmp_path / "valid.parquet", **OPTIONS
    )
    assert data.classes == ("cat", "dog")
    assert data.train_examples.texts() == ["cat", "dog"] * 3
    assert data.valid_examples.texts() == ["dog", "cat"] * 3
    assert len(names_of(data)) == 12


def test_groups_are_a_column_or_found_in_the_paths(tmp_path: Path) -> None:
    cells = [image(content, f"p{number // 3}/{number}.jpg") for number, content in enumerate(GREYS)]
    patients = [number // 3 for number in range(12)]
    file = of_greys(tmp_path, image=cells, patient=patients)
    for groups in ("patient", r"p(\d+)/"):
        data = ImageDataLoaders.from_parquet(file, groups=groups, valid_fraction=0.3, **OPTIONS)
        for part in (data.train_examples, data.valid_examples):
            rows = [item.row for item in part.items]  # type: ignore[union-attr]
            assert part.groups == tuple(str(row // 3) for row in rows)


def test_an_image_is_called_by_its_path_if_no_other_has_it(tmp_path: Path) -> None:
    cells = [image(content, "same.jpg") for content in GREYS]
    cells[3] = image(GREYS[3], "own.jpg")
    data = ImageDataLoaders.from_parquet(of_greys(tmp_path, image=cells), **OPTIONS)
    rows = {f"a.parquet/row {row}" for row in range(12) if row != 3}
    assert names_of(data) == rows | {"own.jpg"}


def test_corrections_name_rows(tmp_path: Path) -> None:
    table = tmp_path / "corrections.csv"
    table.write_text("image,label,action,new_label\na.parquet/row 4,cat,remove,\n")
    data = ImageDataLoaders.from_parquet(of_greys(tmp_path), corrections=table, **OPTIONS)
    assert len(data.train_examples) + len(data.valid_examples) == 11


# --- errors


WRONG: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "no image column": (
        lambda folder: of_greys(folder),
        {"image_column": "img"},
        r"a\.parquet' has no column 'img'; there are image, label",
    ),
    "no label column": (
        lambda folder: of_greys(folder),
        {"label_column": "class"},
        r"a\.parquet' has no column 'class'; there are image, label",
    ),
    "which label": (
        lambda folder: write_parquet(folder / "a.parquet", {"i": GREYS, "x": LABELS, "y": LABELS}),
        {},
        r"which column is the label\? pass label_column=; there are i, x, y",
    ),
    "texts": (
        lambda folder: of_greys(folder, image=LABELS),
        {},
        r"'image' of '.*' holds no image files but string; .* pass what .* gives to from_table",
    ),
    "only paths": (
        lambda folder: of_greys(folder, image=[image(None, "a.jpg")] * 12),
        {},
        r"has only the paths of its images: 'image\.bytes' is empty",
    ),
    "null images": (
        lambda folder: of_greys(folder, image=[*map(image, GREYS[:6]), *[None] * 6]),
        {},
        r"6 of 12 rows of '.*' have no image in 'image\.bytes', the first is row 6; leave",
    ),
    "null label": (
        lambda folder: of_greys(folder, label=[*LABELS[:9], None, None, "a"]),
        {},
        r"row 9 of '.*a\.parquet' has no label in 'label', as 2 of 12; leave",
    ),
    "no Parquet": (
        lambda folder: folder / "none.parquet",
        {},
        r"none\.parquet' is damaged, or no Parquet file",
    ),
    "index": (
        lambda folder: write_parquet(
            folder / "a.parquet",
            {"image": GREYS, "label": [[3]] * 12},
            {"label": {"feature": class_label(["a"]), "_type": "List"}},
        ),
        {"task": "multi_label"},
        r"label 3 in \[3\] has no name: there are 1",
    ),
    "empty": (
        lambda folder: of_greys(folder, image=pyarrow.array([], pyarrow.binary()), label=[]),
        {},
        r"there is no row in '.*a\.parquet'",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_error_says_where_and_what(tmp_path: Path, kind: str) -> None:
    (tmp_path / "none.parquet").write_bytes(b"something else")
    write, options, message = WRONG[kind]
    file = write(tmp_path)
    with pytest.raises(ValueError, match=message):
        ImageDataLoaders.from_parquet(file, **options)


def test_a_null_image_is_skipped_where_unreadable_ones_are(tmp_path: Path) -> None:
    file = of_greys(tmp_path, image=[None, *map(image, GREYS[1:])])
    with pytest.warns(UserWarning, match=r"row 0: there are no bytes of an image in 'image\.byt"):
        data = ImageDataLoaders.from_parquet(file, on_error="skip", **OPTIONS)
    assert len(data.train_examples) + len(data.valid_examples) == 11


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no Parquet file '.*a-0\.parquet'"):
        ImageDataLoaders.from_parquet(tmp_path / "a-{0..9}.parquet")
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*b-\*\.parquet'"):
        ImageDataLoaders.from_parquet(tmp_path / "b-*.parquet")


def test_files_that_name_their_classes_otherwise_are_an_error(tmp_path: Path) -> None:
    for number, names in enumerate((["cat", "dog"], ["dog", "cat"])):
        columns = {"image": GREYS[:2], "label": [0, 1]}
        features = {"label": class_label(names)}
        write_parquet(tmp_path / f"{number}.parquet", columns, features)
    with pytest.raises(ValueError, match=r"1\.parquet' has the classes \('dog', 'cat'\), and"):
        ImageDataLoaders.from_parquet(tmp_path / "*.parquet")


def test_a_column_that_only_some_files_have_is_named_with_the_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", {"image": GREYS[:2], "label": [0, 1]})
    write_parquet(tmp_path / "1.parquet", {"image": GREYS[:2], "class": [0, 1]})
    with pytest.raises(ValueError, match=r"1\.parquet' has no column 'label'; there are image, c"):
        ImageDataLoaders.from_parquet(tmp_path / "*.parquet")


def test_from_shards_says_who_reads_parquet(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reads tar files; from_parquet reads 'a\.parq"):
        ImageDataLoaders.from_shards("a.parquet")


def test_without_pyarrow_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = of_greys(tmp_path)
    monkeypatch.setattr("finetune.data.sources.parquet.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'finetune-vision\[parquet\]'"):
        ImageDataLoaders.from_parquet(file)
