"""KeptBatches: what was computed of images once, for whoever asks for the same again."""

from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor

from finetune.data.loaders import Batch
from finetune.data.memory import memory_bytes
from finetune.nested import tensors_in

MEMORY_FRACTION = 1 / 16
"""Share of the machine's memory that may be kept; the oldest goes first."""


class KeptBatches:
    """Batches by a key that says how they were computed, such as features of frozen layers."""

    def __init__(self) -> None:
        self._batches: OrderedDict[Hashable, Batch] = OrderedDict()

    def get(self, key: Hashable) -> Batch | None:
        """What is kept under the key, or None."""
        batch = self._batches.get(key)
        if batch is not None:
            self._batches.move_to_end(key)
        return batch

    def put(self, key: Hashable, batch: Batch) -> None:
        """Keeps a batch, unless it is larger than everything that may be kept."""
        limit = MEMORY_FRACTION * memory_bytes()
        if _bytes_of(batch) > limit:
            return
        self._batches[key] = batch
        while sum(map(_bytes_of, self._batches.values())) > limit:
            self._batches.popitem(last=False)


def _bytes_of(batch: Batch) -> int:
    tensors: list[Tensor] = [*tensors_in(batch.inputs), *tensors_in(batch.targets)]
    return sum(tensor.nbytes for tensor in tensors)
