"""What the model says of the validation images: figures and a file in the run folder."""

from pathlib import Path

from finetune.interpret.page import Drawing
from finetune.interpret.prediction_table import PredictionTable

PREDICTIONS = "predictions.csv"


def draw(table: PredictionTable, output: Path) -> dict[str, Drawing]:
    """The figures of a table by name, each also saved as a file, and all predictions."""
    table.to_csv(output / PREDICTIONS)
    drawings = {}
    for name, (figure, words) in table.figures().items():
        drawings[name] = Drawing.of(figure, words, output / f"{name}.png")
    return drawings
