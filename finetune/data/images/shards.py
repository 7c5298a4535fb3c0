"""ShardImage: an image that is a part of a tar file, read when it is asked for."""

from dataclasses import dataclass

from finetune.data.images.packed import PackedImage, Version
from finetune.files.storage import State, is_remote, storage_of


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar file as it was when its members were listed. path: absolute, or an address."""

    path: str
    state: State

    @property
    def is_remote(self) -> bool:
        """Whether each read takes as long as an answer of a server."""
        return is_remote(self.path)

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes from a place on. Raises ValueError where the file has changed since."""
        return storage_of(self.path).read(self.path, offset, size, self.state)


@dataclass(frozen=True, slots=True)
class ShardImage(PackedImage):
    """An image file in a shard.

    name: of the member, with slashes. offset, size: where its content is, in bytes. As a text it is
    `shard.tar/member`, which errors and tables show.
    """

    shard: Shard
    name: str
    offset: int
    size: int

    def content(self) -> bytes:
        """The bytes of the image file, by one read. Raises ValueError or OSError."""
        return self.shard.read(self.offset, self.size)

    @property
    def version(self) -> Version:
        return Version(self.size, self.shard.state.version)

    def content_size(self) -> int:
        return self.size

    @property
    def is_read_quickly(self) -> bool:
        return not self.shard.is_remote

    def __str__(self) -> str:
        return f"{self.shard.path}/{self.name}"
