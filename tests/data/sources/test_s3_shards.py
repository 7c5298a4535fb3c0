"""Shards and Parquet files in a bucket: a server of moto stands for S3.

Run with `pip install 'moto[server]' s3fs`; without them the tests are skipped.
"""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from parquets import write_folder_as_parquet
from support import write_photos

from finetune import ImageDataLoaders, ImageError
from finetune.data.packing import PackSettings, pack

pytestmark = pytest.mark.slow

OPTIONS: dict = {"image_size": 32, "batch_size": 4, "num_workers": 2}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", per_class=6)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"photos-{uuid4().hex}"  # the stand-in keeps its buckets
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def upload(folder: Path, bucket: str) -> None:
    import s3fs

    for file in folder.iterdir():
        s3fs.S3FileSystem(skip_instance_cache=True).put_file(str(file), f"{bucket}/{file.name}")


def inputs_of(data: ImageDataLoaders) -> torch.Tensor:
    """All training inputs of an epoch."""
    return torch.cat([data.prepare(batch, view=1).inputs for batch in data.train.epoch(0, 1)])


def test_shards_and_parquet_files_give_the_batches_of_their_folder(
    photos: Path, bucket: str, tmp_path: Path
) -> None:
    expected = inputs_of(ImageDataLoaders.from_folder(photos, **OPTIONS))
    pack(photos, tmp_path / "shards", PackSettings(images=9))
    upload(tmp_path / "shards", bucket)
    for pattern in ("train-{0000..0001}.tar", "train-*.tar"):
        data = ImageDataLoaders.from_shards(f"{bucket}/{pattern}", **OPTIONS)
        assert data.classes == ("blue", "green", "red")
        assert torch.equal(inputs_of(data), expected)
    write_folder_as_parquet(photos, tmp_path / "parquet", 2)
    upload(tmp_path / "parquet", bucket)
    data = ImageDataLoaders.from_parquet(f"{bucket}/train-*.parquet", **OPTIONS)
    assert torch.equal(inputs_of(data), expected)


def test_what_is_not_there_and_what_was_replaced_is_named(
    photos: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no shard 's3://photos.*/a-0\.tar'"):
        ImageDataLoaders.from_shards(f"{bucket}/a-{{0..2}}.tar", **OPTIONS)
    pack(photos, tmp_path / "shards", PackSettings())
    upload(tmp_path / "shards", bucket)
    data = ImageDataLoaders.from_shards(f"{bucket}/train-0000.tar", **OPTIONS)
    shard = tmp_path / "shards" / "train-0000.tar"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    upload(tmp_path / "shards", bucket)
    monkeypatch.setattr("finetune.files.storage.CHECK_SECONDS", 0.0)
    with pytest.raises(ImageError, match=r"s3://photos.*/train-0000\.tar/.*: the file has changed"):
        inputs_of(data)
