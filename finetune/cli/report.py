"""report.html and the pictures of a run: what was trained on what, how it went, what to do next."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from finetune.cli import run_folder
from finetune.config import TrainConfig
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.summary import DataSummary
from finetune.interpret.page import Facts, Page, Part, Picture, Section, Table, Text, render
from finetune.interpret.predictions import Predictions
from finetune.learner import Learner
from finetune.plain_text import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORST = 12
_LIBRARIES = ("finetune-vision", "torch", "torchvision", "timm")


def draw(learner: Learner, output: Path) -> dict[str, Picture]:
    """The pictures of training by name, each also saved as a file."""
    figures = {
        "plan": (learner.plot_plan(), "planned learning rates over epochs"),
        "learning_rates": (learner.plot_rates(), "learning rates over epochs"),
        "losses": (learner.plot_losses(), "losses and metrics over epochs"),
    }
    return _saved(figures, output)


def draw_failures(table: Predictions, output: Path) -> dict[str, Picture]:
    """The same of what the model says of the validation images, and their table."""
    table.to_csv(output / "predictions.csv")
    worst = table.plot_top_losses(min(WORST, len(table)))
    figures = {
        "confusion_matrix": (table.plot_confusion_matrix(), "confusion matrix"),
        "calibration": (table.plot_calibration(), "share that is right over probability"),
        "top_losses": (worst, "validation images with the largest loss"),
    }
    return _saved(figures, output)


def _saved(figures: Mapping[str, tuple["Figure", str]], output: Path) -> dict[str, Picture]:
    return {
        name: Picture.of(drawn, alt, output / f"{name}.png")
        for name, (drawn, alt) in figures.items()
    }


def write(
    learner: Learner,
    data: ImageDataLoaders,
    summary: DataSummary,
    config: TrainConfig,
    results: Mapping[str, float],
    pictures: Mapping[str, Picture],
    table: Predictions | None,
    output: Path,
) -> None:
    """report.html in the run folder. table: of the validation images, where there are classes."""
    seconds = sum(row.seconds for row in learner.history.epochs)
    headline = [(figure(name, value), f"validation {name}") for name, value in results.items()]
    page = Page(
        title=f"{config.model} on {Path(config.csv or config.data or '').name}",
        subtitle=f"A run of finetune, {datetime.now(timezone.utc):%d %B %Y, %H:%M} UTC.",
        headline=[
            *sorted(headline, key=lambda pair: pair[1] == "validation loss"),
            (f"{len(data.train_examples):,}", "training images"),
            (f"{len(data.valid_examples):,}", "validation images"),
            (f"{len(data.classes):,}", "targets" if config.task == "regression" else "classes"),
            (duration(seconds), "of training"),
        ],
        sections=[
            Section("What was trained on what", [facts(learner, data, config)]),
            *_training(learner, pictures),
            *(_failures(table, pictures) if table is not None else ()),
            *_data(data, summary),
            *_settings(config, output),
        ],
    )
    (output / run_folder.REPORT).write_text(render(page), encoding="utf-8")


def figure(name: str, value: float) -> str:
    """
    >>> figure("accuracy", 0.8768), figure("loss", 0.39345)
    ('87.7 %', '0.393')
    """
    return f"{value:.3f}" if name == "loss" or not 0 <= value <= 1 else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """
    >>> duration(42.4), duration(272), duration(7440)
    ('42 s', '4 min 32 s', '2 h 04 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def facts(learner: Learner, data: ImageDataLoaders, config: TrainConfig) -> Facts:
    groups = learner.layer_groups
    parameters = sum(group.parameter_count for group in groups)
    split = f"{config.valid_fraction:.0%} of each class, at random, seed {config.seed}"
    if config.valid is not None or config.valid_column is not None:
        split = f"as given in {config.valid or config.valid_column!r}"
    weights = "random" if config.weights is None else config.weights
    runtime = learner.trainer.setup.runtime
    return Facts(
        [
            ("backbone", f"{config.model}, weights: {weights}"),
            ("parameters", f"{parameters:,} in {len(groups)} layer groups"),
            ("head", f"{config.head}, dropout {config.dropout:g}"),
            ("images", str(config.csv or config.data)),
            ("held out", split),
            ("size", f"{data.preprocessing.image_size} px, {data.preprocessing.resize}"),
            ("augmentation", ", ".join([config.augment, *_mixing(config)])),
            ("optimizer", groups[0].optimizer),
            ("batches", f"{config.batch_size} images, {config.accumulate} a step"),
            ("ran on", f"{runtime.device}, {runtime.precision}"),
        ]
    )


def _mixing(config: TrainConfig) -> list[str]:
    names = ("mixup", "cutmix", "label_smoothing")
    return [f"{n.replace('_', ' ')} {getattr(config, n):g}" for n in names if getattr(config, n)]


def _training(learner: Learner, pictures: Mapping[str, Picture]) -> list[Section]:
    rows = learner.history.epochs
    names = list(dict.fromkeys(name for row in rows for name in row.valid))
    header = ["phase", "epoch", "train loss", *(f"valid {n}" if n == "loss" else n for n in names)]
    cells = [
        [
            row.phase,
            str(row.epoch + 1),
            number(row.train_loss),
            *(number(row.valid[n]) if n in row.valid else "" for n in names),
            f"{row.seconds:.1f}",
        ]
        for row in rows
    ]
    return [
        Section(
            "How training went",
            [
                pictures["losses"],
                Table([*header, "seconds"], cells),
            ],
        ),
        Section(
            "Layer groups and their learning rates",
            [Table(*_groups(learner), left=2), pictures["plan"]],
            note="Earlier layers learn at lower rates; dotted while a group is frozen.",
        ),
    ]


def _groups(learner: Learner) -> tuple[list[str], list[list[str]]]:
    rows = [
        [group.name, group.norm, f"{group.parameter_count:,}", f"{group.peaks['lr']:.3g}"]
        for group in learner.layer_groups
    ]
    return ["group", "norm layers", "parameters", "peak learning rate"], rows


def _failures(table: Predictions, pictures: Mapping[str, Picture]) -> list[Section]:
    found = table.report()
    rows = [
        [row.name, *(f"{value:.3f}" for value in row[1:4]), f"{row.support:,}"]
        for row in (*found.rows, found.macro, found.weighted)
    ]
    confused = [[*row[:2], f"{row[2]:,}"] for row in table.most_confused()[:10]]
    matrix: list[Part] = [pictures["confusion_matrix"]]
    if confused:
        matrix.append(Table(["is", "taken for", "images"], confused, left=2))
    return [
        Section(
            "Each class",
            [Table(["class", "precision", "recall", "F1", "images"], rows)],
            note="Of the validation images.",
        ),
        Section("What is taken for what", matrix),
        Section(
            "The worst images",
            [pictures["top_losses"]],
            note="Validation images with the largest loss: hard ones, or labels that are wrong. "
            "All of them are in predictions.csv.",
        ),
        Section(
            "How sure it is",
            [pictures["calibration"]],
            note="Bars below the line: surer than it should be.",
        ),
    ]


def _data(data: ImageDataLoaders, summary: DataSummary) -> list[Section]:
    train, valid = data.train_examples.counts(), data.valid_examples.counts()
    rows = [
        [name, f"{own:,}", f"{other:,}", f"{own + other:,}"]
        for name, own, other in zip(data.classes, train, valid, strict=False)
    ]
    parts: list[Part] = [Table(["class", "training", "validation", "together"], rows)]
    if data.skipped:
        listed = "\n".join(map(str, data.skipped[:100]))
        left_out = f"{len(data.skipped)} unreadable images were left out"
        parts.append(Text(listed, folded=left_out))
    parts.append(Text(str(summary), folded="sizes, duplicates, leaks"))
    return [Section("The data", parts if rows else parts[1:])]


def _settings(config: TrainConfig, output: Path) -> list[Section]:
    run = shlex.quote(str(output))
    commands = (
        f"finetune predict {run} IMAGE_OR_FOLDER ...\n"
        f"finetune evaluate {run} LABELLED_FOLDER\n"
        f"finetune export {run} --format onnx\n"
        f"finetune train --config {shlex.quote(str(output / run_folder.CONFIG))} "
        "--output runs/again"
    )
    python = (
        "from finetune import load_learner\n"
        f"load_learner({str(output / run_folder.MODEL)!r}).predict('image.jpg')"
    )
    text = yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
    versions = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return [
        Section("What to do next", [Text(commands), Text(python)]),
        Section("Settings", [Text(text, folded="all settings")], note=f"Versions: {versions}."),
    ]
