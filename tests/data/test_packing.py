"""Packing: shards that repeat, that others can read, and nothing new after an error."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from parquets import write_folder_as_parquet, write_parquet
from PIL import Image
from pyarrow import parquet
from range_server import range_server
from support import write_photos
from tars import jpeg

from finetune import ImageDataLoaders
from finetune.data.packing import PackSettings, pack


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", per_class=6)


def digests(folder: Path) -> dict[str, str]:
    files = [file for file in folder.iterdir() if file.suffix != ".index"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    return stream.getvalue()


def members(shard: Path) -> dict[str, bytes]:
    contents = {}
    with tarfile.open(shard) as archive:
        for header in archive:
            stream = archive.extractfile(header)
            assert stream is not None
            contents[header.name] = stream.read()
    return contents


def test_shards_hold_the_files_and_their_classes_in_a_random_order(
    photos: Path, tmp_path: Path
) -> None:
    packed = pack(photos, tmp_path / "shards", PackSettings(images=7))
    assert packed.pattern == f"{tmp_path}/shards/train-{{0000..0002}}.tar"
    assert (packed.shards, packed.images, packed.renamed) == (3, 18, 0)
    assert packed.classes == ("blue", "green", "red")
    assert (tmp_path / "shards" / "classes.txt").read_text() == "blue\ngreen\nred\n"
    contents: dict[str, bytes] = {}
    for number in range(3):
        of_shard = members(tmp_path / "shards" / f"train-000{number}.tar")
        names = list(of_shard)
        assert [name.replace(".jpg", ".cls") for name in names[::2]] == names[1::2]
        assert names != sorted(names)
        contents |= of_shard
    assert len(contents) == 36
    for file in photos.rglob("*.jpg"):
        name = file.relative_to(photos).as_posix()
        assert contents[name] == file.read_bytes()
        assert packed.classes[int(contents[name.replace(".jpg", ".cls")])] == file.parent.name


def test_data_of_the_shards_are_those_of_the_folder(photos: Path, tmp_path: Path) -> None:
    packed = pack(photos, tmp_path / "shards", PackSettings(images=7))
    assert len(list((tmp_path / "shards").glob("*.index"))) == 3
    folder = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=4)
    data = ImageDataLoaders.from_shards(packed.pattern, image_size=32, batch_size=4)
    assert data.classes == folder.classes
    for one, other in ((data.train, folder.train), (data.valid, folder.valid)):
        for batch, expected in zip(one.epoch(0, 1), other.epoch(0, 1), strict=True):
            assert torch.equal(batch.targets, expected.targets)
            inputs = data.prepare(batch, view=1).inputs
            assert torch.equal(inputs, folder.prepare(expected, view=1).inputs)


def test_data_of_the_shards_are_those_of_the_parquet_files(photos: Path, tmp_path: Path) -> None:
    files = write_folder_as_parquet(photos, tmp_path / "files", 2)
    told: list[tuple[int, int]] = []
    packed = pack(files, tmp_path / "shards", PackSettings(images=7), lambda *now: told.append(now))
    assert told[-1] == (packed.images, packed.images) == (18, 18)
    assert packed.classes == ("blue", "green", "red")
    folder = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=4)
    data = ImageDataLoaders.from_shards(packed.pattern, image_size=32, batch_size=4)
    for batch, expected in zip(data.train.epoch(0, 1), folder.train.epoch(0, 1), strict=True):
        assert torch.equal(batch.targets, expected.targets)
        inputs = data.prepare(batch, view=1).inputs
        assert torch.equal(inputs, folder.prepare(expected, view=1).inputs)


def test_images_of_parquet_files_without_names_are_numbered(tmp_path: Path) -> None:
    contents = [jpeg(9 * number) for number in range(10)]
    contents[3] = png()
    contents.append(b"no image")
    columns = {"image": contents, "label": ["b", "a"] * 5 + ["c"]}
    file = write_parquet(tmp_path / "a.parquet", columns)
    packed = pack(file, tmp_path / "shards", PackSettings())
    packed_contents = members(Path(packed.pattern))
    endings = [".jpg", ".jpg", ".jpg", ".png", *[".jpg"] * 7]
    for number, ending in enumerate(endings):
        assert packed_contents[f"{number:02d}{ending}"] == contents[number]
    labels = [packed.classes[int(packed_contents[f"{number:02d}.cls"])] for number in range(11)]
    assert labels == columns["label"]


def test_a_parquet_file_of_one_large_group_is_packed_part_by_part(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    contents = [noise.bytes(200_000) for _ in range(150)]
    table = pyarrow.table({"image": contents, "label": ["a", "b", "c"] * 50})
    (tmp_path / "store").mkdir()
    # with pages of four images; a page is the least that can be read
    parquet.write_table(
        table, tmp_path / "store" / "a.parquet", use_dictionary=False, write_batch_size=4
    )
    with range_server(tmp_path / "store") as store:
        packed = pack(f"{store.address}/a.parquet", tmp_path / "shards", PackSettings())
    ranges = [text.removeprefix("bytes=").split("-") for _, text in store.requests]
    largest = max(int(last) - int(first) + 1 for first, last in ranges)
    assert largest < 10e6 < packed.bytes


def test_the_same_settings_make_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    for name, settings in (
        ("a", PackSettings(megabytes=0.02, size=24)),
        ("b", PackSettings(megabytes=0.02, size=24, num_workers=3)),
        ("c", PackSettings(megabytes=0.02, size=24, seed=1)),
    ):
        pack(photos, tmp_path / name, settings)
    assert digests(tmp_path / "a") == digests(tmp_path / "b") != digests(tmp_path / "c")
    shards = list((tmp_path / "a").glob("*.tar"))
    assert len(shards) > 1
    assert all(shard.stat().st_size < 0.02e6 + 2 * tarfile.RECORDSIZE for shard in shards)


def test_larger_images_become_smaller_and_others_stay(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", classes=("red", "blue"), size=(60, 40), per_class=1)
    folder = tmp_path / "photos" / "red"
    rotated = Image.new("RGB", (90, 45), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated.save(folder / "rotated.jpg", exif=exif)
    Image.fromarray(np.full((50, 70), 40000, np.uint16)).save(folder / "deep.png")
    Image.new("RGB", (30, 20)).save(folder / "small.png")
    Image.new("RGBA", (60, 40)).save(folder / "transparent.png")
    Image.new("L", (60, 40), 77).save(folder / "grey.png")
    np.save(folder / "bands.npy", np.zeros((60, 40, 5), np.uint8))
    (folder / "broken.jpg").write_bytes(b"no image")
    packed = pack(tmp_path / "photos", tmp_path / "shards", PackSettings(size=20))
    contents = members(Path(packed.pattern))

    def size(name: str) -> tuple[int, int]:
        return Image.open(io.BytesIO(contents[name])).size

    assert size("red/000.jpg") == (30, 20)
    assert size("red/rotated.jpg") == (20, 40)
    grey = Image.open(io.BytesIO(contents["red/grey.jpg"]))
    assert (grey.mode, grey.size, grey.getpixel((9, 9))) == ("L", (30, 20), 77)
    for name in ("deep.png", "small.png", "transparent.png", "bands.npy", "broken.jpg"):
        assert contents[f"red/{name}"] == (folder / name).read_bytes()


def test_names_with_dots_and_with_two_endings_stay_apart(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", per_class=1)
    image = (photos / "red" / "000.jpg").read_bytes()
    for name in ("000.png", "a.b.jpg", "a_b.jpg"):
        (photos / "red" / name).write_bytes(image)
    packed = pack(photos, tmp_path / "shards", PackSettings())
    assert packed.renamed == 3
    names = [name for name in members(Path(packed.pattern)) if name.startswith("red/")]
    images = sorted(name for name in names if not name.endswith(".cls"))
    assert images == ["red/000.jpg", "red/000_2.png", "red/a_b.jpg", "red/a_b_2.jpg"]


def test_parts_of_a_split_share_their_classes(photos: Path, tmp_path: Path) -> None:
    valid = write_photos(tmp_path / "valid", classes=("red",), per_class=2)
    trained = pack(photos, tmp_path / "shards", PackSettings())
    validated = pack(valid, tmp_path / "shards", PackSettings(name="valid"))
    assert validated.classes == trained.classes
    other = write_photos(tmp_path / "other", classes=("red", "blue"), per_class=2)
    (other / "blue").rename(other / "violet")
    with pytest.raises(ValueError, match="violet"):
        pack(other, tmp_path / "shards", PackSettings(name="other"))


def test_shards_that_are_there_are_not_overwritten(photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "shards"
    pack(photos, target, PackSettings())
    before = digests(target)
    with pytest.raises(FileExistsError, match=r"train-0000\.tar' already; remove"):
        pack(photos, target, PackSettings(seed=1))
    assert digests(target) == before


def test_after_an_error_nothing_is_new(photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "shards"
    target.mkdir()
    (target / ".train.packing").mkdir()  # of a process that was killed
    (target / ".train.packing" / "train-0000.tar").write_bytes(b"half")

    def fail(done: int, total: int) -> None:
        if done == 15:
            (photos / "red" / "000.jpg").write_bytes(b"")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(photos, target, PackSettings(images=4), fail)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a/b"}, "name is the beginning of files' names, got 'a/b'"),
        ({"name": "a{0..1}"}, "name is the beginning"),
        ({"megabytes": 0.0}, "megabytes must be a finite number above 0, got 0"),
        ({"images": 0}, "images must be a whole number of at least 1, got 0"),
        ({"size": 0}, "size must be a whole number of at least 1"),
    ],
)
def test_wrong_settings_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackSettings(**options)
