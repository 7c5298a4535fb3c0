"""ParquetImage: an image in a row of a Parquet file, read together with its row group.

A row group is the least that a Parquet file is read by. So the last ones that were read are kept
for each process, as far as they fit into `KEPT_BYTES`.
"""

import bisect
import functools
import io
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from finetune.data.images.packed import PackedImage, Version
from finetune.files.storage import State, storage_of
from finetune.forks import ForkSafeLock

KEPT_BYTES = 256_000_000
"""Of row groups, for each process. One is kept at least, whatever it takes."""

_STREAMED_BYTES, _STREAMED_ROWS = 1 << 23, 64
"""So much is read at a time where rows are read one after the other."""


@dataclass(frozen=True, slots=True)
class ParquetFile:
    """A Parquet file as it was when its rows were listed.

    path: absolute, or an address. column: what holds the content of the images, such as
    "image.bytes", which is a field of the column "image". starts: the number of the first row of
    each row group.
    """

    path: str
    state: State
    column: str
    starts: tuple[int, ...]

    def group_of(self, row: int) -> int:
        """The row group that a row is in."""
        return bisect.bisect_right(self.starts, row) - 1

    def read(self, row: int) -> bytes | None:
        """What the column holds in a row; None where that is null.

        Raises ValueError where the file has changed since it was listed.
        """
        group = self.group_of(row)
        value = _row_groups.get(self, group)[row - self.starts[group]]
        content: bytes | None = value.as_py()
        return content


@dataclass(frozen=True, slots=True)
class ParquetImage(PackedImage):
    """An image in a Parquet file.

    row: its number in the file, from 0 on. name: see `PackedImage`. As a text it is
    `file.parquet/row 17`.
    """

    file: ParquetFile
    row: int
    name: str

    def content(self) -> bytes:
        """The bytes of the image file. Raises ValueError or OSError."""
        content = self.file.read(self.row)
        if content is None:
            raise ValueError(f"there are no bytes of an image in {self.file.column!r}")
        return content

    @property
    def version(self) -> Version:
        return Version(*self.file.state)

    @property
    def read_with(self) -> Hashable:
        return self.file.path, self.file.group_of(self.row)

    def __str__(self) -> str:
        return f"{self.file.path}/row {self.row}"


def contents_in_order(file: ParquetFile) -> Iterator[bytes | None]:
    """What the column holds in each row, one after the other, in bounded memory.

    For files of any size of row groups. Raises ValueError as `ParquetFile.read`.
    """
    import pyarrow

    parquet = open_parquet(file.path, file.state, buffer_size=_STREAMED_BYTES)
    batches = parquet.iter_batches(_STREAMED_ROWS, columns=[file.column], use_threads=False)
    for batch in batches:
        yield from leaf_of(pyarrow.Table.from_batches([batch]), file.column).to_pylist()


def open_parquet(path: str, state: State, *, buffer_size: int = 0) -> Any:
    """A file as pyarrow's `ParquetFile`, which reads no more than it is asked for.

    state: of the file when it was listed; a read raises ValueError where it has changed since.
    buffer_size: bytes that are read at a time; 0 is a column of a row group. Raises ValueError for
    what is no Parquet file.
    """
    import pyarrow
    from pyarrow import parquet

    source = pyarrow.PythonFile(_Parts(path, state), mode="r")
    try:
        metadata = _metadata(path, state)
        # to read ahead would take the memory of a whole row group, and threads of pyarrow's own
        return parquet.ParquetFile(
            source, metadata=metadata, buffer_size=buffer_size, pre_buffer=False
        )
    except pyarrow.ArrowException as error:
        raise _damaged(path, error) from error


@functools.lru_cache(maxsize=256)
def _metadata(path: str, state: State) -> Any:
    """What is at the end of a file; kept, because each row group that is read needs it."""
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_metadata(pyarrow.PythonFile(_Parts(path, state), mode="r"))
    except pyarrow.ArrowException as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> ValueError:
    return ValueError(f"the file {path!r} is damaged, or no Parquet file: {error}")


class _Parts(io.RawIOBase):
    """A file on a disk or elsewhere for pyarrow, each of whose reads checks the file's state."""

    def __init__(self, path: str, state: State) -> None:
        self._path, self._state = path, state
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        beginnings = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._state.size}
        self._position = beginnings[whence] + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._state.size - self._position)
        count = left if size is None or size < 0 else min(size, left)
        if count == 0:
            return b""
        content = storage_of(self._path).read(self._path, self._position, count, self._state)
        self._position += count
        return content


@dataclass(slots=True, eq=False)
class _RowGroup:
    """The content of a row group, once it is read. values: pyarrow's `ChunkedArray`."""

    lock: ForkSafeLock = field(default_factory=ForkSafeLock)
    values: Any = None


class _RowGroups:
    """The row groups that were used last; threads that want the same one read it once."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._groups: OrderedDict[Hashable, _RowGroup] = OrderedDict()

    def get(self, file: ParquetFile, group: int) -> Any:
        """What the column of a file holds in a row group."""
        key = (file.path, file.state, file.column, group)
        with self._lock.held():
            kept = self._groups.setdefault(key, _RowGroup())
            self._groups.move_to_end(key)
        with kept.lock.held():
            values = kept.values
            if values is None:
                values = _read_group(file, group)
                kept.values = values
                self._forget_oldest()
        return values

    def _forget_oldest(self) -> None:
        """Forgets those that do not fit, but for the last one."""
        with self._lock.held():
            held_bytes = 0
            for key, group in reversed(list(self._groups.items())):
                is_needed = held_bytes == 0
                if group.values is not None:
                    held_bytes += group.values.nbytes
                if held_bytes > KEPT_BYTES and not is_needed:
                    del self._groups[key]


_row_groups = _RowGroups()


def _read_group(file: ParquetFile, group: int) -> Any:
    """The column of a row group, as pyarrow's `ChunkedArray` of binaries."""
    import pyarrow

    parquet = open_parquet(file.path, file.state)
    try:
        # threads of pyarrow's own would be missing in a forked process
        table = parquet.read_row_group(group, columns=[file.column], use_threads=False)
    except pyarrow.ArrowException as error:
        raise _damaged(file.path, error) from error
    return leaf_of(table, file.column)


def leaf_of(table: Any, leaf: str) -> Any:
    """The column of a table that is called so, or the field "bytes" of "image" for "image.bytes".

    table: pyarrow's, of this column or field alone. Where a struct is null, so is its field.
    """
    column = table.column(0)
    if table.column_names[0] != leaf:
        (column,) = column.flatten()
    return column
