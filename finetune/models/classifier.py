"""ImageClassifier: Sequential(backbone, head), with the description it can be rebuilt from."""

from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from finetune.models import backbones
from finetune.models.backbones import Weights, create_backbone, features_of
from finetune.models.heads import HeadKind, TargetScale, create_head

_DEFAULTS = (
    *("bias=True", "inplace=False"),
    *("eps=1e-05", "momentum=0.1", "affine=True", "track_running_stats=True"),
)

_SCALE = """


class TargetScale(nn.Module):
    def __init__(self, targets):
        super().__init__()
        self.register_buffer("mean", torch.zeros(targets))
        self.register_buffer("std", torch.ones(targets))

    def forward(self, outputs):
        return outputs * self.std + self.mean


head.add_module("scale", TargetScale(%d))"""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What is needed to rebuild a classifier without its weights.

    scaled: the head ends with a `TargetScale`, as for a regression.
    """

    backbone: str
    classes: int
    image_size: int
    head: HeadKind = "mlp"
    dropout: float = 0.5
    scaled: bool = False

    def build(self, weights: Weights = None) -> "ImageClassifier":
        """A classifier with a new head; the backbone's weights as in `create_backbone`."""
        backbone = create_backbone(self.backbone, image_size=self.image_size, weights=weights)
        features = features_of(backbone, self.image_size)
        head = create_head(self.head, features, self.classes, dropout=self.dropout)
        if self.scaled:
            head.add_module("scale", TargetScale(self.classes))
        return ImageClassifier(backbone, head, self)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class ImageClassifier(nn.Sequential):
    """Sequential(backbone, head): images [B, 3, H, W] -> features [B, F] -> logits [B, C]."""

    def __init__(self, backbone: nn.Module, head: nn.Module, architecture: Architecture) -> None:
        super().__init__(OrderedDict(backbone=backbone, head=head))
        self.architecture = architecture

    def source(self) -> str:
        """Python that makes `backbone` and `head` without finetune, and without weights."""
        name, size = self.architecture.backbone, self.architecture.image_size
        own = [m for m in self.get_submodule("head").children() if not isinstance(m, TargetScale)]
        layers = "".join(f"    {_source_of(layer)},\n" for layer in own)
        imports, _, backbone = backbones.source_of(name, size).partition("\n\n")
        if "import nn" not in imports:
            imports += "\nfrom torch import nn"
        source = f"{imports}\n\n{backbone}\nhead = nn.Sequential(\n{layers})"
        return source + (_SCALE % self.architecture.classes if self.architecture.scaled else "")


def _source_of(layer: nn.Module) -> str:
    """torch's own words for a layer, which are Python, without what is so by default."""
    words = f"nn.{layer!r}"
    for default in _DEFAULTS:
        words = words.replace(f", {default}", "")
    return words
