"""The predictions for the validation images: figures and a table in the run folder."""

from pathlib import Path

from finetune.interpret.page import Drawing
from finetune.interpret.prediction_table import PredictionTable

PREDICTIONS = "predictions.csv"


def draw(table: PredictionTable, output: Path) -> dict[str, Drawing]:
    """Writes the table and its figures into the run folder; returns the figures by name."""
    table.to_csv(output / PREDICTIONS)
    drawings = {}
    for name, (figure, words) in table.figures().items():
        drawings[name] = Drawing.of(figure, words, output / f"{name}.png")
    return drawings
