"""ModelDescription: what an exported model says of itself, in model.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from finetune.data.images.preprocessing import Preprocessing
from finetune.data.sampling import Sampling
from finetune.models.classifier import Architecture
from finetune.tasks import DEFAULT_TASK, PostProcessing, Task, resolve_task

FORMAT, VERSION = "finetune model", 7


@dataclass(frozen=True, slots=True)
class PartCounts:
    """How many images a part of the data has, and how many of each class; none for a regression."""

    images: int
    classes: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"images": self.images, "classes": dict(self.classes)}


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """A phase as it ran.

    steps: 0 for a probe. frozen: names of the frozen groups. peak_lr: one for each group, none
    for a probe. fraction: how far on the way from the weights before the phase to those after it
    are those that were taken; None where nothing was chosen.
    """

    name: str
    epochs: int
    steps: int
    frozen: tuple[str, ...]
    peak_lr: tuple[float, ...]
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A layer group. parameters: how many."""

    name: str
    parameters: int
    optimizer: str
    weight_decay: float


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """How a model was trained, first layers and first phases first.

    class_weights: what an image of each class counted in the loss; empty where they were alike.
    sampling: how often the classes came in an epoch, see `ImageSettings`.
    """

    phases: tuple[PhaseRecord, ...]
    groups: tuple[GroupRecord, ...]
    seed: int
    class_weights: Mapping[str, float] = field(default_factory=dict)
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a form of a model that computes less exactly loses, on validation images.

    images: how many. before, after: metrics of the model and of the smaller form. same_answers:
    for what share the likeliest class is the same; None where there is no such class.
    greatest_difference: of any probability or value.
    """

    images: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    same_answers: float | None
    greatest_difference: float


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Everything about an exported model but its weights.

    classes: names of the classes or targets, in order. data: counts by "train" and "valid"; empty
    where they are not known. training: None for a model of which it is not known. validation:
    results after the last epoch, None for what is no finite number; empty where these weights, as
    they are, were not validated. versions: of the packages, by name. license: such as "mit"; empty
    where nobody said. base_models: the repositories of the model hub that the weights began with,
    as far as known. comparisons: by format, of those that compute less exactly.
    """

    architecture: Architecture
    classes: tuple[str, ...]
    task: Task
    preprocessing: Preprocessing
    post_processing: PostProcessing
    formats: tuple[str, ...]
    data: Mapping[str, PartCounts] = field(default_factory=dict)
    training: TrainingRecord | None = None
    validation: Mapping[str, float | None] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    license: str = ""
    base_models: tuple[str, ...] = ()
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = self.task.output_count(self.classes)
        if self.architecture.classes != expected:
            raise ValueError(
                f"{len(self.classes)} names of classes need a model of {expected} outputs, and "
                f"this one has {self.architecture.classes}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for model.json; steps of preprocessing are told in words, too."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "architecture": self.architecture.to_dict(),
            "classes": list(self.classes),
            "task": self.task.name,
            "preprocessing": self.preprocessing.to_dict(),
            "post_processing": self.post_processing.to_dict(),
            "formats": list(self.formats),
            "data": {part: counts.to_dict() for part, counts in self.data.items()},
            "validation": dict(self.validation),
            "versions": dict(self.versions),
        }
        if self.training is not None:
            content["training"] = asdict(self.training)
        if self.license:
            content["license"] = self.license
        if self.base_models:
            content["base_models"] = list(self.base_models)
        if self.comparisons:
            content["comparisons"] = {
                name: asdict(comparison) for name, comparison in self.comparisons.items()
            }
        return content

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
    ) -> "ModelDescription":
        """From what `to_dict` gave, in this version or an earlier one.

        tensors: those of its post-processing. Raises KeyError, TypeError or ValueError where
        something is missing or wrong.
        """
        task = DEFAULT_TASK if "task" not in content else resolve_task(content["task"])
        # up to version 3 temperature and thresholds stood by themselves
        post_processing = PostProcessing.from_dict(content.get("post_processing", content), tensors)
        data = {part: _counts(counts) for part, counts in content.get("data", {}).items()}
        comparisons = {
            name: Comparison(**facts) for name, facts in content.get("comparisons", {}).items()
        }
        return cls(
            architecture=Architecture(**content["architecture"]),
            classes=tuple(content["classes"]),
            task=task,
            preprocessing=Preprocessing.from_dict(content["preprocessing"]),
            post_processing=post_processing,
            formats=tuple(content.get("formats", ("safetensors",))),
            data=data,
            training=_training(content.get("training")),
            validation=content.get("validation", {}),
            versions=content.get("versions", {}),
            license=content.get("license", ""),
            base_models=tuple(content.get("base_models", ())),
            comparisons=comparisons,
        )


def _counts(content: Mapping[str, Any]) -> PartCounts:
    # version 3 called images "pictures"
    images = content["images"] if "images" in content else content["pictures"]
    return PartCounts(images, content["classes"])


def _training(content: Mapping[str, Any] | None) -> TrainingRecord | None:
    if content is None:
        return None
    phases = []
    for phase in content["phases"]:
        # JSON has lists where these have tuples
        names, rates = tuple(phase["frozen"]), tuple(phase["peak_lr"])
        phases.append(PhaseRecord(**{**phase, "frozen": names, "peak_lr": rates}))
    groups = tuple(GroupRecord(**group) for group in content["groups"])
    return TrainingRecord(
        tuple(phases),
        groups,
        content["seed"],
        dict(content.get("class_weights", {})),
        content.get("sampling"),
    )
