"""KeptFeatures: what frozen layers gave for these images in an earlier run, or in another learner.

`compare` and `probe` run each backbone over all images, and so does the frozen phase of
`fine_tune`: the second one to ask finds what the first one has computed.
"""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import nn

from finetune import distributed
from finetune.data.batching import ImageLoader
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.loaders import Batch, IndexedLoader
from finetune.models.classifier import ImageClassifier
from finetune.training.frozen.prefix import Suffix
from finetune.training.setup import Setup


@dataclass(frozen=True, slots=True)
class _Same:
    """A key that is equal for the same object alone, which it keeps alive."""

    thing: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


class KeptFeatures:
    """The features of the view of validation, kept with the images that they are of.

    Only those of models that `vision_learner` made are kept, whose layers are known by their
    description and their weights; code of the user's may do anything.
    """

    def __init__(self, setup: Setup, suffix: Suffix) -> None:
        self._setup = setup
        self._suffix = suffix
        self._layers: str | None = None

    def get(self, loader: IndexedLoader, view: int | None) -> Batch | None:
        """The features of all examples of a loader, by number; None where none are kept."""
        data = self._setup.data
        if not self._can_keep(loader, view) or not isinstance(data, ImageDataLoaders):
            return None
        return data.kept.get(self._key(data, loader))

    def put(self, loader: IndexedLoader, view: int | None, features: Batch) -> None:
        """Keeps the features of all examples of a loader, where they can be known again."""
        data = self._setup.data
        if self._can_keep(loader, view) and isinstance(data, ImageDataLoaders):
            data.kept.put(self._key(data, loader), features)

    def _can_keep(self, loader: IndexedLoader, view: int | None) -> bool:
        model = self._setup.model
        is_known = isinstance(model, ImageClassifier) and model.is_as_described
        is_known = is_known and not any(map(_does_more, model.modules()))
        is_view_of_validation = view is None
        # processes would have to agree on what is kept
        is_alone = distributed.world_size() == 1
        return is_known and is_view_of_validation and is_alone and isinstance(loader, ImageLoader)

    def _key(self, data: ImageDataLoaders, loader: IndexedLoader) -> Hashable:
        assert isinstance(loader, ImageLoader)
        if self._layers is None:
            self._layers = self._digest_of_layers()
        return _Same(loader.examples), data.preprocessing, self._setup.runtime, self._layers

    def _digest_of_layers(self) -> str:
        """Of the model's description, and of all weights in front of the features."""
        digest = hashlib.blake2b(digest_size=16)
        model = self._setup.model
        assert isinstance(model, ImageClassifier)
        backbone = (model.architecture.backbone, model.architecture.image_size)
        digest.update(repr(backbone).encode())
        for module in self._suffix.skipped:
            for name, tensor in module.state_dict().items():
                digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                numbers = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
                digest.update(memoryview(numbers.numpy()))
        return digest.hexdigest()


def _does_more(module: nn.Module) -> bool:
    """Whether hooks, or a method of the user's, change what the module gives."""
    has_hooks = bool(module._forward_hooks or module._forward_pre_hooks)
    return has_hooks or "forward" in vars(module)
