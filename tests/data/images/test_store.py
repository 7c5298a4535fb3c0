import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import Program

from finetune.data.images import store as image_store
from finetune.data.images.cache import ImageCache
from finetune.data.images.opening import ImageError
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.images.store import IDENTITIES, IMAGES, UNFINISHED, CacheFolder

SMALL = Preprocessing(16)
SIZE = 10 * (16 * 16 * 3 + 32)
"""Bytes of a store of ten images of 16 x 16 pixels."""

# the module alone, since to import all of the package takes seconds
SCRIPT = """
import hashlib, os, signal, sys, warnings
import numpy as np
from PIL import Image
from finetune.data.images.store import CacheFolder

warnings.simplefilter("error")
folder, end, *files = sys.argv[1:]
calls = []

def decode(file):
    calls.append(file)
    if len(calls) == int(end):
        os.kill(os.getpid(), signal.SIGKILL)
    with Image.open(file) as image:
        return np.array(image.crop((0, 0, 16, 16)))

print("ready", flush=True)
sys.stdin.readline()
store = CacheFolder(folder, 1.0).open(files, 16, 0, "crop")
for row, file in enumerate(files):
    store.fill(row, file, decode)
print(hashlib.sha256(store.images.pixels.tobytes()).hexdigest())
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Ten noisy images."""
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    paths = [str(tmp_path / "photos" / f"{i}.png") for i in range(10)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files decoded since the start of the test."""
    names: list[str] = []
    plain = Preprocessing.presize

    def counted(self: Preprocessing, source: str, margin: int = 0) -> np.ndarray:
        names.append(Path(source).name)
        return plain(self, source, margin)

    monkeypatch.setattr(Preprocessing, "presize", counted)
    return names


def all_images(folder: Path, files: list[str], preprocessing: Preprocessing = SMALL) -> np.ndarray:
    """What a new run delivers."""
    cache = ImageCache(files, preprocessing, 2, folder=CacheFolder(folder, 1.0))
    return cache.images(torch.arange(len(files))).permute(0, 2, 3, 1).numpy()


def presized(files: list[str]) -> np.ndarray:
    return np.stack([SMALL.presize(file) for file in files])


def only(folder: Path, suffix: str) -> Path:
    (path,) = folder.glob(f"*{suffix}")
    return path


def stores(folder: Path) -> int:
    assert len(list(folder.glob(f"*{IMAGES}"))) == len(list(folder.glob(f"*{IDENTITIES}")))
    return len(list(folder.glob(f"*{IDENTITIES}")))


def test_second_run_decodes_nothing(tmp_path: Path, files: list[str], decoded: list[str]) -> None:
    first = all_images(tmp_path / "cache", files)
    assert len(decoded) == 10
    assert np.array_equal(all_images(tmp_path / "cache", files), first)
    assert len(decoded) == 10


def test_second_run_opens_no_image_file(
    tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = presized(files)
    all_images(tmp_path / "cache", files)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image file was opened")

    monkeypatch.setattr(Image, "open", refuse)
    assert np.array_equal(all_images(tmp_path / "cache", files), expected)


def test_changed_file_is_decoded_again(
    tmp_path: Path, files: list[str], decoded: list[str]
) -> None:
    all_images(tmp_path / "cache", files)
    Image.new("RGB", (24, 20), (1, 2, 3)).save(files[4])
    decoded.clear()
    images = all_images(tmp_path / "cache", files)
    assert decoded == ["4.png"]
    assert (images[4] == (1, 2, 3)).all()


def test_file_with_another_time_is_decoded_again(
    tmp_path: Path, files: list[str], decoded: list[str]
) -> None:
    all_images(tmp_path / "cache", files)
    found = os.stat(files[4])
    os.utime(files[4], ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    decoded.clear()
    all_images(tmp_path / "cache", files)
    assert decoded == ["4.png"]


def test_file_that_is_gone_is_unreadable(tmp_path: Path, files: list[str]) -> None:
    all_images(tmp_path / "cache", files)
    os.unlink(files[4])
    with pytest.raises(ImageError, match=r"4\.png: there is no such file"):
        all_images(tmp_path / "cache", files)


def test_corrupted_pixels_are_decoded_again(
    tmp_path: Path, files: list[str], decoded: list[str]
) -> None:
    first = all_images(tmp_path / "cache", files)
    pixels = np.memmap(only(tmp_path / "cache", IMAGES), np.uint8, "r+").reshape(10, -1)
    pixels[3, 100] ^= 1
    decoded.clear()
    assert np.array_equal(all_images(tmp_path / "cache", files), first)
    assert decoded == ["3.png"]


def test_identity_without_its_pixels_is_not_believed(
    tmp_path: Path, files: list[str], decoded: list[str]
) -> None:
    first = all_images(tmp_path / "cache", files)
    pixels = only(tmp_path / "cache", IMAGES)
    size = pixels.stat().st_size
    os.truncate(pixels, 0)
    os.truncate(pixels, size)
    decoded.clear()
    assert np.array_equal(all_images(tmp_path / "cache", files), first)
    assert len(decoded) == 10


def test_pixels_file_that_was_cut_off_is_filled_again(tmp_path: Path, files: list[str]) -> None:
    first = all_images(tmp_path / "cache", files)
    os.truncate(only(tmp_path / "cache", IMAGES), 7)
    assert np.array_equal(all_images(tmp_path / "cache", files), first)


def test_order_of_the_files_does_not_matter(
    tmp_path: Path, files: list[str], decoded: list[str]
) -> None:
    first = all_images(tmp_path / "cache", files)
    decoded.clear()
    assert np.array_equal(all_images(tmp_path / "cache", files[::-1]), first[::-1])
    assert decoded == []


def test_file_listed_twice_has_one_image(tmp_path: Path, files: list[str]) -> None:
    twice = [files[1], files[0], files[1]]
    assert np.array_equal(all_images(tmp_path / "cache", twice), presized(twice))
    assert only(tmp_path / "cache", IDENTITIES).stat().st_size == 2 * 32


def test_each_side_and_resize_method_has_a_store(tmp_path: Path, files: list[str]) -> None:
    for preprocessing in (SMALL, Preprocessing(20), Preprocessing(16, "pad")):
        images = all_images(tmp_path / "cache", files, preprocessing)
        assert np.array_equal(images[2], preprocessing.presize(files[2]))
    assert stores(tmp_path / "cache") == 3


def test_new_version_makes_a_new_store(
    tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_images(tmp_path / "cache", files)
    monkeypatch.setattr(image_store, "STORE_VERSION", image_store.STORE_VERSION + 1)
    all_images(tmp_path / "cache", files)
    assert stores(tmp_path / "cache") == 2


def test_file_system_without_links_will_do(
    tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert np.array_equal(all_images(tmp_path / "cache", files), presized(files))
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {IMAGES, IDENTITIES}


def test_file_that_another_process_has_just_made_is_shared(
    tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(new: Path, path: Path) -> None:
        path.write_bytes(new.read_bytes())
        raise FileExistsError

    monkeypatch.setattr(os, "link", too_late)
    all_images(tmp_path / "cache", files)
    pixels = only(tmp_path / "cache", IMAGES).read_bytes()
    assert pixels == presized(files).tobytes()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def start(folder: Path, files: list[str], end: int = 0) -> Program:
    """A process that fills the store when told; `end`: the decoding in which it kills itself."""
    return Program(SCRIPT, folder, end, *files)


def cropped(file: str | Path) -> np.ndarray:
    """How the script decodes."""
    with Image.open(file) as image:
        return np.array(image.crop((0, 0, 16, 16)))


def fill_here(folder: Path, files: list[str]) -> tuple[list[str], np.ndarray]:
    """The files that this process has to decode, and the images."""
    decoded: list[str] = []

    def decode(file: str | Path) -> np.ndarray:
        decoded.append(str(file))
        return cropped(file)

    store = CacheFolder(folder, 1.0).open(files, 16, 0, "crop")
    assert store is not None
    for row, file in enumerate(files):
        store.fill(row, file, decode)
    return decoded, store.images.pixels.copy()


def test_two_processes_may_fill_one_store_at_once(tmp_path: Path, files: list[str]) -> None:
    processes = [start(tmp_path / "cache", files) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    expected = np.stack([cropped(file) for file in files])
    digest = hashlib.sha256(expected.tobytes()).hexdigest()
    assert [process.wait().stdout for process in processes] == [digest + "\n"] * 2
    decoded, images = fill_here(tmp_path / "cache", files)
    assert decoded == []
    assert np.array_equal(images, expected)


def test_process_killed_while_it_fills_leaves_a_usable_store(
    tmp_path: Path, files: list[str]
) -> None:
    assert start(tmp_path / "cache", files, end=7).wait("\n").returncode == -9
    decoded, images = fill_here(tmp_path / "cache", files)
    assert decoded == files[6:]
    assert np.array_equal(images, np.stack([cropped(file) for file in files]))


def open_store(folder: CacheFolder, name: str) -> "image_store.ImageStore | None":
    """A store of ten images of 16 x 16 pixels."""
    return folder.open([f"/{name}/{i}" for i in range(10)], 16, 0, "crop")


def fill_store(folder: CacheFolder, name: str, last_use: float) -> Path:
    """Puts an image into a store, last used at a time in seconds. Gives its identity file."""
    before = set(folder.path.glob(f"*{IDENTITIES}"))
    store = open_store(folder, name)
    assert store is not None
    store.fill(0, __file__, lambda _: np.ones((16, 16, 3), np.uint8))
    del store
    (identities,) = set(folder.path.glob(f"*{IDENTITIES}")) - before
    os.utime(identities, (last_use, last_use))
    return identities


@pytest.fixture
def room_for_two(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "cache", 2.5 * SIZE / 1e9)


def test_least_recently_used_store_makes_room(room_for_two: CacheFolder) -> None:
    older = fill_store(room_for_two, "older", 200)
    oldest = fill_store(room_for_two, "oldest", 100)
    fill_store(room_for_two, "new", 300)
    assert (older.exists(), oldest.exists()) == (True, False)
    assert stores(room_for_two.path) == 2


def test_opening_a_store_counts_as_use(room_for_two: CacheFolder) -> None:
    oldest = fill_store(room_for_two, "oldest", 100)
    older = fill_store(room_for_two, "older", 200)
    open_store(room_for_two, "oldest")
    fill_store(room_for_two, "new", 300)
    assert (older.exists(), oldest.exists()) == (False, True)


def test_store_in_use_is_not_deleted(room_for_two: CacheFolder) -> None:
    oldest = fill_store(room_for_two, "oldest", 100)
    older = fill_store(room_for_two, "older", 200)
    in_use = open_store(room_for_two, "oldest")
    os.utime(oldest, (100, 100))
    fill_store(room_for_two, "new", 300)
    del in_use
    assert (older.exists(), oldest.exists()) == (False, True)


def test_store_in_use_leaves_less_room(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", 1.5 * SIZE / 1e9)
    in_use = open_store(folder, "a")
    with pytest.warns(UserWarning, match="beside those in use"):
        assert open_store(folder, "b") is None
    del in_use
    assert open_store(folder, "b") is not None


def test_stores_within_the_limit_stay(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", 3.5 * SIZE / 1e9)
    for name in "abc":
        open_store(folder, name)
    assert stores(folder.path) == 3


def test_store_above_the_limit_is_not_made_and_deletes_nothing(tmp_path: Path) -> None:
    open_store(CacheFolder(tmp_path / "cache", 1.5 * SIZE / 1e9), "a")
    small = CacheFolder(tmp_path / "cache", (SIZE - 1) / 1e9)
    with pytest.warns(UserWarning, match=r"0\.00 GB of images do not fit .* cache_gigabytes is"):
        assert open_store(small, "b") is None
    assert stores(small.path) == 1


def test_images_above_the_limit_come_from_memory(tmp_path: Path, files: list[str]) -> None:
    cache = ImageCache(files, SMALL, 2, folder=CacheFolder(tmp_path / "cache", 1e-9))
    with pytest.warns(UserWarning, match="are not kept between runs"):
        images = cache.images(torch.arange(10))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), presized(files))


def test_what_a_killed_process_left_is_deleted_when_old(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", 1.5 * SIZE / 1e9)
    old, young = (folder.path / f"{name}{UNFINISHED}" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(bytes(SIZE))
    os.utime(old, (0, 0))
    open_store(folder, "a")
    assert (old.exists(), young.exists()) == (False, True)


def test_foreign_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", 1.5 * SIZE / 1e9)
    (folder.path / "notes.txt").write_bytes(bytes(2 * SIZE))
    for name in "ab":
        open_store(folder, name)
    assert (folder.path / "notes.txt").exists()


def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = CacheFolder(tmp_path / "cache", 1.0)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"GB of images in cache_folder='.*cache' \(No space left"):
        open_store(folder, "a")
    assert list(folder.path.iterdir()) == []


def test_folder_that_cant_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"can't write to cache_folder='.*file.cache' \(Not a dir"):
        CacheFolder(tmp_path / "file" / "cache", 1.0)


@pytest.mark.parametrize("gigabytes", [0.0, -1.0, float("nan")])
def test_limit_that_is_not_positive_is_refused(tmp_path: Path, gigabytes: float) -> None:
    with pytest.raises(ValueError, match=f"cache_gigabytes .* above 0, got {gigabytes}"):
        CacheFolder(tmp_path, gigabytes)
