import shutil
import tempfile
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import write_photos

from finetune import ImageDataLoaders
from finetune.data import memory
from finetune.data.images import cache as cache_module
from finetune.data.images import preprocessing as preprocessing_module
from finetune.data.images.cache import ImageCache
from finetune.data.images.opening import ImageError, ImageSource
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.images.store import CacheFolder
from finetune.data.images.whole import WholeImages
from finetune.data.sources.folders import from_folder

pytestmark = pytest.mark.filterwarnings("ignore:.*decoded anew")

needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc to look at")

SMALL = Preprocessing(16)
BYTES = 6 * 18 * 18 * 3
"""Of six small images."""


def make_cache(
    items: Sequence[ImageSource], num_workers: int = 2, folder: CacheFolder | None = None
) -> ImageCache:
    return ImageCache(items, SMALL, num_workers, folder=folder)


def noise(count: int = 6) -> list[ImageSource]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 24, 20, 3), dtype=np.uint8)
    return list(pixels)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[ImageSource]:
    """The images decoded since the start of the test."""
    sources: list[ImageSource] = []
    for name in ("presize", "presize_middle"):
        plain = getattr(Preprocessing, name)

        def counted(
            self: Preprocessing, source: ImageSource, *margin: int, plain: Any = plain
        ) -> Any:
            sources.append(source)
            return plain(self, source, *margin)

        monkeypatch.setattr(Preprocessing, name, counted)
    return sources


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: 0)


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go; a disk with room for twice six small images."""
    place = tmp_path_factory.mktemp("disk")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr(cache_module, "_is_in_memory", lambda folder: False)
    usage = shutil.disk_usage(place)._replace(free=2 * BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    return place


@pytest.fixture
def full_disk(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    usage = shutil.disk_usage(disk)._replace(free=2 * BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    return disk


@pytest.fixture(params=["memory", "temporary file", "nowhere"])
def place(request: pytest.FixtureRequest) -> str:
    """Runs a test once with each place for images."""
    if request.param != "memory":
        request.getfixturevalue("no_memory")
        request.getfixturevalue("disk" if request.param == "temporary file" else "full_disk")
    return str(request.param)


@pytest.mark.usefixtures("place")
def test_images_are_the_presized_ones_in_the_order_asked_for() -> None:
    cache = make_cache(noise())
    images = cache.images(torch.tensor([4, 0, 4]))
    assert (images.dtype, images.shape) == (torch.uint8, (3, 3, 18, 18))
    for image, number in zip(images, [4, 0, 4], strict=True):
        presized = SMALL.presize(cache.items[number])
        assert np.array_equal(image.permute(1, 2, 0).numpy(), presized)


def test_images_are_the_same_wherever_they_are_kept(
    tmp_path: Path, decoded: list[ImageSource], request: pytest.FixtureRequest
) -> None:
    items, numbers = from_folder(write_photos(tmp_path, per_class=2)).items, torch.tensor([5, 0, 3])
    stored = make_cache(items, folder=CacheFolder(tmp_path / "cache", 1.0))
    caches = [make_cache(items), stored]
    images = [cache.images(numbers) for cache in caches]
    for way in ("no_memory", "disk", "full_disk"):
        request.getfixturevalue(way)
        if way != "no_memory":
            caches.append(make_cache(items))
            images.append(caches[-1].images(numbers))
    assert all(torch.equal(images[0], other) for other in images[1:])
    decoded_again = []
    for cache in caches:
        decoded.clear()
        cache.images(numbers)
        decoded_again.append(len(decoded))
    assert decoded_again == [0, 0, 0, 3]


@pytest.mark.usefixtures("place")
def test_images_are_the_same_when_asked_again() -> None:
    cache, numbers = make_cache(noise()), torch.tensor([3, 1])
    assert torch.equal(cache.images(numbers), cache.images(numbers))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("num_workers", [2, 4])
def test_number_of_workers_changes_no_pixel(num_workers: int) -> None:
    numbers = torch.tensor([5, 2, 0, 1])
    many, one = make_cache(noise(), num_workers), make_cache(noise(), 1)
    assert torch.equal(many.images(numbers), one.images(numbers))


@pytest.mark.usefixtures("place")
def test_images_are_in_channels_last_layout() -> None:
    images = make_cache(noise()).images(torch.tensor([0, 1]))
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("place")
def test_no_number_makes_an_empty_batch() -> None:
    empty = make_cache(noise()).images(torch.tensor([], dtype=torch.int64))
    assert empty.shape == (0, 3, 18, 18)


def test_image_is_decoded_once(place: str, decoded: list[ImageSource]) -> None:
    cache = make_cache(noise())
    for numbers in ([0, 1, 1], [1, 2], [0, 1, 2]):
        cache.images(torch.tensor(numbers))
    assert len(decoded) == (7 if place == "nowhere" else 3)


def test_caches_share_the_memory_of_the_process(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_reservations", [])
    monkeypatch.setattr(memory, "memory_bytes", lambda: int(1.5 * BYTES / memory.MEMORY_FRACTION))
    folders: list[Path] = []  # of the temporary files
    new_file = tempfile.TemporaryFile

    def noted(*, dir: Path) -> IO[bytes]:
        folders.append(dir)
        return new_file(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", noted)
    caches = [make_cache(noise()) for _ in range(2)]
    for cache, expected in zip(caches, ([], [disk]), strict=True):
        cache.images(torch.tensor([0]))
        assert folders == expected


def test_memory_is_free_again_when_the_last_subset_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "_reservations", [])
    monkeypatch.setattr(memory, "memory_bytes", lambda: int(BYTES / memory.MEMORY_FRACTION))
    cache, other = make_cache(noise()), make_cache(noise())
    subset = cache.select(torch.tensor([1]))
    subset.images(torch.tensor([0]))
    del cache
    assert not memory.reserve(other, 1)
    del subset
    assert memory.reserve(other, BYTES)


def test_cache_that_is_never_used_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reservations", [])
    monkeypatch.setattr(memory, "memory_bytes", lambda: int(BYTES / memory.MEMORY_FRACTION))
    unused, other = make_cache(noise()), make_cache(noise())
    assert memory.reserve(other, BYTES)
    assert len(unused.items) == 6


@needs_proc
@pytest.mark.usefixtures("no_memory")
def test_beyond_memory_there_is_a_temporary_file_as_long_as_the_cache(disk: Path) -> None:
    def mapped() -> bool:
        return str(disk) in Path("/proc/self/maps").read_text()

    cache = make_cache(noise())
    cache.images(torch.tensor([0]))
    assert mapped()
    del cache
    assert not mapped()


@pytest.mark.usefixtures("no_memory")
def test_temporary_file_has_no_name(disk: Path) -> None:
    cache = make_cache(noise())
    cache.images(torch.tensor([0]))
    assert list(disk.iterdir()) == []


@pytest.mark.usefixtures("no_memory", "full_disk")
def test_where_nothing_fits_a_warning_says_what_to_do() -> None:
    cache = make_cache(noise())
    with pytest.warns(UserWarning, match=r"0\.00 GB .* smaller image_size, or cache_folder="):
        cache.images(torch.tensor([0]))


@pytest.mark.usefixtures("no_memory", "full_disk")
def test_where_nothing_fits_is_said_once(recwarn: pytest.WarningsRecorder) -> None:
    cache = make_cache(noise())
    warnings.simplefilter("always")
    for _ in range(2):
        cache.images(torch.tensor([0]))
    assert len(recwarn) == 1


@pytest.mark.usefixtures("no_memory", "disk")
def test_folder_in_memory_is_no_place_for_a_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_is_in_memory", lambda folder: True)
    with pytest.warns(UserWarning, match="decoded anew"):
        make_cache(noise()).images(torch.tensor([0]))


@needs_proc
def test_disk_in_memory_is_recognised() -> None:
    if " /dev/shm tmpfs " not in Path("/proc/mounts").read_text():
        pytest.skip("no disk in memory")
    assert cache_module._is_in_memory(Path("/dev/shm"))
    assert not cache_module._is_in_memory(Path("/proc"))


@pytest.mark.parametrize("items", [noise(), [*noise(5), "photo.jpg"]], ids=["arrays", "mixed"])
def test_images_that_are_no_files_are_not_stored(tmp_path: Path, items: list[ImageSource]) -> None:
    cache = make_cache(items, folder=CacheFolder(tmp_path, 1.0))
    cache.images(torch.tensor([0]))
    assert list(tmp_path.iterdir()) == []


@needs_proc
@pytest.mark.usefixtures("no_memory", "disk")
def test_temporary_file_goes_into_the_given_folder(tmp_path: Path) -> None:
    cache = make_cache(noise(), folder=CacheFolder(tmp_path, 1.0))
    cache.images(torch.tensor([0]))
    assert str(tmp_path) in Path("/proc/self/maps").read_text()


def test_batch_is_a_copy_of_what_is_kept() -> None:
    cache = make_cache(noise())
    first = cache.images(torch.tensor([0])).clone()
    cache.images(torch.tensor([0])).zero_()
    assert torch.equal(cache.images(torch.tensor([0])), first)


@pytest.mark.usefixtures("place")
def test_unreadable_image_is_named(tmp_path: Path) -> None:
    write_photos(tmp_path, per_class=2)
    (tmp_path / "green" / "000.jpg").write_bytes(b"torn")
    cache = make_cache(from_folder(tmp_path).items)
    assert len(cache.images(torch.tensor([0, 1]))) == 2
    with pytest.raises(ImageError, match=r"green.000\.jpg"):
        cache.images(torch.tensor([0, 2]))


@pytest.mark.usefixtures("place")
def test_unreadable_lists_what_cant_be_decoded(tmp_path: Path) -> None:
    write_photos(tmp_path, per_class=2)
    for number in (0, 1):
        (tmp_path / "green" / f"00{number}.jpg").write_bytes(b"torn")
    found = dict(make_cache(from_folder(tmp_path).items).unreadable())
    assert list(found) == [2, 3]
    assert found[3].source.endswith("001.jpg")


def test_looking_for_unreadable_images_keeps_the_readable(decoded: list[ImageSource]) -> None:
    cache = make_cache(noise())
    assert list(cache.unreadable()) == []
    decoded.clear()
    cache.images(torch.arange(6))
    assert decoded == []


@pytest.mark.usefixtures("place")
def test_subset_counts_its_own_images() -> None:
    cache = make_cache(noise())
    subset = cache.select(torch.tensor([4, 1])).select(torch.tensor([1, 0]))
    for item, number in zip(subset.items, [1, 4], strict=True):
        assert np.array_equal(item, cache.items[number])
    assert torch.equal(subset.images(torch.arange(2)), cache.images(torch.tensor([1, 4])))


def test_subset_shares_the_images(decoded: list[ImageSource]) -> None:
    cache = make_cache(noise())
    subset = cache.select(torch.tensor([4, 1]))
    cache.images(torch.tensor([1, 2]))
    decoded.clear()
    subset.images(torch.tensor([0, 1]))
    assert len(decoded) == 1


def test_skipping_unreadable_images_decodes_each_once(
    tmp_path: Path, decoded: list[ImageSource]
) -> None:
    write_photos(tmp_path, per_class=4)
    (tmp_path / "green" / "000.jpg").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="left out 1 unreadable"):
        data = from_photos(tmp_path, on_error="skip")
    for loader in (data.train, data.valid):
        list(loader.epoch(0, 0))
    assert len(decoded) == 12


def from_photos(folder: Path, **options: object) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(
        folder, image_size=16, batch_size=1, num_workers=2, **options
    )


def test_loaders_with_another_split_find_the_stored_images(
    tmp_path: Path, photos: Path, decoded: list[ImageSource]
) -> None:
    for seed in (0, 1):
        data = from_photos(photos, seed=seed, cache_folder=tmp_path)
        for loader in (data.train, data.valid):
            list(loader.epoch(0, 0))
        assert len(decoded) == 24


def test_loaders_store_only_sizes_that_are_used(tmp_path: Path, photos: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, batch_size=4, cache_folder=tmp_path)
    fitted = data.for_backbone(16, (0.5,) * 3, (0.5,) * 3)
    next(iter(fitted.train.epoch(0, 0)))
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {24 * 26 * 18 * 3, 24 * 32}


def test_every_constructor_takes_the_cache_folder(tmp_path: Path, photos: Path) -> None:
    files = sorted(map(str, photos.rglob("*.jpg")))
    labels = [Path(file).parent.name for file in files]
    table = tmp_path / "table.csv"
    rows = [f"{file},{label}" for file, label in zip(files, labels, strict=True)]
    table.write_text("\n".join(["image,label", *rows]))
    pairs = [(image, i % 2) for i, image in enumerate(noise())]
    options = {"batch_size": 4, "cache_folder": tmp_path / "cache", "cache_gigabytes": 3.0}
    for data in (
        ImageDataLoaders.from_folder(photos, **options),
        ImageDataLoaders.from_csv(table, **options),
        ImageDataLoaders.from_lists(files, labels, **options),
        ImageDataLoaders.from_dataset(pairs, **options),
    ):
        folder = data.pipeline.cache_folder
        assert folder is not None
        assert (folder.path, folder.gigabytes) == (tmp_path / "cache", 3.0)


# --- whole images

LONG = [np.full((24, 20, 3), 1, np.uint8), np.full((20, 30, 3), 2, np.uint8)]
"""A tall and a wide image."""


@pytest.mark.usefixtures("place")
def test_whole_images_have_their_ends() -> None:
    cache = ImageCache(LONG, SMALL, 2, margin=4)
    for _ in range(2):
        images = cache.images(torch.tensor([1, 0, 1]))
        assert isinstance(images, WholeImages)
        assert images.sizes.tolist() == [[18, 26], [20, 18], [18, 26]]
        assert images.pixels[:, 0, 4:-4].float().mean(dim=(1, 2)).tolist() == [2, 1, 2]
        assert (images.pixels[0] == 2).all()


@pytest.mark.usefixtures("place")
def test_squares_of_whole_images_are_those_of_a_cache_of_squares() -> None:
    whole = ImageCache(noise(), SMALL, 2, margin=4)
    numbers = torch.tensor([4, 0, 4])
    assert torch.equal(whole.squares().images(numbers), make_cache(noise()).images(numbers))
    assert make_cache(noise()).squares().images(numbers).shape == (3, 3, 18, 18)


def test_squares_share_what_is_kept_whole(decoded: list[ImageSource]) -> None:
    whole = ImageCache(LONG, SMALL, 2, margin=4)
    for cache in (whole, whole.squares(), whole.squares().squares()):
        cache.images(torch.tensor([0, 1]))
    assert len(decoded) == 2


@pytest.mark.usefixtures("place")
def test_squares_kept_alone_are_those_of_the_whole_images() -> None:
    numbers = torch.tensor([1, 0])
    whole = ImageCache(LONG, SMALL, 2, margin=4)
    alone = ImageCache(LONG, SMALL, 2, margin=4).squares(keep_ends=False)
    for _ in range(2):
        assert torch.equal(alone.images(numbers), whole.squares().images(numbers))


def test_square_kept_alone_is_decoded_again_for_its_ends(decoded: list[ImageSource]) -> None:
    whole, numbers = ImageCache(LONG, SMALL, 2, margin=4), torch.tensor([0, 1])
    for _ in range(2):
        whole.squares(keep_ends=False).images(numbers)
    assert len(decoded) == 2
    for cache in (whole, whole.squares(), whole.squares(keep_ends=False)):
        images = cache.images(numbers)
    assert len(decoded) == 4
    ends = whole.images(numbers)
    expected = ImageCache(LONG, SMALL, 2, margin=4).images(numbers)
    assert isinstance(ends, WholeImages)
    assert isinstance(expected, WholeImages)
    assert torch.equal(ends.sizes, expected.sizes)
    for place in (torch.zeros(2), torch.ones(2)):
        assert torch.equal(ends.squares(place), expected.squares(place))
    assert torch.equal(images, expected.middle_squares())


def test_validation_alone_decodes_no_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = from_photos(write_photos(tmp_path, per_class=4, size=(24, 16)))
    resized_whole: list[object] = []
    monkeypatch.setattr(preprocessing_module, "presize_whole", resized_whole.append)
    list(data.valid.epoch(0, 0))
    assert not resized_whole


def test_whole_images_take_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for margin, size in ((4, 2 * 26 * 18 * 3), (0, 2 * 18 * 18 * 3)):
        monkeypatch.setattr(memory, "_reservations", [])
        monkeypatch.setattr(memory, "memory_bytes", lambda: int(5000 / memory.MEMORY_FRACTION))
        cache = ImageCache(LONG, SMALL, 2, margin=margin)
        cache.images(torch.tensor([0]))
        assert not memory.reserve(cache, 5000 - size + 1)
        assert memory.reserve(cache, 5000 - size)


def test_store_keeps_whole_images(tmp_path: Path, decoded: list[ImageSource]) -> None:
    files = []
    for number, image in enumerate(LONG):
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(image).save(files[-1])
    numbers = torch.tensor([1, 0])
    expected = ImageCache(files, SMALL, 2, margin=4).images(numbers)
    for _ in range(2):
        folder = CacheFolder(tmp_path / "cache", 1.0)
        stored = ImageCache(files, SMALL, 2, folder=folder, margin=4)
        images = stored.images(numbers)
        assert isinstance(images, WholeImages)
        assert isinstance(expected, WholeImages)
        assert torch.equal(images.sizes, expected.sizes)
        for place in (torch.zeros(2), torch.ones(2)):
            assert torch.equal(images.squares(place), expected.squares(place))
        assert torch.equal(stored.squares().images(numbers), expected.middle_squares())
    assert len(decoded) == 2 + 2  # once for the memory, once for the store


@pytest.mark.usefixtures("place")
def test_two_threads_may_ask_at_once() -> None:
    cache, numbers = make_cache(noise()), torch.arange(6)
    results: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda: results.append(cache.images(numbers))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(*results)
    assert torch.equal(results[0], make_cache(noise(), 1).images(numbers))
