"""The model card: what is known of a model, and how to use it, as Markdown."""

from collections.abc import Sequence
from typing import Any

import yaml

from finetune.export import recipes
from finetune.export.description import ModelDescription, PhaseRecord, TrainingRecord
from finetune.export.elsewhere import in_other_libraries
from finetune.export.formats import formats_of
from finetune.export.weights import classifier_for
from finetune.image_size import ImageSize, height_and_width
from finetune.models.torchvision_backbones import PREFIX as TORCHVISION_PREFIX
from finetune.tables import Column, Table

MOST_CLASSES = 100
"""So many have a row of their own; all of them are in model.json."""

_SAMPLING = {
    "balanced": "All classes came equally often in an epoch.",
    "sqrt": "A class came as often in an epoch as the square root of its images says.",
}
_PART_NAMES = {"train": "training images", "valid": "validation images"}


def model_card(description: ModelDescription, source: str, repository: str = "") -> str:
    """The README.md of an exported model: facts from its description, and code that loads it.

    source: Python that makes `backbone` and `head`. repository: where on the model hub the folder
    goes, such as "user/name"; empty: nowhere.
    """
    sections = [
        _front_matter(description),
        _summary(description),
        _data(description),
        _results(description),
        _priors(description),
        _training(description.training),
        _inputs(description),
        recipes.usage(description, source, repository),
        in_other_libraries(description, repository),
        _limits(description),
        _versions(description),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(description: ModelDescription) -> str:
    libraries: list[str] = []
    for backbone in description.architecture.backbones:
        library = "torchvision" if backbone.startswith(TORCHVISION_PREFIX) else "timm"
        if library not in libraries:
            libraries.append(library)
    # the hub shows the lines by which the library of this name loads a model
    opens_in_timm = "safetensors" in description.formats and bool(classifier_for(description))
    tags = [*libraries, "finetune"]
    front: dict[str, Any] = {"library_name": "timm" if opens_in_timm else "finetune"}
    # the hub has no word for what else a model of images may do
    if description.task.card.problem_type:
        front["pipeline_tag"] = "image-classification"
        tags.insert(0, "image-classification")
    front["tags"] = tags
    # without any, the hub says that there is none
    if description.license:
        front["license"] = description.license
    if description.base_models:
        front["base_model"] = list(description.base_models)
    metrics = [name for name in description.validation if name != "loss"]
    if metrics:
        front["metrics"] = metrics
    for export_format in formats_of(description.formats):
        front |= export_format.front_matter
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---"


def _summary(description: ModelDescription) -> str:
    made, task = description.architecture, description.task
    version = description.versions.get("finetune-vision", "unknown")
    backbones = f"the backbone `{made.backbone}`"
    if made.member_sizes:
        members = [
            f"`{name}` (images of {_in_words(size)})"
            for name, size in zip(made.backbones, made.member_sizes, strict=True)
        ]
        backbones = f"the features of the backbones {' and '.join(members)} side by side,"
    return (
        f"# {' + '.join(made.backbones)}, {len(description.classes)} {task.names_are}\n\n"
        f"{task.card.model_kind}: {backbones} with a head of kind "
        f"`{made.head}` (dropout {made.dropout}), made with finetune {version}. "
        f"It takes {_kind_of_images(made.channels)} of {_in_words(made.image_size)}."
    )


def _kind_of_images(channels: int) -> str:
    if channels == 3:
        return "RGB images"
    return "grey images" if channels == 1 else f"images with {channels} channels"


def _in_words(size: ImageSize) -> str:
    height, width = height_and_width(size)
    return f"{height} x {width} pixels"


def _data(description: ModelDescription) -> str:
    counts = description.data
    totals = " and ".join(
        f"{part_counts.images:,} {_PART_NAMES[part]}" for part, part_counts in counts.items()
    )
    if not any(part_counts.classes for part_counts in counts.values()):
        names = _shortened(list(description.classes))
        sentences = [f"{description.task.names_are.capitalize()}: {names}."]
        if totals:
            sentences.insert(0, f"{totals}.")
        return "## Data\n\n" + " ".join(sentences)
    rows = []
    for name in description.classes[:MOST_CLASSES]:
        cells = [f"{part_counts.classes.get(name, 0):,}" for part_counts in counts.values()]
        rows.append([name, *cells])
    header = ["class", *(_PART_NAMES[part] for part in counts)]
    section = f"## Data\n\n{totals}.\n\n" + Table.of(header, rows).markdown()
    more = len(description.classes) - MOST_CLASSES
    if more > 0:
        section += f"\n\nand {more:,} more, in `model.json`."
    return section


def _results(description: ModelDescription) -> str:
    if not description.validation:
        return "## Validation\n\nThese weights, as they are, were not validated."
    data_name = "On the validation data"
    count: int | None = None
    if "valid" in description.data:
        count = description.data["valid"].images
        data_name = f"On the {count} validation images"
    rows = []
    for name, value in description.validation.items():
        text = "unknown"
        if value is not None:
            text = description.task.metric_text(name, value, count)
        rows.append([name, text])
    table = Table.of(["metric", "value"], rows).markdown()
    return f"## Validation\n\n{data_name}, after the last epoch:\n\n{table}"


def _priors(description: ModelDescription) -> str:
    """What the answers are for, where that is not what training saw."""
    priors = description.post_processing.priors
    if priors is None:
        return ""
    rows = []
    for name in description.classes[:MOST_CLASSES]:
        rows.append([name, f"{priors.training[name]:.3g}", f"{priors.target[name]:.3g}"])
    table = Table.of(["class", "share in training", "share in answers"], rows).markdown()
    return (
        "## Shares of the classes\n\nThe answers are for other shares of the classes than "
        "training saw: to the logits is added what lies between them (Menon et al., 2021). The "
        f"figures above are of the answers without it.\n\n{table}"
    )


def _rates(phase: PhaseRecord, group_names: Sequence[str]) -> str:
    """The largest rate of each group that trained."""
    if not phase.steps:
        return "no steps: the best linear head for these features"
    rates = []
    for name, rate in zip(group_names, phase.peak_lr, strict=True):
        if name not in phase.frozen:
            rates.append(f"{name} {rate:.3g}")
    return ", ".join(rates)


def _training(training: TrainingRecord | None) -> str:
    if training is None or not training.phases:
        return (
            "## Training\n\nThe model was exported without any training steps by this learner: "
            "its weights are as they came, from a probe, or a mean of others."
        )
    group_names = [group.name for group in training.groups]
    phase_rows = []
    for phase in training.phases:
        frozen = ", ".join(phase.frozen) or "none"
        phase_rows.append([phase.name, str(phase.epochs), frozen, _rates(phase, group_names)])
    phase_columns = [
        Column("phase", words=True),
        Column("epochs"),
        Column("frozen groups", words=True),
        Column("peak learning rates", words=True),
    ]
    phases = Table(phase_columns, phase_rows).markdown()
    group_rows = [
        [group.name, f"{group.parameters:,}", group.optimizer, str(group.weight_decay)]
        for group in training.groups
    ]
    group_columns = [
        Column("layer group", words=True),
        Column("parameters"),
        Column("optimizer", words=True),
        Column("weight decay"),
    ]
    groups = Table(group_columns, group_rows).markdown()
    sentences = [f"Seed {training.seed}."]
    for phase in training.phases:
        if phase.fraction is not None:
            sentences.append(
                f"Of the weights between those before and those after the phase {phase.name}, the "
                f"best on the validation images were taken, {phase.fraction:g} of the way."
            )
    if training.class_weights:
        weights = [f"{name} {value:.3g}" for name, value in training.class_weights.items()]
        sentences.append(f"An image counted by its class: {_shortened(weights)}.")
    if training.sampling is not None:
        sentences.append(_SAMPLING.get(training.sampling, f"Sampling: {training.sampling}."))
    return f"## Training\n\n{phases}\n\n{groups}\n\n{' '.join(sentences)}"


def _shortened(words: list[str]) -> str:
    """The words, joined by commas; of a long list the first ones."""
    if len(words) > MOST_CLASSES:
        words = [*words[:MOST_CLASSES], "..."]
    return ", ".join(words)


def _inputs(description: ModelDescription) -> str:
    preprocessing = description.preprocessing
    steps = [f"{i}. {step}" for i, step in enumerate(preprocessing.steps(), start=1)]
    values = f"mean {list(preprocessing.mean)}, std {list(preprocessing.std)}"
    listed = "\n".join(steps)
    return f"## Preprocessing\n\n{listed}\n\nChannels are red, green, blue: {values}."


def _limits(description: ModelDescription) -> str:
    lines = list(description.task.card.limits)
    if description.post_processing.familiarity is not None:
        lines.append(
            "How strange an image is, `unknown`, is told by energy (Liu et al., 2020) and distance "
            "to training images (Sun et al., 2022); it finds other kinds of images, and not every "
            "new class that looks like a known one."
        )
    if {"train", "valid"} <= description.data.keys():
        train, valid = description.data["train"], description.data["valid"]
        line = f"There were {train.images:,} training images and {valid.images:,} for validation"
        if valid.classes:
            rarest = min(valid.classes, key=valid.classes.__getitem__)
            line += f", of which {valid.classes[rarest]:,} of the rarest class, {rarest}"
        lines.append(f"{line}.")
    if description.validation:
        lines += [
            "The figures above are of its validation images; images from another camera, place "
            "or time may give other ones.",
            "Where settings or a checkpoint were chosen by these figures, they are too good.",
        ]
    if not lines:
        return ""
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _versions(description: ModelDescription) -> str:
    rows = [[name, version] for name, version in description.versions.items()]
    return "## Versions\n\n" + Table.of(["package", "version"], rows, words=2).markdown()
