import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from support import write_photos

from finetune.data import cache as cache_module
from finetune.data.cache import ImageCache
from finetune.data.decode import ImageError
from finetune.data.examples import Examples, from_folder
from finetune.data.preprocessing import Preprocessing

SMALL = Preprocessing(16)


def make_cache(count: int = 6, workers: int = 2) -> ImageCache:
    noise = np.random.default_rng(0).integers(0, 256, (count, 24, 20, 3), dtype=np.uint8)
    return ImageCache(Examples(list(noise), torch.arange(count) % 2, ("a", "b")), SMALL, workers)


def count_decodes(cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    decoded: list[int] = []
    plain = cache._decode

    def counted(number: int) -> np.ndarray:
        decoded.append(number)
        return plain(number)

    monkeypatch.setattr(cache, "_decode", counted)
    return decoded


@pytest.fixture(params=["kept", "not kept"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "not kept":
        monkeypatch.setattr(cache_module, "_memory_bytes", lambda: 0)
    return str(request.param)


@pytest.mark.usefixtures("memory")
def test_images_are_the_presized_ones_in_the_order_asked_for() -> None:
    cache = make_cache()
    images = cache.images(torch.tensor([4, 0, 4]))
    assert (images.dtype, images.shape) == (torch.uint8, (3, 3, 18, 18))
    for image, number in zip(images, [4, 0, 4], strict=True):
        presized = SMALL.presize(cache.examples.items[number])
        assert np.array_equal(image.permute(1, 2, 0).numpy(), presized)


@pytest.mark.usefixtures("memory")
def test_images_are_the_same_when_asked_again() -> None:
    cache, numbers = make_cache(), torch.tensor([3, 1])
    assert torch.equal(cache.images(numbers), cache.images(numbers))


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("workers", [2, 4])
def test_number_of_workers_changes_no_pixel(workers: int) -> None:
    numbers = torch.tensor([5, 2, 0, 1])
    assert torch.equal(
        make_cache(workers=workers).images(numbers), make_cache(9, 1).images(numbers)
    )


def test_images_are_in_channels_last_layout() -> None:
    images = make_cache().images(torch.tensor([0, 1]))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_image_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache()
    decoded = count_decodes(cache, monkeypatch)
    for numbers in ([0, 1, 1], [1, 2], [0, 1, 2]):
        cache.images(torch.tensor(numbers))
    assert sorted(decoded) == [0, 1, 2]


def test_beyond_the_memory_share_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_memory_bytes", lambda: 6 * 18 * 18 * 3 * 4 - 4)
    cache = make_cache()
    decoded = count_decodes(cache, monkeypatch)
    for _ in range(2):
        cache.images(torch.tensor([0, 1]))
    assert sorted(decoded) == [0, 0, 1, 1]
    assert cache._images.nbytes == 0


def test_batch_is_a_copy_of_what_is_kept() -> None:
    cache = make_cache()
    first = cache.images(torch.tensor([0])).clone()
    cache.images(torch.tensor([0])).zero_()
    assert torch.equal(cache.images(torch.tensor([0])), first)


@pytest.mark.usefixtures("memory")
def test_unreadable_image_is_named(tmp_path: Path) -> None:
    write_photos(tmp_path, per_class=2)
    (tmp_path / "green" / "000.jpg").write_bytes(b"torn")
    cache = ImageCache(from_folder(tmp_path), SMALL, 2)
    assert len(cache.images(torch.tensor([0, 1]))) == 2
    with pytest.raises(ImageError, match=r"green.000\.jpg"):
        cache.images(torch.tensor([0, 2]))


@pytest.mark.usefixtures("memory")
def test_unreadable_lists_what_cant_be_decoded(tmp_path: Path) -> None:
    write_photos(tmp_path, per_class=2)
    for number in (0, 1):
        (tmp_path / "green" / f"00{number}.jpg").write_bytes(b"torn")
    found = dict(ImageCache(from_folder(tmp_path), SMALL, 2).unreadable())
    assert list(found) == [2, 3]
    assert found[3].source.endswith("001.jpg")


def test_looking_for_unreadable_images_keeps_the_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache()
    assert list(cache.unreadable()) == []
    decoded = count_decodes(cache, monkeypatch)
    cache.images(torch.arange(6))
    assert decoded == []


def test_two_threads_may_ask_at_once() -> None:
    cache, numbers = make_cache(40), torch.arange(40)
    results: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda: results.append(cache.images(numbers))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(*results)
    assert torch.equal(results[0], make_cache(40, 1).images(numbers))
