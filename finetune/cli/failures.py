"""What the model says of the validation images: figures, and sections of a run's report."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from finetune.interpret.page import Drawing, Part, Section, Table
from finetune.interpret.predictions import Predictions
from finetune.interpret.report import ClassReport
from finetune.interpret.task_predictions import LabelsPredictions, ValuesPredictions
from finetune.wording import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AnyPredictions: TypeAlias = Predictions | LabelsPredictions | ValuesPredictions

WORST = 12
PREDICTIONS = "predictions.csv"


def draw(table: AnyPredictions, output: Path) -> dict[str, Drawing]:
    """The figures that suit the task by name, each also saved as a file, and all predictions."""
    table.to_csv(output / PREDICTIONS)
    worst = table.plot_top_losses(min(WORST, len(table)))
    figures: dict[str, tuple[Figure, str]] = {
        "top_losses": (worst, "validation images with the largest loss")
    }
    if isinstance(table, Predictions):
        figures |= {
            "confusion_matrix": (table.plot_confusion_matrix(), "confusion matrix"),
            "calibration": (table.plot_calibration(), "share that is right over probability"),
        }
    if isinstance(table, ValuesPredictions):
        figures["values"] = table.plot(), "what is predicted over what is true"
    return {
        name: Drawing.of(drawn, alt, output / f"{name}.png")
        for name, (drawn, alt) in figures.items()
    }


def sections(table: AnyPredictions, figures: Mapping[str, Drawing]) -> list[Section]:
    """figures: those of `draw`."""
    worst = Section(
        "The worst images",
        [figures["top_losses"]],
        note="Validation images with the largest loss: hard ones, or labels that are wrong. "
        f"All of them are in {PREDICTIONS}.",
    )
    if isinstance(table, ValuesPredictions):
        return [_each_target(table, figures["values"]), worst]
    each = _each_class(table.report())
    if isinstance(table, LabelsPredictions):
        return [each, worst]
    sure = Section(
        "How sure it is",
        [figures["calibration"]],
        note="Bars below the line: surer than it should be.",
    )
    return [each, _confusion(table, figures["confusion_matrix"]), worst, sure]


def _each_target(table: ValuesPredictions, values: Drawing) -> Section:
    rows = [[row.name, *map(number, row[1:])] for row in table.report().rows]
    return Section(
        "Each target",
        [Table(["target", "MAE", "RMSE", "R2"], rows), values],
        note="Of the validation images, in the targets' own units.",
    )


def _each_class(found: ClassReport) -> Section:
    rows = [
        [row.name, *(f"{value:.3f}" for value in row[1:4]), f"{row.support:,}"]
        for row in (*found.rows, found.macro, found.weighted)
    ]
    return Section(
        "Each class",
        [Table(["class", "precision", "recall", "F1", "images"], rows)],
        note="Of the validation images.",
    )


def _confusion(table: Predictions, matrix: Drawing) -> Section:
    confused = [[*row[:2], f"{row[2]:,}"] for row in table.most_confused()[:10]]
    parts: list[Part] = [matrix]
    if confused:
        parts.append(Table(["is", "taken for", "images"], confused, left=2))
    return Section("What is taken for what", parts)
