"""report.html and the figures of a run: what was trained on what, how it went, what to do next."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from finetune.cli import failures, run_folder
from finetune.config import TrainConfig
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.summary.summary import DataSummary
from finetune.interpret.page import Drawing, Facts, Page, Part, Section, Text, render
from finetune.interpret.prediction_table import PredictionTable
from finetune.learner import Learner
from finetune.tables import Table
from finetune.tasks import resolve_task
from finetune.training.events import EpochEnd
from finetune.wording import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LIBRARIES = ("finetune-vision", "torch", "torchvision", "timm")


_DRAWN: dict[str, tuple[Callable[[Learner], "Figure"], str]] = {
    "plan": (Learner.plot_plan, "planned learning rates over epochs"),
    "learning_rates": (Learner.plot_rates, "learning rates over epochs"),
    "losses": (Learner.plot_losses, "losses and metrics over epochs"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    results: of the validation images. epochs: all that ran. kept: which of them, counted from 0,
    has the weights that results, table and model are of. figures: of training and of the table.
    """

    results: Mapping[str, float]
    epochs: Sequence[EpochEnd]
    kept: int
    table: PredictionTable
    figures: Mapping[str, Drawing]


def draw(learner: Learner, output: Path) -> dict[str, Drawing]:
    """The figures of training by name, each also saved as a file."""
    return {
        name: Drawing.of(plot(learner), alt, output / f"{name}.png")
        for name, (plot, alt) in _DRAWN.items()
    }


def keep_unfinished(learner: Learner, output: Path) -> None:
    """History and figures of a run that did not end, as far as they can be had; never raises."""
    if not learner.history.steps:
        return
    with suppress(Exception):
        run_folder.write_history(output, learner.history)
    for name, (plot, alt) in _DRAWN.items():
        with suppress(Exception):
            Drawing.of(plot(learner), alt, output / f"{name}.png")


def write(
    learner: Learner,
    data: ImageDataLoaders,
    summary: DataSummary,
    config: TrainConfig,
    outcome: Outcome,
    output: Path,
) -> None:
    """report.html in the run folder."""
    seconds = sum(row.seconds for row in outcome.epochs)
    headline = [
        (data.task.metric_text(name, value), f"validation {name}")
        for name, value in outcome.results.items()
    ]
    page = Page(
        title=f"{config.model} on {Path(config.csv or config.data or '').name}",
        subtitle=f"A run of finetune, {datetime.now(timezone.utc):%d %B %Y, %H:%M} UTC.",
        headline=[
            *sorted(headline, key=lambda pair: pair[1] == "validation loss"),
            (f"{len(data.train_examples):,}", "training images"),
            (f"{len(data.valid_examples):,}", "validation images"),
            (f"{len(data.classes):,}", data.task.names_are),
            (duration(seconds), "of training"),
        ],
        sections=[
            Section("What was trained on what", [facts(learner, data, config)]),
            *_training(learner, outcome),
            *outcome.table.sections(outcome.figures, failures.PREDICTIONS),
            *_data(data, summary),
            *_settings(config, output),
        ],
    )
    (output / run_folder.REPORT).write_text(render(page), encoding="utf-8")


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
    split = f"{config.valid_fraction:.0%} of {data.task.strata}, at random, seed {config.seed}"
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


def _training(learner: Learner, outcome: Outcome) -> list[Section]:
    rows, figures = outcome.epochs, outcome.figures
    names = list(dict.fromkeys(name for row in rows for name in row.valid))
    header = ["phase", "epoch", "train loss", *(f"valid {n}" if n == "loss" else n for n in names)]
    cells = [
        [
            row.phase,
            f"{row.epoch + 1}{', kept' if i == outcome.kept else ''}",
            number(row.train_loss),
            *(number(row.valid[n]) if n in row.valid else "" for n in names),
            f"{row.seconds:.1f}",
        ]
        for i, row in enumerate(rows)
    ]
    return [
        Section(
            "How training went",
            [
                figures["losses"],
                Table.of([*header, "seconds"], cells),
            ],
            note="The result has the weights of the epoch that was kept.",
        ),
        Section(
            "Layer groups and their learning rates",
            [_groups(learner), figures["plan"]],
            note="Earlier layers learn at lower rates; dotted while a group is frozen.",
        ),
    ]


def _groups(learner: Learner) -> Table:
    rows = [
        [group.name, group.norm, f"{group.parameter_count:,}", f"{group.peaks['lr']:.3g}"]
        for group in learner.layer_groups
    ]
    header = ["group", "norm layers", "parameters", "peak learning rate"]
    return Table.of(header, rows, words=2)


def _data(data: ImageDataLoaders, summary: DataSummary) -> list[Section]:
    train, valid = data.train_examples.counts(), data.valid_examples.counts()
    rows = [
        [name, f"{own:,}", f"{other:,}", f"{own + other:,}"]
        for name, own, other in zip(data.classes, train, valid, strict=False)
    ]
    parts: list[Part] = [Table.of(["class", "training", "validation", "together"], rows)]
    if data.skipped:
        listed = "\n".join(map(str, data.skipped[:100]))
        left_out = f"{len(data.skipped)} unreadable images were left out"
        parts.append(Text(listed, folded=left_out))
    parts.append(Text(str(summary), folded="sizes, duplicates, leaks"))
    return [Section("The data", parts if rows else parts[1:])]


def _settings(config: TrainConfig, output: Path) -> list[Section]:
    run = shlex.quote(str(output))
    labelled = "TABLE.csv --data FOLDER"
    if resolve_task(config.task).exclusive:
        labelled = "LABELLED_FOLDER"
    commands = (
        f"finetune predict {run} IMAGE_OR_FOLDER ...\n"
        f"finetune evaluate {run} {labelled}\n"
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
