"""Packing: a folder of images, or Parquet files, as shards: tar files in WebDataset's layout.

    shards/train-0000.tar     cat/001.jpg, cat/001.cls, dog/017.jpg, dog/017.cls, ...
    shards/train-0000.tar.index
    shards/classes.txt        the names of the classes, by their indices in the files .cls

The images of a folder are in a random order, so that each shard has all classes; those of Parquet
files in that of the rows, so that they are read once. The same images and settings make the same
bytes.
"""

import io
import itertools
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from finetune import arguments
from finetune.data.image_options import LARGEST_SIZE
from finetune.data.images.decode import holds_more, read_image
from finetune.data.images.opening import image_extensions, opened
from finetune.data.images.parquet import ParquetImage, contents_in_order
from finetune.data.sources.folders import from_folder
from finetune.data.sources.parquet import ParquetLayout, are_parquet, from_parquet
from finetune.data.sources.shard_index import LabelRule, read_index
from finetune.data.sources.shards import CLASSES_FILE, shard_paths, stored_classes
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


@dataclass(frozen=True, slots=True)
class _Source:
    """What is packed: N images, in the order that they have in the shards.

    names: with slashes and endings. labels: class indices. contents: reads the files' contents, one
    after the other; threads may call what it gives.
    """

    names: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    contents: Callable[[], Iterator[Callable[[], bytes]]]


def pack(
    source: str | Path,
    target: Path,
    settings: PackSettings,
    tell: Callable[[int, int], None] = lambda done, total: None,
    layout: ParquetLayout | None = None,
) -> Packed:
    """Packs images of classes into shards in the folder `target`.

    source: a folder with one folder a class, or a pattern of Parquet files, as `from_parquet` takes
    it. tell: called with the numbers of packed images and of all. layout: of Parquet files.

    Nothing gets its name before all is written, so that after an error there is nothing new. Where
    `target` has a file of classes, of another part of the same data, they keep their indices.
    Raises FileExistsError where shards of this name are there, and FileNotFoundError or ValueError
    for a folder without classes, and for what `from_parquet` can't read.
    """
    known_classes = stored_classes(target)
    if are_parquet(source):
        images = _in_parquet(str(source), layout or ParquetLayout(), known_classes)
    else:
        images = _in_folder(Path(source), known_classes, settings.seed)
    count = len(images.names)
    stems = _stems(images.names)
    with _new_files(target, settings.name) as temporary:
        with _ShardWriter(temporary, settings) as writer:
            files = _read_ahead(images, settings)
            for number, file in enumerate(files):
                writer.add(stems[number], file, images.labels[number])
                tell(number + 1, count)
        if known_classes is None:
            lines = "".join(f"{name}\n" for name in images.classes)
            write_text(temporary / CLASSES_FILE, lines)
    shards = [target / name for name in writer.names]
    for shard in shards:
        path = os.path.abspath(shard)
        read_index(path, storage_of(path).state(path), LabelRule("cls"), None)
    return Packed(
        pattern=_pattern(shards),
        shards=len(shards),
        images=count,
        classes=images.classes,
        renamed=sum(
            os.path.splitext(name)[0] != stem
            for name, stem in zip(images.names, stems, strict=True)
        ),
        bytes=sum(shard.stat().st_size for shard in shards),
    )


def _in_folder(folder: Path, classes: list[str] | None, seed: int) -> _Source:
    """The images of a folder, in a random order. classes: in their order, if they are known."""
    examples = from_folder(folder, classes)
    order = torch.randperm(len(examples), generator=generator(seed, "pack"))
    examples = examples.select(order)
    paths = [Path(str(item)) for item in examples.items]

    def contents() -> Iterator[Callable[[], bytes]]:
        for path in paths:
            yield path.read_bytes

    names = [path_below(str(path), folder) for path in paths]
    return _Source(names, examples.labels.tolist(), examples.classes, contents)


def _in_parquet(pattern: str, layout: ParquetLayout, classes: list[str] | None) -> _Source:
    """The images of Parquet files, in the order of their rows. classes: see `_in_folder`.

    They keep the names that the files have of them, if these are names of image files that no two
    images have; otherwise they are called by their numbers, such as 0017.jpg.
    """
    known_classes = None if classes is None else tuple(classes)
    paths = shard_paths("source", pattern)
    examples = from_parquet(paths, layout, classes_of_training=known_classes)
    images = [item for item in examples.items if isinstance(item, ParquetImage)]
    files = list(dict.fromkeys(image.file for image in images))

    def contents() -> Iterator[Callable[[], bytes]]:
        for file in files:
            for content in contents_in_order(file):
                yield partial(bytes, content or b"")

    names = [image.name for image in images]
    extensions = image_extensions()
    if not all(os.path.splitext(name)[1].lower() in extensions for name in names):
        digits = len(str(len(images) - 1))
        names = [f"{number:0{digits}d}" for number in range(len(images))]
    return _Source(names, examples.labels.tolist(), examples.classes, contents)


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
        folder, slash, file = name.rpartition("/")
        plain = folder + slash + os.path.splitext(file)[0].replace(".", "_")
        stem, count = plain, 1
        while stem in taken:
            count += 1
            stem = f"{plain}_{count}"
        taken.add(stem)
        stems.append(stem)
    return stems


def _read_ahead(images: _Source, settings: PackSettings) -> Iterator[_File]:
    """The images as they are packed, in their order, a bounded number of them ahead."""

    def read(name: str, content: Callable[[], bytes]) -> _File:
        return _packed_file(content(), os.path.splitext(name)[1], settings.size)

    contents = images.contents()
    with ThreadPoolExecutor(settings.num_workers, thread_name_prefix="pack") as threads:
        for first in range(0, len(images.names), _AHEAD):
            names = images.names[first : first + _AHEAD]
            yield from threads.map(read, names, itertools.islice(contents, len(names)))


def _packed_file(content: bytes, ending: str, size: int | None) -> _File:
    """An image file, or a JPEG of it whose shorter side is `size`.

    ending: of the file's name; "" is found in the content.

    What is smaller stays as it is. So does what would lose something, as an image with more than 8
    bits, transparency or further channels; and a file that can't be read, about which training has
    its own rule, `on_error`.
    """
    image = None if size is None else _resized(content, size)
    if image is None:
        return _File(content, ending or _ending_of(content))
    stream = io.BytesIO()
    # with colours in full resolution, as the training may resize once more
    image.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return _File(stream.getvalue(), ".jpg")


def _ending_of(content: bytes) -> str:
    """How the names of such image files end; that of JPEG files for what can't be read."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            file_format = image.format
    except Exception:  # PIL raises OSError, SyntaxError, struct.error, ... for bad files
        return ".jpg"
    ending = f".{file_format}".lower()
    is_known = file_format != "JPEG" and ending in image_extensions()
    return ending if is_known else ".jpg"


def _resized(content: bytes, size: int) -> Image.Image | None:
    """The upright image with a shorter side of `size` pixels; None for one to be left alone."""
    try:
        with opened(content) as file:
            if not isinstance(file, Image.Image) or file.mode not in _PLAIN_MODES:
                return None
            if holds_more(file):
                return None
            mode = file.mode
        # JPEG's own scaling is coarse, so that it stops at twice the size
        image = read_image(content, min_side=2 * size)
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
