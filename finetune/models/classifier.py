"""ImageClassifier: Sequential(backbone, head), with the description it can be rebuilt from."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from torch import nn

from finetune import arguments, distributed
from finetune.distributed.sharding import whole_content
from finetune.image_size import ImageSize
from finetune.models.backbone_set import (
    BackboneNames,
    BackboneSet,
    SetWeights,
    checked_names,
    create_backbone_set,
    source_of_set,
    with_downloaded_weights,
)
from finetune.models.backbones import (
    Weights,
    create_backbone,
    features_of,
    hub_repository_of,
    image_size_for,
    input_size_of,
    source_of,
)
from finetune.models.heads import HeadKind, TargetScale, create_head
from finetune.randomness import isolated

# arguments that torch prints in a layer's repr, although they are what the layer has by default
_DEFAULTS = (
    *("bias=True", "inplace=False"),
    *("eps=1e-05", "momentum=0.1", "affine=True", "track_running_stats=True"),
)

# what `source` appends for a head with a `TargetScale`; %d is the number of targets
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

    backbone: its name, see `create_backbone`, or the names of several, whose features are side by
    side. classes: outputs of the head. image_size: of square images, in pixels, or height and
    width. head, dropout: see `create_head`.
    scaled: whether the head ends with a `TargetScale`, as for a regression. member_sizes: of
    several backbones, the size in pixels in which each gets the images. channels: of the images.
    """

    backbone: str | tuple[str, ...]
    classes: int
    image_size: ImageSize
    head: HeadKind = "mlp"
    dropout: float = 0.5
    scaled: bool = False
    member_sizes: tuple[ImageSize, ...] = ()
    channels: int = 3

    def __post_init__(self) -> None:
        # JSON has lists where these have tuples
        if not isinstance(self.backbone, str):
            object.__setattr__(self, "backbone", tuple(self.backbone))
        size = arguments.image_size("image_size", self.image_size)
        object.__setattr__(self, "image_size", size)
        member_sizes = [arguments.image_size("member_sizes", size) for size in self.member_sizes]
        object.__setattr__(self, "member_sizes", tuple(member_sizes))
        expected_sizes = 0 if isinstance(self.backbone, str) else len(self.backbone)
        if len(self.member_sizes) != expected_sizes:
            raise ValueError(
                f"{len(self.backbones)} backbones need {expected_sizes} member_sizes, got "
                f"{list(self.member_sizes)}"
            )

    @classmethod
    def create(
        cls,
        backbone: BackboneNames,
        classes: int,
        *,
        image_size: ImageSize | None = None,
        channels: int = 3,
        head: HeadKind = "linear",
        dropout: float = 0.5,
        scaled: bool = False,
    ) -> "Architecture":
        """From what a user says. image_size: None is what each backbone was trained with.

        Images come in the largest of these sizes then, and the other backbones make them smaller.
        Raises TypeError or ValueError for a name that can't be used.

        >>> Architecture.create(["test_resnet", "resnet18"], classes=2).member_sizes
        (160, 224)
        """
        names = checked_names(backbone)
        sizes: list[ImageSize] = [input_size_of(name) for name in names]
        if image_size is None:
            image_size = max(input_size_of(name) for name in names)
        else:
            sizes = [image_size_for(name, image_size) for name in names]
        is_set = len(names) > 1
        return cls(
            names if is_set else names[0],
            classes,
            image_size,
            head,
            dropout,
            scaled,
            member_sizes=tuple(sizes) if is_set else (),
            channels=channels,
        )

    @property
    def backbones(self) -> tuple[str, ...]:
        """The names of all backbones, of which there may be one."""
        return (self.backbone,) if isinstance(self.backbone, str) else self.backbone

    def build(self, weights: SetWeights = None) -> "ImageClassifier":
        """Makes a classifier with a new head.

        weights: of the backbone, see `create_backbone`, or of several, see `create_backbone_set`.
        """
        if isinstance(self.backbone, str):
            if isinstance(weights, Mapping) and set(weights) == {self.backbone}:
                weights = cast(Weights, weights[self.backbone])  # by name, as for several
            of_backbone = cast(Weights, weights)
            backbone = create_backbone(
                self.backbone,
                image_size=self.image_size,
                weights=of_backbone,
                channels=self.channels,
            )
        else:
            backbone = create_backbone_set(
                self.backbone, self.member_sizes, weights, channels=self.channels
            )
        features = features_of(backbone, self.image_size, self.channels)
        head = create_head(self.head, features, self.classes, dropout=self.dropout)
        if self.scaled:
            head.add_module("scale", TargetScale(self.classes))
        model = ImageClassifier(backbone, head, self)
        repositories = map(hub_repository_of, with_downloaded_weights(self.backbones, weights))
        model.base_models = tuple(filter(None, repositories))
        return model

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what only a set of backbones has is left out of that of one."""
        content = asdict(self)
        if not self.member_sizes:
            del content["member_sizes"]  # so that older versions can read it
        if self.channels == 3:
            del content["channels"]
        return content


class ImageClassifier(nn.Sequential):
    """Sequential(backbone, head): images [B, 3, H, W] -> features [B, F] -> logits [B, C]."""

    def __init__(self, backbone: nn.Module, head: nn.Module, architecture: Architecture) -> None:
        super().__init__(OrderedDict(backbone=backbone, head=head))
        self.architecture = architecture
        self.base_models: tuple[str, ...] = ()
        """The repositories of the model hub that its weights began with, as far as known."""
        self._as_made = repr(self)  # of the layers alone, which the description rebuilds

    @property
    def is_as_described(self) -> bool:
        """Whether the layers are those that the description rebuilds, and none was replaced."""
        return repr(self) == self._as_made

    def replace_head(self, linear: nn.Linear) -> None:
        """Makes the head this linear layer, without dropout; the description is of it from now on.

        The scale of a regression's targets stays behind it.
        """
        was_as_described = self.is_as_described
        head = nn.Sequential(nn.Dropout(0.0), linear)
        if self.architecture.scaled:
            head.add_module("scale", self.get_submodule("head.scale"))
        self.add_module("head", head)
        self.architecture = replace(self.architecture, head="linear", dropout=0.0)
        if was_as_described:
            self._as_made = repr(self)

    def as_whole(self) -> "ImageClassifier":
        """The same model, not sharded, on the CPU; all processes ask together.

        Only the first one has it then; the others get this one.
        """
        weights = whole_content(self.state_dict())
        if distributed.rank():
            return self
        with isolated():  # the weights that a new model draws are replaced
            model = self.architecture.build()
        model.load_state_dict(weights)
        model.base_models = self.base_models
        return model.eval()

    def source(self) -> str:
        """Python code that makes `backbone` and `head` without finetune, and without weights."""
        architecture = self.architecture
        backbone = self.get_submodule("backbone")
        if isinstance(backbone, BackboneSet):
            backbone_source = source_of_set(backbone, architecture.backbones, architecture.channels)
        else:
            (name,) = architecture.backbones
            backbone_source = source_of(name, architecture.image_size, architecture.channels)
        imports, _, backbone_lines = backbone_source.partition("\n\n")
        if "import nn" not in imports:
            imports += "\nfrom torch import nn"
        head_lines = ["head = nn.Sequential("]
        for layer in self.get_submodule("head").children():
            if not isinstance(layer, TargetScale):
                head_lines.append(f"    {_source_of(layer)},")
        head_lines.append(")")
        source = "\n".join([imports, "", backbone_lines, *head_lines])
        if architecture.scaled:
            source += _SCALE % architecture.classes
        return source


def _source_of(layer: nn.Module) -> str:
    """Python code that makes a layer: torch's repr of it, without arguments that are defaults."""
    source = f"nn.{layer!r}"
    for default in _DEFAULTS:
        source = source.replace(f", {default}", "")
    return source
