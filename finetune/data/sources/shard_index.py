"""The index of a shard: which images a tar file has, where, and with which labels.

It is made once, by reading the headers of the tar file and its small files of labels, and kept as
JSON for as long as the shard stays as it is. With it, an example has a number, and its image is
read by itself, so that any order of examples costs the same.
"""

import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias, get_args

from finetune import arguments
from finetune.data.images.opening import image_extensions
from finetune.files.names import spelled
from finetune.files.replacing import write_text
from finetune.files.storage import State, is_remote, storage_of

LabelFile: TypeAlias = Literal["cls", "json", "txt", "folder"]
LABEL_FILES: tuple[LabelFile, ...] = get_args(LabelFile)
"""Where labels are, the first choice first, see `LabelRule`."""

INDEX_VERSION = 1
"""To be increased with every change of what is taken for an image, or for its label."""

_SUFFIX = ".index"
_BLOCK = 512
"""A tar file has blocks of so many bytes; behind the last member there is one of zeros."""
_WAY_OUT = "label_file= says where the labels are"


@dataclass(frozen=True, slots=True)
class LabelRule:
    """Where the label of an example is, for all examples of a data set.

    file: "cls" is a file beside the image that ends so and has a class index or a class name;
    "json" one with the label under a key; "txt" one with a class name; "folder" the name of the
    folder that the image is directly in. None is the first of these that the first example has.
    """

    file: LabelFile | None = None
    key: str = "label"

    def __post_init__(self) -> None:
        if self.file is not None:
            arguments.choice("label_file", self.file, LABEL_FILES)
        arguments.text("label_key", self.key)


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The images of a shard: their names, where their content is, in bytes, and their labels."""

    names: list[str]
    offsets: list[int]
    sizes: list[int]
    labels: list[Any]

    def rows(self) -> Iterator[tuple[str, int, int, Any]]:
        """Name, offset, size and label of each image."""
        return zip(self.names, self.offsets, self.sizes, self.labels, strict=True)


class _Member(NamedTuple):
    """A file in a shard. offset, size: of its content, in bytes."""

    name: str
    offset: int
    size: int

    @property
    def stem(self) -> str:
        """What the files of one example have in common: the name up to its first dot."""
        folder, slash, file = self.name.rpartition("/")
        return folder + slash + file.partition(".")[0]

    @property
    def ending(self) -> str:
        """What is behind the first dot, in lower case."""
        return self.name[len(self.stem) + 1 :].lower()


def read_index(
    shard: str, state: State, rule: LabelRule, cache_folder: str | Path | None
) -> ShardIndex:
    """The index of a shard, as it was kept, or made anew where the shard is another one.

    state: of the shard now. cache_folder: where it is kept; None is beside the shard. In a folder
    that can't be written none is kept, nor beside a remote shard. Raises ValueError for a shard
    that is damaged, and for an image without a label.
    """
    facts = {"index version": INDEX_VERSION, "rule": asdict(rule), "size": state.size}
    facts_here = {**facts, "shard version": state.version}
    file = _index_file(shard, cache_folder)
    kept = None if file is None else _index_in(str(file), facts_here)
    if kept is not None:
        return kept
    index = _packed_index(shard, state, facts) if is_remote(shard) else None
    if index is None:
        index = scan(shard, rule)
    if file is not None:
        with suppress(OSError):
            write_text(file, json.dumps({**facts_here, **asdict(index)}))
    return index


def _index_file(shard: str, cache_folder: str | Path | None) -> Path | None:
    """Where the index of a shard is kept; None where it can't be kept."""
    if cache_folder is None:
        return None if is_remote(shard) else Path(shard + _SUFFIX)
    digest = hashlib.blake2b(os.fsencode(shard), digest_size=16).hexdigest()
    return arguments.path("cache_folder", cache_folder) / f"{digest}{_SUFFIX}"


def _index_in(file: str, facts: Mapping[str, Any]) -> ShardIndex | None:
    """The index in a file; None where there is none, or one for which other facts hold."""
    try:
        with storage_of(file).open(file) as stream:
            content = json.loads(stream.read())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or any(content.get(key) != facts[key] for key in facts):
        return None
    return ShardIndex(**{field.name: content[field.name] for field in fields(ShardIndex)})


def _packed_index(shard: str, state: State, facts: Mapping[str, Any]) -> ShardIndex | None:
    """The index that was packed and uploaded with a shard; None where there is none that fits it.

    To make one anew would mean to read the whole shard. It has the version of another disk, so that
    the last image is looked for at its place instead.
    """
    index = _index_in(shard + _SUFFIX, facts)
    if index is None or not index.names:
        return None
    try:
        block = storage_of(shard).read(shard, index.offsets[-1] - _BLOCK, _BLOCK, state)
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return None
    return index if header.size == index.sizes[-1] else None


def scan(shard: str, rule: LabelRule) -> ShardIndex:
    """Makes the index of a shard. Raises ValueError as `read_index`."""
    index = ShardIndex([], [], [], [])
    with storage_of(shard).open(shard) as stream:
        for files in _examples(shard, stream):
            image = _image_in(files, shard)
            if image is None:  # a file that belongs to no image
                continue
            index.names.append(image.name)
            index.offsets.append(image.offset)
            index.sizes.append(image.size)
            index.labels.append(_read_label(files, image, rule, shard, stream))
    return index


def found_rule(rule: LabelRule, shard: str) -> LabelRule:
    """The rule, with the file of labels that the first example of a shard has, unless it names one.

    Raises ValueError for a shard without images.
    """
    if rule.file is not None:
        return rule
    with storage_of(shard).open(shard) as stream:
        for files in _examples(shard, stream):
            if _image_in(files, shard) is None:
                continue
            endings = {member.ending for member in files}
            for file in LABEL_FILES:
                if file in endings or file == "folder":
                    return replace(rule, file=file)
    raise ValueError(f"there is no image in the shard {shard!r}")


def _examples(shard: str, stream: BinaryIO) -> Iterator[list[_Member]]:
    """The files of each example, which follow each other and share a stem."""
    for _, files in itertools.groupby(_members(shard, stream), lambda member: member.stem):
        yield list(files)


def _members(shard: str, stream: BinaryIO) -> Iterator[_Member]:
    """The files in a tar file; hidden ones and links are left out.

    Raises ValueError for what is no tar file, or not a whole one.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            while (header := archive.next()) is not None:
                # these would take a kilobyte each
                archive.members.clear()  # type: ignore[attr-defined]
                is_hidden = os.path.basename(header.name).startswith(".")
                if header.isreg() and not header.issparse() and not is_hidden:
                    yield _Member(spelled(header.name), header.offset_data, header.size)
            end = archive.offset
    except tarfile.TarError as error:
        raise ValueError(
            f"the shard {shard!r} is damaged, or no tar file without compression: {error}"
        ) from error
    # tarfile takes a header that it can't read for the end
    stream.seek(end)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise ValueError(
            f"the shard {shard!r} is damaged or not whole: at byte {end:,} there is neither a "
            "file nor the end"
        )


def _image_in(files: list[_Member], shard: str) -> _Member | None:
    """The image of an example; None where no file of it is one.

    A mask that is called `0001.seg.png` beside `0001.jpg` is not it. Raises ValueError for several.
    """
    extensions = image_extensions()
    images = [file for file in files if os.path.splitext(file.name)[1].lower() in extensions]
    plain_images = [file for file in images if "." not in file.ending]
    candidates = plain_images or images
    if len(candidates) > 1:
        names = " and ".join(file.name for file in candidates)
        raise ValueError(
            f"the shard {shard!r} has {names} in one example, which is all files whose names are "
            "the same up to the first dot; an example has one image"
        )
    return candidates[0] if candidates else None


def _read_label(
    files: list[_Member], image: _Member, rule: LabelRule, shard: str, stream: BinaryIO
) -> Any:
    """The label of an example: a class index or name, or any value that JSON has."""
    place = f"{shard}/{image.name}"
    if rule.file == "folder":
        folder = os.path.basename(os.path.dirname(image.name))
        if not folder:
            raise ValueError(
                f"{place} has no label: neither a folder nor a file .cls, .json or .txt of its own"
            )
        return folder
    for file in files:
        if file.ending == rule.file:
            stream.seek(file.offset)
            return _parsed(stream.read(file.size), rule, place)
    raise ValueError(
        f"{place} has no .{rule.file} file beside it, where the label should be; the files of an "
        f"example follow each other and are called alike up to the first dot; {_WAY_OUT}"
    )


def _parsed(content: bytes, rule: LabelRule, place: str) -> Any:
    """The label that a file says. Raises ValueError for a file that says none."""
    where = f"{place}: its .{rule.file} file"
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not in UTF-8: {error}") from error
    if rule.file == "json":
        return _value_in_json(text, rule.key, where)
    if not text:
        raise ValueError(f"{where} is empty; it needs a label")
    if rule.file == "cls" and text.isdecimal():
        return int(text)
    return text


def _value_in_json(text: str, key: str, where: str) -> Any:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
    if not isinstance(content, dict) or key not in content:
        known = ", ".join(content) if isinstance(content, dict) else repr(content)
        raise ValueError(f"{where} has no key {key!r} but {known:.200}; label_key= names another")
    return content[key]
