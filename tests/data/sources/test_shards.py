"""Examples from tar files: the same ones as from the folder that was packed, in the same order."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import same_state, write_photos
from tars import jpeg, write_folder_as_shards, write_tar

from finetune import Callback, ImageDataLoaders, ImageError, Learner, vision_learner
from finetune.training.events import StepEnd

OPTIONS: dict = {"image_size": 32, "batch_size": 4, "num_workers": 2}


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


def names_of(data: ImageDataLoaders) -> list[str]:
    return [item.name for item in data.train_examples.items]  # type: ignore[union-attr]


def labels_of(data: ImageDataLoaders) -> list[str]:
    """Of all images, in the order of the files' names."""
    examples = [data.train_examples, data.valid_examples]
    pairs = []
    for part in examples:
        pairs += zip([str(item) for item in part.items], part.texts(), strict=True)
    return [label for _, label in sorted(pairs)]


# --- the same as a folder


@pytest.mark.parametrize("count", [1, 3])
def test_training_is_that_of_the_folder_bit_for_bit(
    photos: Path, tmp_path: Path, count: int
) -> None:
    shards = write_folder_as_shards(photos, tmp_path / "shards", count)
    states = []
    for data in (
        ImageDataLoaders.from_folder(photos, **OPTIONS),
        ImageDataLoaders.from_shards(shards, **{**OPTIONS, "num_workers": 1}),
    ):
        learner = learner_of(data)
        learner.fit(1)
        states.append(learner.model.state_dict())
    assert same_state(*states)


def test_a_run_of_a_folder_goes_on_in_the_middle_of_an_epoch_from_shards(
    photos: Path, tmp_path: Path
) -> None:
    whole = learner_of(ImageDataLoaders.from_folder(photos, **OPTIONS))
    whole.fit(2)
    interrupted = learner_of(ImageDataLoaders.from_folder(photos, **OPTIONS))
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(2, callbacks=[Interrupt(steps=4)])
    interrupted.save(tmp_path / "run.ckpt")
    shards = write_folder_as_shards(photos, tmp_path / "shards", 2)
    learner = learner_of(ImageDataLoaders.from_shards(shards, **OPTIONS))
    learner.load(tmp_path / "run.ckpt")
    learner.resume()
    assert len(whole.history.steps) == 6
    assert same_state(whole.model.state_dict(), learner.model.state_dict())


def test_the_order_is_that_of_a_folder_where_one_class_begins_as_another(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", classes=("red", "blue"), per_class=3)
    (photos / "blue").rename(photos / "red-2")
    (photos / "red" / "a").mkdir()
    (photos / "red" / "002.jpg").rename(photos / "red" / "a" / "0.jpg")
    shards = write_folder_as_shards(photos, tmp_path / "shards", 2)
    folder = ImageDataLoaders.from_folder(photos, batch_size=2)
    data = ImageDataLoaders.from_shards(shards, batch_size=2, classes=["red", "a", "red-2"])
    assert names_of(data) == [
        os.path.relpath(str(item), photos) for item in folder.train_examples.items
    ]


def test_images_are_kept_in_the_cache_folder_until_their_shard_changes(
    photos: Path, tmp_path: Path
) -> None:
    shards = write_folder_as_shards(photos, tmp_path / "shards", 2)
    cache = tmp_path / "cache"

    def first_image() -> torch.Tensor:
        data = ImageDataLoaders.from_shards(shards, cache_folder=cache, **OPTIONS)
        return data.train.cache.squares().images(torch.tensor([0]))

    before = first_image()
    stored = {file.name for file in cache.iterdir()}
    assert {Path(name).suffix for name in stored} == {".index", ".images", ".identities"}
    assert not list((tmp_path / "shards").glob("*.index"))
    assert torch.equal(first_image(), before)
    for number, file in enumerate(photos.rglob("*.jpg")):
        file.write_bytes(jpeg(9 * number))
    write_folder_as_shards(photos, tmp_path / "shards", 2)
    assert not torch.equal(first_image(), before)
    assert {file.name for file in cache.iterdir()} == stored


def test_duplicates_and_corrections_know_the_members(photos: Path, tmp_path: Path) -> None:
    (photos / "green" / "000.jpg").write_bytes((photos / "red" / "000.jpg").read_bytes())
    shards = write_folder_as_shards(photos, tmp_path / "shards", 2)
    table = tmp_path / "corrections.csv"
    rows = ["train-000.tar/red/002.jpg,red,remove,", "blue/001.jpg,blue,remove,"]
    table.write_text("\n".join(["image,label,action,new_label", *rows]))
    data = ImageDataLoaders.from_shards(shards, corrections=table, **OPTIONS)
    assert len(data.train_examples) + len(data.valid_examples) == 16
    summary = data.summary()
    twins = (*summary.leaks, *summary.duplicates)
    assert [Path(file).name for file in (twins[0].first, twins[0].second)] == ["000.jpg"] * 2
    assert summary.formats == {"JPEG": 16}


def test_groups_are_found_in_the_names_of_members(photos: Path, tmp_path: Path) -> None:
    shards = write_folder_as_shards(photos, tmp_path / "shards", 2)
    data = ImageDataLoaders.from_shards(shards, groups=r"/(\d+)", valid_fraction=0.8, batch_size=2)
    assert data.train_examples.groups is not None
    for name, group in zip(names_of(data), data.train_examples.groups, strict=True):
        assert Path(name).stem == group


def test_a_validation_image_that_is_in_training_is_said(photos: Path, tmp_path: Path) -> None:
    shards = write_folder_as_shards(photos, tmp_path / "shards", 2)
    with pytest.warns(UserWarning, match=r"9 validation images can be found in training"):
        ImageDataLoaders.from_shards(shards, valid=f"{tmp_path}/shards/train-000.tar", **OPTIONS)


def test_tables_name_shard_and_member(photos: Path, tmp_path: Path) -> None:
    shards = write_folder_as_shards(photos, tmp_path / "shards", 1)
    data = ImageDataLoaders.from_shards(shards, **OPTIONS)
    learner = learner_of(data)
    row = learner.predictions()[0]
    assert str(row.item).startswith(f"{tmp_path}/shards/train-000.tar/")
    assert learner.predict(data.valid_examples.items[0]).label == row.predicted


# --- where labels are


EXAMPLES: dict[str, Callable[[int], dict[str, bytes]]] = {
    "cls index": lambda n: {f"{n}.jpg": jpeg(n), f"{n}.cls": b"%d\n" % (n % 2), f"{n}.txt": b"x"},
    "cls name": lambda n: {f"{n}.cls": [b"cat", b"dog"][n % 2], f"{n}.jpg": jpeg(n)},
    "json": lambda n: {f"{n}.jpg": jpeg(n), f"{n}.json": b'{"label": "%s"}' % NAMES[n % 2]},
    "txt": lambda n: {f"{n}.jpg": jpeg(n), f"{n}.txt": NAMES[n % 2], f"{n}.seg.png": b"mask"},
    "folder": lambda n: {f"./train/{NAMES[n % 2].decode()}/{n}.v2.jpg": jpeg(n)},
}
NAMES = (b"cat", b"dog")


@pytest.mark.parametrize("kind", EXAMPLES)
def test_labels_are_where_the_first_example_has_its_own(tmp_path: Path, kind: str) -> None:
    members: dict[str, bytes] = {"readme.md": b"about", ".hidden.jpg": b"none"}
    for number in range(10):
        members |= EXAMPLES[kind](number)
    shard = write_tar(tmp_path / "a.tar", members)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    data = ImageDataLoaders.from_shards(shard, **OPTIONS)
    assert data.classes == ("cat", "dog")
    expected = ["cat", "dog"] * 5
    assert labels_of(data) == (sorted(expected) if kind == "folder" else expected)


def test_indices_are_called_by_the_argument_or_by_their_numbers(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(10):
        members |= EXAMPLES["cls index"](number)
    shard = write_tar(tmp_path / "a.tar", members)
    assert ImageDataLoaders.from_shards(shard, **OPTIONS).classes == ("0", "1")
    named = ImageDataLoaders.from_shards(shard, classes=["no", "yes"], **OPTIONS)
    assert labels_of(named) == ["no", "yes"] * 5
    with pytest.raises(ValueError, match=r"all .* training images are of the class 'x'"):
        ImageDataLoaders.from_shards(shard, label_file="txt", classes=["x", "y"], **OPTIONS)


def test_several_labels_and_numbers_come_from_json(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(10):
        labels = b'["a", "b"]' if number % 2 else b'["b"]'
        members[f"{number}.jpg"] = jpeg(number)
        members[f"{number}.json"] = b'{"tags": %s, "age": %d.5}' % (labels, number)
    shard = write_tar(tmp_path / "a.tar", members)
    several = ImageDataLoaders.from_shards(shard, task="multi_label", label_key="tags", **OPTIONS)
    assert labels_of(several) == ["b", "a, b"] * 5
    ages = ImageDataLoaders.from_shards(shard, task="regression", label_key="age", **OPTIONS)
    assert ages.train_examples.labels.min() >= 0.5


WRONG_SHARDS = {
    "no label": ({"1.jpg": jpeg()}, {}, r"a\.tar/1\.jpg has no label: neither a folder"),
    "one without": (
        {"1.jpg": jpeg(), "1.cls": b"0", "2.jpg": jpeg()},
        {},
        r"a\.tar/2\.jpg has no \.cls file beside it",
    ),
    "two images": (
        {"1.jpg": jpeg(), "1.png": jpeg(), "1.cls": b"0"},
        {},
        r"1\.jpg and 1\.png in one example",
    ),
    "no images": ({"1.txt": b"a"}, {}, r"there is no image in the shard '.*a\.tar'"),
    "empty": ({"1.jpg": jpeg(), "1.cls": b" "}, {}, r"1\.jpg: its \.cls file is empty"),
    "bytes": ({"1.jpg": jpeg(), "1.txt": b"\xff"}, {}, r"its \.txt file is not in UTF-8"),
    "no JSON": ({"1.jpg": jpeg(), "1.json": b"{"}, {}, r"its \.json file is no JSON"),
    "no key": (
        {"1.jpg": jpeg(), "1.json": b'{"tag": 1}'},
        {},
        r"has no key 'label' but tag; label_key= names another",
    ),
    "index": (
        {"1.jpg": jpeg(), "1.cls": b"7"},
        {"classes": ["a", "b"]},
        r"labels go from 7 to 7, but there are 2 classes",
    ),
    "list": (
        {"1.jpg": jpeg(), "1.json": b'{"label": [1]}'},
        {},
        r"holds no class indices or names",
    ),
}


@pytest.mark.parametrize("kind", WRONG_SHARDS)
def test_an_error_names_the_example(tmp_path: Path, kind: str) -> None:
    members, options, message = WRONG_SHARDS[kind]
    shard = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=message):
        ImageDataLoaders.from_shards(shard, **options)


# --- shards that are not what they should be


def test_shards_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no shard '.*a-0\.tar'"):
        ImageDataLoaders.from_shards(tmp_path / "a-{0..9}.tar")
    write_tar(tmp_path / "a-0.tar", {"x/1.jpg": jpeg()})
    with pytest.raises(FileNotFoundError, match=r"there is no shard '.*a-1\.tar', nor 8 more"):
        ImageDataLoaders.from_shards(tmp_path / "a-{0..9}.tar")


@pytest.mark.parametrize("left", [100, 700, 1024, 2000])
def test_a_truncated_shard_is_an_error(tmp_path: Path, left: int) -> None:
    shard = write_tar(tmp_path / "a.tar", {"x/1.jpg": jpeg(), "x/2.jpg": jpeg()})
    content = shard.read_bytes()
    shard.write_bytes(content[:left])
    with pytest.raises(ValueError, match=r"the shard '.*a\.tar' is damaged"):
        ImageDataLoaders.from_shards(shard)


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {"x/1.jpg": jpeg(), "x/2.jpg": jpeg()})
    content = bytearray(shard.read_bytes())
    place = content.index(b"x/2.jpg")
    content[place] = 0xFF
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=rf"at byte {place:,} there is neither a file nor the end"):
        ImageDataLoaders.from_shards(shard)


def test_a_shard_that_changes_afterwards_is_an_error_that_names_the_member(
    photos: Path, tmp_path: Path
) -> None:
    shards = write_folder_as_shards(photos, tmp_path / "shards", 1)
    data = ImageDataLoaders.from_shards(shards, **OPTIONS)
    shard = tmp_path / "shards" / "train-000.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(ImageError, match=r"train-000\.tar/\w+/00\d\.jpg: the file has changed"):
        next(data.train.epoch(0, 0))


def test_an_unreadable_member_is_skipped(photos: Path, tmp_path: Path) -> None:
    (photos / "red" / "001.jpg").write_bytes(b"no image")
    shards = write_folder_as_shards(photos, tmp_path / "shards", 2)
    with pytest.warns(UserWarning, match=r"left out 1 unreadable images:\n.*tar/red/001\.jpg"):
        data = ImageDataLoaders.from_shards(shards, on_error="skip", **OPTIONS)
    assert len(data.train_examples) + len(data.valid_examples) == 17


def test_the_index_is_made_once_and_anew_for_another_shard(tmp_path: Path) -> None:
    members = {f"{'ab'[n % 2]}/{n // 2}.jpg": jpeg(9 * n) for n in range(12)}
    shard = write_tar(tmp_path / "a.tar", members)
    index = tmp_path / "a.tar.index"
    ImageDataLoaders.from_shards(shard, **OPTIONS)
    index.write_text(index.read_text().replace("a/5.jpg", "a/9.jpg"))
    data = ImageDataLoaders.from_shards(shard, valid_fraction=0.1, **OPTIONS)
    assert "a/9.jpg" in [*names_of(data), *[i.name for i in data.valid_examples.items]]
    index.write_text("{")
    data = ImageDataLoaders.from_shards(shard, valid_fraction=0.1, **OPTIONS)
    assert "a/9.jpg" not in [*names_of(data), *[i.name for i in data.valid_examples.items]]
    write_tar(shard, {**members, "a/7.jpg": jpeg(250)})
    data = ImageDataLoaders.from_shards(shard, **OPTIONS)
    assert len(data.train_examples) + len(data.valid_examples) == 13


# --- patterns


def test_a_pattern_stands_for_its_numbers(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        images = range(8 * number, 8 * number + 8)
        members = {f"{'ab'[n % 2]}/{n}.jpg": jpeg(2 * n) for n in images}
        write_tar(tmp_path / f"s{number:02d}.tar", members)
    pattern, files = f"{tmp_path}/s{{08..10}}.tar", sorted(tmp_path.glob("*.tar"))
    from_pattern = ImageDataLoaders.from_shards(pattern, **OPTIONS)
    assert names_of(from_pattern) == names_of(ImageDataLoaders.from_shards(files, **OPTIONS))
    assert len({str(item).split(".tar")[0] for item in from_pattern.train_examples.items}) == 3
    with pytest.raises(ValueError, match=r"\{10\.\.08\} in .* write the smaller one first"):
        ImageDataLoaders.from_shards(f"{tmp_path}/s{{10..08}}.tar")
    with pytest.raises(ValueError, match="train names no shard"):
        ImageDataLoaders.from_shards([])
