"""The model card: what is known of a model, and how to use it, as Markdown from plain data."""

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from finetune.export import recipes
from finetune.wording import number

MOST_CLASSES = 100
"""So many have a row of their own; all of them are in model.json."""

_PARTS = {"train": "training images", "valid": "validation images"}


def model_card(description: dict[str, Any], source: str) -> str:
    """The README.md of an exported model: facts from its description, and code that loads it.

    source: Python that makes `backbone` and `head`.
    """
    parts = [
        _front_matter(description),
        _summary(description),
        _data(description),
        _results(description),
        _training(description.get("training", {})),
        _inputs(description["preprocessing"]),
        recipes.usage(description, source),
        _limits(description),
        _versions(description["versions"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(description: dict[str, Any]) -> str:
    in_timm = not description["architecture"]["backbone"].startswith("torchvision/")
    library = "timm" if in_timm else "torchvision"
    front: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", library, "finetune"],
        "license": "unknown",
    }
    metrics = [name for name in description.get("validation", {}) if name != "loss"]
    if metrics:
        front["metrics"] = metrics
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---"


def _summary(description: dict[str, Any]) -> str:
    made, versions = description["architecture"], description["versions"]
    size = made["image_size"]
    kind, what = "An image classifier", "classes"
    if description.get("task") == "regression":
        kind, what = "A regression on images", "targets"
    return (
        f"# {made['backbone']}, {len(description['classes'])} {what}\n\n"
        f"{kind}: the backbone `{made['backbone']}` with a head of kind "
        f"`{made['head']}` (dropout {made['dropout']}), made with finetune "
        f"{versions['finetune-vision']}. It takes RGB images of {size} x {size} pixels."
    )


def _data(description: dict[str, Any]) -> str:
    counts, classes = description.get("data", {}), description["classes"]
    said = " and ".join(f"{own['images']:,} {_PARTS[part]}" for part, own in counts.items())
    if description.get("task") == "regression":
        return f"## Data\n\n{said}. Targets: {', '.join(classes)}."
    by_class = [own["classes"] for own in counts.values()]
    rows = [[name, *(own.get(name, 0) for own in by_class)] for name in classes]
    shown = table(["class", *(_PARTS[part] for part in counts)], rows[:MOST_CLASSES])
    left = len(rows) - MOST_CLASSES
    more = f"\n\nand {left:,} more, in `model.json`." if left > 0 else ""
    return "## Data\n\n" + (f"{said}.\n\n" if said else "") + shown + more


def _results(description: dict[str, Any]) -> str:
    results = description.get("validation", {})
    if not results:
        return "## Validation\n\nThese weights, as they are, were not validated."
    count = description.get("data", {}).get("valid", {}).get("images", 0)
    on = f"On the {count} validation images" if count else "On the validation data"
    cells = table(
        ["metric", "value"],
        [[n, "unknown" if v is None else number(v)] for n, v in results.items()],
    )
    return f"## Validation\n\n{on}, after the last epoch:\n\n{cells}"


def _training(training: dict[str, Any]) -> str:
    phases, groups = training.get("phases", []), training.get("groups", [])
    if not phases:
        return "## Training\n\nThe model was exported without any training by this learner."
    names = [group["name"] for group in groups]
    rows = [
        [
            phase["name"],
            phase["epochs"],
            ", ".join(phase["frozen"]) or "none",
            ", ".join(
                f"{name} {rate:.3g}"
                for name, rate in zip(names, phase["peak_lr"], strict=True)
                if name not in phase["frozen"]
            ),
        ]
        for phase in phases
    ]
    plan = table(["phase", "epochs", "frozen groups", "peak learning rates"], rows)
    cells = [[g["name"], g["parameters"], g["optimizer"], g["weight_decay"]] for g in groups]
    parts = table(["layer group", "parameters", "optimizer", "weight decay"], cells)
    return f"## Training\n\n{plan}\n\n{parts}\n\nSeed {training['seed']}."


def _inputs(preprocessing: dict[str, Any]) -> str:
    steps = "\n".join(f"{i}. {step}" for i, step in enumerate(preprocessing["steps"], start=1))
    values = f"mean {preprocessing['mean']}, std {preprocessing['std']}"
    return f"## Preprocessing\n\n{steps}\n\nChannels are red, green, blue: {values}."


def _limits(description: dict[str, Any]) -> str:
    counts = description.get("data", {})
    lines = []
    if description.get("task", "single_label") == "single_label":
        lines.append("It answers with one of its classes for any image, also for one of none.")
    if counts:
        train, valid = (counts[part]["images"] for part in ("train", "valid"))
        line = f"There were {train:,} training images and {valid:,} for validation"
        by_class = counts["valid"]["classes"]
        if by_class:
            rarest = min(by_class, key=by_class.__getitem__)
            line += f", of which {by_class[rarest]:,} of the rarest class, {rarest}"
        lines.append(f"{line}.")
    if description.get("validation"):
        lines += [
            "The figures above are of its validation images; images from another camera, place "
            "or time may give other ones.",
            "Where settings or a checkpoint were chosen by these figures, they are too good.",
        ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _versions(versions: dict[str, str]) -> str:
    return "## Versions\n\n" + table(["package", "version"], map(list, versions.items()))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table.

    >>> print(table(["class", "images"], [["red", 1200]]))
    | class | images |
    |---|---|
    | red | 1,200 |
    """
    lines = [list(heads), ["---"] * len(heads)]
    lines += [[_cell(value) for value in row] for row in rows]
    joined = [f"| {' | '.join(line)} |" for line in lines]
    joined[1] = joined[1].replace(" ", "")
    return "\n".join(joined)


def _cell(value: object) -> str:
    shown = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(shown.split()).replace("|", "\\|")
