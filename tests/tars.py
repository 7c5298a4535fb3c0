"""Tar files for tests: written by the standard library alone, as other programs write shards."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar file with these members, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def jpeg(grey: int = 0) -> bytes:
    """A small image in one grey."""
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def write_folder_as_shards(photos: Path, folder: Path, count: int) -> str:
    """The images below a folder, divided over so many shards; returns their pattern."""
    files = sorted(photos.rglob("*.jpg"))
    for number in range(count):
        members = {}
        for file in files[number::count]:
            members[file.relative_to(photos).as_posix()] = file.read_bytes()
        write_tar(folder / f"train-{number:03d}.tar", members)
    return f"{folder}/train-{{000..{count - 1:03d}}}.tar"
