"""Nothing is loaded from a damaged file."""

import hashlib
import io
import random
import zipfile
from pathlib import Path

import pytest
import torch

from finetune.files.integrity import DamagedError, check_torch_file, sha256_of

CONTENT = {"weight": torch.arange(50.0), "name": "word", "step": 3}


@pytest.fixture(scope="module")
def whole() -> bytes:
    stream = io.BytesIO()
    torch.save(CONTENT, stream)
    return stream.getvalue()


def flips(whole: bytes) -> list[tuple[int, int]]:
    """Bytes and bits: all that the zip's directory, which no check sum covers, says of a record,
    and some elsewhere.
    """
    first = whole.index(b"PK\x01\x02")
    second = whole.index(b"PK\x01\x02", first + 1)
    places = [(place, bit) for place in range(first, second) for bit in range(8)]
    chance = random.Random(0)
    places += [(chance.randrange(len(whole)), chance.randrange(8)) for _ in range(100)]
    return places


def loaded(path: Path) -> object:
    """The content; None if the damage was seen."""
    try:
        check_torch_file(path)
        content = torch.load(path, weights_only=True)
    except Exception:  # torch has many kinds
        return None
    return content


def test_no_flipped_bit_changes_what_is_loaded(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    for place, bit in flips(whole):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        content = loaded(path)
        if content is not None:
            assert torch.equal(content.pop("weight"), CONTENT["weight"]), (place, bit)
            assert content == {"name": "word", "step": 3}, (place, bit)


def test_a_whole_file_is_no_error(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(whole)
    check_torch_file(tmp_path / "file.pt")


def test_torchs_old_format_has_nothing_to_check(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "file.pt", _use_new_zipfile_serialization=False)
    check_torch_file(tmp_path / "file.pt")


def test_the_record_with_another_check_sum_is_named(whole: bytes, tmp_path: Path) -> None:
    place = whole.index(torch.tensor(1.0).numpy().tobytes())
    damaged = whole[:place] + b"\x01" + whole[place + 1 :]
    (tmp_path / "file.pt").write_bytes(damaged)
    with pytest.raises(DamagedError, match=r"CRC-32 for file '.*/data/0'"):
        check_torch_file(tmp_path / "file.pt")


def test_a_compressed_record_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1_000_000))
    with pytest.raises(DamagedError, match=r"'archive/data.pkl' is compressed"):
        check_torch_file(tmp_path / "bomb.pt")


def test_sha256(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(whole)
    assert sha256_of(tmp_path / "file.pt") == hashlib.sha256(whole).hexdigest()
