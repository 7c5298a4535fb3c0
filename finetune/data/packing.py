"""Packing: a folder of images as shards, tar files in WebDataset's layout.

    shards/train-0000.tar     cat/001.jpg, cat/001.cls, dog/017.jpg, dog/017.cls, ...
    shards/train-0000.tar.index
    shards/classes.txt        the names of the classes, by their indices in the files .cls

The images are in a random order, so that each shard has all classes. The same folder and settings
make the same bytes.
"""

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from finetune import arguments
from finetune.data.image_options import LARGEST_SIZE
from finetune.data.images.decode import holds_more, read_image
from finetune.data.images.opening import opened
from finetune.data.sources.folders import from_folder
from finetune.data.sources.shard_index import LabelRule, read_index
from finetune.data.sources.shards import CLASSES_FILE, stored_classes
from finetune.files import locks
from finetune.files.names import path_below
from finetune.files.replacing import write_text
from finetune.files.storage import storage_of
from finetune.randomness import generator

_AHEAD = 256
"""So many images are read, and presized, before they are written."""
_PLAIN_MODES = ("L", "RGB", "CMYK", "YCbCr")
"""PIL's names of the modes of images that a JPEG can hold."""
_QUALITY = 95
"""Of the JPEGs that presizing makes."""


@dataclass(frozen=True, slots=True)
class PackSettings:
    """How images are divided into shards, and what is packed of each.

    name: what the names of the shards begin with. megabytes: a shard that has so many, in units of
    1e6 bytes, is full. images: so is one with so many images; None sets no limit. size: larger
    images are resized such that their shorter side has so many pixels, and stored as JPEG; None
    packs the files as they are. seed: of the order. num_workers: threads that read.
    """

    name: str = "train"
    megabytes: float = 200.0
    images: int | None = None
    size: int | None = None
    seed: int = 0
    num_workers: int = 1

    def __post_init__(self) -> None:
        arguments.text("name", self.name)
        if os.path.basename(self.name) != self.name or set(self.name) & set("{}*?["):
            raise ValueError(f"name is the beginning of files' names, got {self.name!r}")
        arguments.real_number("megabytes", self.megabytes, above=0)
        if self.images is not None:
            arguments.whole_number("images", self.images, at_least=1)
        if self.size is not None:
            arguments.whole_number("size", self.size, at_least=1, at_most=LARGEST_SIZE)
        arguments.whole_number("seed", self.seed)
        arguments.whole_number("num_workers", self.num_workers, at_least=1)


class Packed(NamedTuple):
    """What was packed.

    pattern: of the shards' paths, for `from_shards`. renamed: images whose names in the shards are
    not those of the files, because of dots in them or of two endings. bytes: of all shards.
    """

    pattern: str
    shards: int
    images: int
    classes: tuple[str, ...]
    renamed: int
    bytes: int


class _File(NamedTuple):
    """The content of an image file, and how its name ends, such as ".jpg"."""

    content: bytes
    ending: str


def pack(
    folder: Path,
    target: Path,
    settings: PackSettings,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Packs the images of a folder with one folder a class into shards in the folder `target`.

    tell: called with the numbers of packed images and of all. Nothing gets its name before all is
    written, so that after an error there is nothing new. Where `target` has a file of classes, of
    another part of the same data, they keep their indices. Raises FileExistsError where shards of
    this name are there, and FileNotFoundError or ValueError for a folder without classes.
    """
    known_classes = stored_classes(target)
    examples = from_folder(folder, known_classes)
    paths = [str(item) for item in examples.items]
    names = [path_below(path, folder) for path in paths]
    stems = _stems(names)
    order = torch.randperm(len(paths), generator=generator(settings.seed, "pack")).tolist()
    with _new_files(target, settings.name) as temporary:
        with _ShardWriter(temporary, settings) as writer:
            images = _read_ahead([paths[number] for number in order], settings)
            for done, (number, image) in enumerate(zip(order, images, strict=True), start=1):
                writer.add(stems[number], image, int(examples.labels[number]))
                tell(done, len(paths))
        if known_classes is None:
            lines = "".join(f"{name}\n" for name in examples.classes)
            write_text(temporary / CLASSES_FILE, lines)
    shards = [target / name for name in writer.names]
    for shard in shards:
        path = os.path.abspath(shard)
        read_index(path, storage_of(path).state(path), LabelRule("cls"), None)
    return Packed(
        pattern=_pattern(shards),
        shards=len(shards),
        images=len(paths),
        classes=examples.classes,
        renamed=sum(
            os.path.splitext(name)[0] != stem for name, stem in zip(names, stems, strict=True)
        ),
        bytes=sum(shard.stat().st_size for shard in shards),
    )


def _pattern(shards: Sequence[Path]) -> str:
    """What `from_shards` takes for all of the shards."""
    if len(shards) == 1:
        return str(shards[0])
    prefix, _, first = shards[0].stem.rpartition("-")
    last = shards[-1].stem.rpartition("-")[2]
    return str(shards[0].with_name(f"{prefix}-{{{first}..{last}}}.tar"))


def _stems(names: Sequence[str]) -> list[str]:
    """The names without their endings, each once, and without dots in the names of the files.

    The names of an example's files are the same up to the first dot, and of no other example.
    """
    stems: list[str] = []
    taken: set[str] = set()
    for name in names:
        folder, _, file = name.rpartition("/")
        plain = os.path.splitext(file)[0].replace(".", "_")
        stem, count = f"{folder}/{plain}", 1
        while stem in taken:
            count += 1
            stem = f"{folder}/{plain}_{count}"
        taken.add(stem)
        stems.append(stem)
    return stems


def _read_ahead(paths: Sequence[str], settings: PackSettings) -> Iterator[_File]:
    """The images as they are packed, in their order, a bounded number of them ahead."""

    def read(path: str) -> _File:
        return _read(path, settings.size)

    with ThreadPoolExecutor(settings.num_workers, thread_name_prefix="pack") as threads:
        for first in range(0, len(paths), _AHEAD):
            yield from threads.map(read, paths[first : first + _AHEAD])


def _read(path: str, size: int | None) -> _File:
    """An image file, or a JPEG of it whose shorter side is `size`.

    What is smaller stays as it is. So does what would lose something, as an image with more than 8
    bits, transparency or further channels; and a file that can't be read, about which training has
    its own rule, `on_error`.
    """
    image = None if size is None else _resized(path, size)
    if image is None:
        return _File(Path(path).read_bytes(), os.path.splitext(path)[1])
    stream = io.BytesIO()
    # with colours in full resolution, as the training may resize once more
    image.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return _File(stream.getvalue(), ".jpg")


def _resized(path: str, size: int) -> Image.Image | None:
    """The upright image with a shorter side of `size` pixels; None for one to be left alone."""
    try:
        with opened(path) as file:
            if not isinstance(file, Image.Image) or file.mode not in _PLAIN_MODES:
                return None
            if holds_more(file):
                return None
            mode = file.mode
        # JPEG's own scaling is coarse, so that it stops at twice the size
        image = read_image(path, min_side=2 * size)
    except Exception:  # PIL raises OSError, SyntaxError, struct.error, ... for bad files
        return None
    if mode == "L":  # one channel stays one
        image = image.convert("L")
    shorter = min(image.size)
    if shorter <= size:
        return None
    width, height = (max(1, round(side * size / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


@contextmanager
def _new_files(target: Path, name: str) -> Iterator[Path]:
    """A folder whose files are moved to `target` at the end of the block, unless there is an error.

    Raises FileExistsError where there are shards of this name.
    """
    with locks.held(target / f".{name}.packing.lock", f"{str(target)!r}"):
        present = sorted(target.glob(f"{name}-*.tar"))
        if present:
            raise FileExistsError(
                f"there is {str(present[0])!r} already; remove such shards, or pack to another "
                "folder or by another name"
            )
        temporary = target / f".{name}.packing"
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir()
        try:
            yield temporary
            for file in sorted(temporary.iterdir()):
                file.rename(target / file.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class _ShardWriter:
    """Writes examples into one shard after the other; names: of those that there are."""

    def __init__(self, folder: Path, settings: PackSettings) -> None:
        self.names: list[str] = []
        self._folder, self._settings = folder, settings
        self._open = ExitStack()  # what the present shard is written by
        self._archive: tarfile.TarFile | None = None
        self._images = 0

    def __enter__(self) -> "_ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, stem: str, image: _File, label: int) -> None:
        """Adds an image and its class index, to a new shard where the last one is full."""
        if self._archive is None or self._is_full(self._archive, len(image.content)):
            self._archive = self._begin_shard()
        _add_file(self._archive, stem + image.ending, image.content)
        _add_file(self._archive, stem + ".cls", b"%d" % label)
        self._images += 1

    def _is_full(self, archive: tarfile.TarFile, more_bytes: int) -> bool:
        limit = self._settings.images
        is_at_limit = limit is not None and self._images >= limit
        return is_at_limit or archive.offset + more_bytes > self._settings.megabytes * 1e6

    def _begin_shard(self) -> tarfile.TarFile:
        self._open.close()
        name = f"{self._settings.name}-{len(self.names):04d}.tar"
        file = self._open.enter_context((self._folder / name).open("xb"))
        self._open.callback(os.fsync, file.fileno())
        self._open.callback(file.flush)
        archive = self._open.enter_context(tarfile.TarFile(fileobj=file, mode="w"))
        self.names.append(name)
        self._images = 0
        return archive


def _add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)  # without a time and an owner, so that bytes repeat
    header.size = len(content)
    archive.addfile(header, io.BytesIO(content))
    archive.members = []  # type: ignore[attr-defined]  # each would take a kilobyte
