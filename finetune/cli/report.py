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

from finetune.cli import build, failures, run_folder
from finetune.config import TrainConfig
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.summary.summary import DataSummary
from finetune.files.replacing import write_text
from finetune.image_size import in_pixels
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

_TRAINING_FIGURES: dict[str, tuple[Callable[[Learner], "Figure"], str]] = {
    "learning_rates": (Learner.plot_rates, "learning rates over epochs"),
    "losses": (Learner.plot_losses, "losses and metrics over epochs"),
}
"""By name: how each is plotted, and what it shows in words."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a run.

    results: metrics on the validation images. epochs: all that ran. kept_epoch: the number, from 0,
    of the epoch whose weights the exported model has; results and table are of these weights.
    table: the predictions for the validation images. figures: those of training and of the table.
    """

    results: Mapping[str, float]
    epochs: Sequence[EpochEnd]
    kept_epoch: int
    table: PredictionTable
    figures: Mapping[str, Drawing]


def draw(learner: Learner, output: Path) -> dict[str, Drawing]:
    """Draws the figures of training and saves each as a file; returns them by name.

    All are of steps, so that there is none of a probe.
    """
    drawings: dict[str, Drawing] = {}
    if not learner.history.steps:
        return drawings
    for name, (plot, words) in _TRAINING_FIGURES.items():
        drawings[name] = Drawing.of(plot(learner), words, output / f"{name}.png")
    return drawings


def keep_unfinished(learner: Learner, output: Path) -> None:
    """Writes what there is of the history and the figures of a run that failed; never raises."""
    if not learner.history.steps:
        return
    # an error here would hide the error of the run
    with suppress(Exception):
        run_folder.write_history(output, learner.history)
    for name, (plot, words) in _TRAINING_FIGURES.items():
        with suppress(Exception):
            Drawing.of(plot(learner), words, output / f"{name}.png")


def write(
    learner: Learner,
    data: ImageDataLoaders,
    summary: DataSummary,
    config: TrainConfig,
    outcome: Outcome,
    output: Path,
) -> None:
    """Writes report.html into the run folder."""
    data_name = Path(config.images).name
    page = Page(
        title=f"{_model_names(config)} on {data_name}",
        subtitle=f"A run of finetune, {datetime.now(timezone.utc):%d %B %Y, %H:%M} UTC.",
        headline=_headline(data, outcome),
        sections=[
            Section("What was trained on what", [facts(learner, data, config)]),
            *_training(learner, outcome),
            *outcome.table.sections(outcome.figures, failures.PREDICTIONS),
            *_data(data, summary),
            *_settings(config, output),
        ],
    )
    # names of files need not be UTF-8
    write_text(output / run_folder.REPORT, render(page), errors="backslashreplace")


def _headline(data: ImageDataLoaders, outcome: Outcome) -> list[tuple[str, str]]:
    """Numbers, as text, and what they are: metrics first, then the loss, then sizes."""
    names = [name for name in outcome.results if name != "loss"]
    if "loss" in outcome.results:
        names.append("loss")
    headline = []
    for name in names:
        count = len(data.valid_examples)
        value = data.task.metric_headline(name, outcome.results[name], count)
        headline.append((value, f"validation {name}"))
    seconds = sum(row.seconds for row in outcome.epochs)
    return [
        *headline,
        (f"{len(data.train_examples):,}", "training images"),
        (f"{len(data.valid_examples):,}", "validation images"),
        (f"{len(data.classes):,}", data.task.names_are),
        (duration(seconds), "of training"),
    ]


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(42.4), duration(272), duration(7440)
    ('42 s', '4 min 32 s', '2 h 04 min')
    """
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    if minutes:
        return f"{minutes} min {whole_seconds} s"
    return f"{whole_seconds} s"


def facts(learner: Learner, data: ImageDataLoaders, config: TrainConfig) -> Facts:
    """The model, the data and the settings that decide a result, as a list of facts."""
    groups = learner.layer_groups
    parameters = sum(group.parameter_count for group in groups)
    split = f"{config.valid_fraction:.0%} of {data.task.strata}, at random, seed {config.seed}"
    if config.valid is not None or config.valid_column is not None:
        split = f"as given in {config.valid or config.valid_column!r}"
    if config.groups is not None:
        split += f", undivided groups {config.groups}"
    weights = "random" if config.weights is None else config.weights
    head = f"{config.head}, dropout {config.dropout:g}"
    of_steps = [
        ("augmentation", ", ".join([config.augment, *_mixing(config)])),
        ("optimizer", groups[0].optimizer),
        ("batches", f"{config.batch_size} images, {config.accumulate} a step"),
    ]
    if config.probe:
        head = "one linear layer, fitted to the features of the frozen backbone"
        of_steps = []
    runtime = learner.trainer.setup.runtime
    return Facts(
        [
            ("backbone", f"{_model_names(config)}, weights: {weights}"),
            ("parameters", f"{parameters:,} in {len(groups)} layer groups"),
            ("head", head),
            ("images", config.images),
            ("held out", split),
            ("size", f"{in_pixels(data.preprocessing.image_size)}, {data.preprocessing.resize}"),
            *of_steps,
            ("ran on", f"{runtime.device}, {runtime.precision}"),
        ]
    )


def _model_names(config: TrainConfig) -> str:
    """The backbone, or all of several."""
    names = build.backbones_of(config.model)
    return names if isinstance(names, str) else " + ".join(names)


def _mixing(config: TrainConfig) -> list[str]:
    """What mixes or smooths the targets, with its strength."""
    words = []
    for name in ("mixup", "cutmix", "label_smoothing"):
        strength = getattr(config, name)
        if strength:
            words.append(f"{name.replace('_', ' ')} {strength:g}")
    return words


def _training(learner: Learner, outcome: Outcome) -> list[Section]:
    if not learner.history.steps:
        return [Section("How it went", [_epochs(outcome)])]
    return [
        Section(
            "How training went",
            [outcome.figures["losses"], _epochs(outcome)],
            note="The result has the weights of the epoch that was kept.",
        ),
        Section(
            "Layer groups and their learning rates",
            [_groups(learner), outcome.figures["learning_rates"]],
            note="Earlier layers learn at lower rates; dotted while a group is frozen.",
        ),
    ]


def _epochs(outcome: Outcome) -> Table:
    # phases may have different metrics, as when there was no validation in one
    metrics = list(dict.fromkeys(name for row in outcome.epochs for name in row.valid))
    header = ["phase", "epoch", "train loss"]
    for name in metrics:
        header.append("valid loss" if name == "loss" else name)
    header.append("seconds")
    rows = []
    for index, epoch in enumerate(outcome.epochs):
        label = str(epoch.epoch + 1)
        if index == outcome.kept_epoch:
            label += ", kept"
        cells = [epoch.phase, label, number(epoch.train_loss)]
        for name in metrics:
            cells.append(number(epoch.valid[name]) if name in epoch.valid else "")
        cells.append(f"{epoch.seconds:.1f}")
        rows.append(cells)
    return Table.of(header, rows)


def _groups(learner: Learner) -> Table:
    rows = []
    for group in learner.layer_groups:
        # a checkpoint from before the peaks were saved has the last rates only
        peak = group.peaks.get("lr", group.values["lr"])
        rows.append([group.name, group.norm, f"{group.parameter_count:,}", f"{peak:.3g}"])
    header = ["group", "norm layers", "parameters", "peak learning rate"]
    return Table.of(header, rows, words=2)


def _data(data: ImageDataLoaders, summary: DataSummary) -> list[Section]:
    train_counts = data.train_examples.counts()
    valid_counts = data.valid_examples.counts()
    rows = []
    # a regression has targets but no counts
    for name, train, valid in zip(data.classes, train_counts, valid_counts, strict=False):
        rows.append([name, f"{train:,}", f"{valid:,}", f"{train + valid:,}"])
    contents: list[Part] = []
    if rows:
        contents.append(Table.of(["class", "training", "validation", "together"], rows))
    if data.skipped:
        listed = "\n".join(map(str, data.skipped[:100]))
        left_out = f"{len(data.skipped)} unreadable images were left out"
        contents.append(Text(listed, folded=left_out))
    contents.append(Text(str(summary), folded="sizes, duplicates, leaks"))
    return [Section("The data", contents)]


def _settings(config: TrainConfig, output: Path) -> list[Section]:
    """The commands that use the run, and all of its settings."""
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
