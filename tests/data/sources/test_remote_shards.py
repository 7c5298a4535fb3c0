"""Shards that are not on this machine: in memory, and on a server that answers ranges."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from range_server import Store, range_server
from support import write_photos
from tars import jpeg, write_folder_as_shards, write_tar

from finetune import ImageDataLoaders, ImageError
from finetune.data.packing import PackSettings, pack

OPTIONS: dict = {"image_size": 32, "batch_size": 4, "num_workers": 2}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", per_class=6)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    folder = tmp_path / "store"
    folder.mkdir()
    with range_server(folder) as store:
        yield store


def inputs_of(data: ImageDataLoaders) -> torch.Tensor:
    """All training inputs of an epoch."""
    return torch.cat([data.prepare(batch, view=1).inputs for batch in data.train.epoch(0, 1)])


def ranges_of_shards(store: Store) -> list[tuple[str, str]]:
    return [request for request in store.requests if request[0].endswith(".tar")]


def test_remote_shards_give_the_batches_of_local_ones(photos: Path, store: Store) -> None:
    write_folder_as_shards(photos, store.folder, 2)
    expected = inputs_of(ImageDataLoaders.from_folder(photos, **OPTIONS))
    remote = ImageDataLoaders.from_shards(f"{store.address}/train-{{000..001}}.tar", **OPTIONS)
    assert torch.equal(inputs_of(remote), expected)
    memory = fsspec.filesystem("memory")
    for number in range(2):
        memory.put_file(store.folder / f"train-00{number}.tar", f"/a/train-00{number}.tar")
    in_memory = ImageDataLoaders.from_shards("memory://a/train-{000..001}.tar", **OPTIONS)
    assert torch.equal(inputs_of(in_memory), expected)
    assert not list(store.folder.glob("*.index"))
    memory.rm("/a", recursive=True)


def test_images_are_read_by_their_ranges_and_once(
    photos: Path, store: Store, tmp_path: Path
) -> None:
    packed = pack(photos, store.folder, PackSettings())
    address = f"{store.address}/{Path(packed.pattern).name}"
    data = ImageDataLoaders.from_shards(address, **OPTIONS)
    assert data.classes == packed.classes
    store.requests.clear()
    inputs_of(data)
    inputs_of(data)
    places = {
        f"bytes={item.offset}-{item.offset + item.size - 1}"  # type: ignore[union-attr]
        for item in data.train_examples.items
    }
    requested = [text for _, text in ranges_of_shards(store)]
    assert len(requested) == len(set(requested)) == 12  # three batches of four
    assert set(requested) <= places


def test_the_index_is_kept_until_the_etag_changes(
    photos: Path, store: Store, tmp_path: Path
) -> None:
    write_folder_as_shards(photos, store.folder, 1)
    address, cache = f"{store.address}/train-000.tar", tmp_path / "cache"
    ImageDataLoaders.from_shards(address, cache_folder=cache, label_file="folder", **OPTIONS)
    store.requests.clear()
    data = ImageDataLoaders.from_shards(
        address, cache_folder=cache, label_file="folder", value_range=(0, 255), **OPTIONS
    )
    assert not ranges_of_shards(store)
    before = inputs_of(data)
    shard = store.folder / "train-000.tar"
    content = shard.read_bytes()
    changed = content.replace(b"red/", b"rot/")
    shard.write_bytes(fix_checksums(changed))
    data = ImageDataLoaders.from_shards(address, cache_folder=cache, label_file="folder", **OPTIONS)
    assert data.classes == ("blue", "green", "rot")
    assert inputs_of(data).shape == before.shape


def fix_checksums(content: bytes) -> bytes:
    """A tar file whose headers were changed, with the check sums that they should have."""
    blocks = bytearray(content)
    for start in range(0, len(blocks), 512):
        block = blocks[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(blocks)


def test_a_packed_index_that_is_of_another_shard_is_not_taken(photos: Path, store: Store) -> None:
    pack(photos, store.folder, PackSettings())
    index = (store.folder / "train-0000.tar.index").read_bytes()
    for name in ("train-0000.tar", "train-0000.tar.index"):
        (store.folder / name).unlink()
    pack(photos, store.folder, PackSettings(seed=1))
    (store.folder / "train-0000.tar.index").write_bytes(index)
    expected = inputs_of(ImageDataLoaders.from_folder(photos, **OPTIONS))
    data = ImageDataLoaders.from_shards(f"{store.address}/train-0000.tar", **OPTIONS)
    assert torch.equal(inputs_of(data), expected)


def test_what_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no shard 'http.*/a-0\.tar'"):
        ImageDataLoaders.from_shards(f"{store.address}/a-{{0..3}}.tar")
    with pytest.raises(PermissionError, match=r"can't read 'http.*/forbidden\.tar'"):
        ImageDataLoaders.from_shards(f"{store.address}/forbidden.tar")
    with pytest.raises(OSError, match=r"can't read 'http://127\.0\.0\.1:1/a\.tar': Cannot connect"):
        ImageDataLoaders.from_shards("http://127.0.0.1:1/a.tar")
    with pytest.raises(ValueError, match="Protocol not known: nowhere"):
        ImageDataLoaders.from_shards("nowhere://a.tar")


def test_a_shard_that_became_shorter_is_an_error_that_names_the_member(
    photos: Path, store: Store
) -> None:
    write_folder_as_shards(photos, store.folder, 1)
    data = ImageDataLoaders.from_shards(f"{store.address}/train-000.tar", **OPTIONS)
    shard = store.folder / "train-000.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(
        ImageError, match=r"http://.*/train-000\.tar/\w+/00\d\.jpg: the file has ch"
    ):
        inputs_of(data)


def changed_of_the_same_size(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))


@pytest.mark.parametrize("compares", ["exactly", "never"])
def test_a_shard_that_is_replaced_is_found_out_and_named(
    photos: Path, store: Store, monkeypatch: pytest.MonkeyPatch, compares: str
) -> None:
    store.compares = compares
    write_folder_as_shards(photos, store.folder, 1)
    data = ImageDataLoaders.from_shards(f"{store.address}/train-000.tar", **OPTIONS)
    batches = data.train.epoch(0, 1)
    next(batches)
    changed_of_the_same_size(store.folder / "train-000.tar")
    if compares == "never":  # a server that does not look at the version is asked for it
        next(batches)
        monkeypatch.setattr("finetune.files.storage.CHECK_SECONDS", 0.0)
    message = r"http://.*/train-000\.tar/\w+/00\d\.jpg: the file has changed since it was listed"
    with pytest.raises(ImageError, match=message):
        list(batches)


def test_a_server_that_takes_its_own_version_for_another_is_read_all_the_same(
    photos: Path, store: Store
) -> None:
    store.compares = "wrongly"
    write_folder_as_shards(photos, store.folder, 1)
    expected = inputs_of(ImageDataLoaders.from_folder(photos, **OPTIONS))
    data = ImageDataLoaders.from_shards(f"{store.address}/train-000.tar", **OPTIONS)
    assert torch.equal(inputs_of(data), expected)


def test_corrections_name_images_below_the_address(store: Store, tmp_path: Path) -> None:
    members = {f"{'ab'[n % 2]}/{n}.jpg": jpeg(9 * n) for n in range(12)}
    write_tar(store.folder / "s.tar", members)
    table = tmp_path / "corrections.csv"
    table.write_text("image,label,action,new_label\ns.tar/a/4.jpg,a,remove,\n")
    data = ImageDataLoaders.from_shards(f"{store.address}/s.tar", corrections=table, **OPTIONS)
    assert len(data.train_examples) + len(data.valid_examples) == 11
