"""OutputsTable: a table of predictions with an output for each class or target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from finetune.interpret.image_grids import plot_images
from finetune.interpret.prediction_table import IMAGES_SHOWN, PredictionTable
from finetune.tables import end_of
from finetune.wording import number as number_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class OutputsRow(NamedTuple):
    """One example. item: path or number. target, predicted: in words. outputs: [C].

    fold: see `prediction_table.Row`.
    """

    item: str | int
    target: str
    predicted: str
    loss: float
    outputs: np.ndarray
    fold: int | None = None


class OutputsTable(PredictionTable):
    """A row for each example, in the order of the data, with C outputs each.

    items: paths or numbers. classes: names of the C labels or targets. targets, outputs: [N, C].
    losses: [N]. image: opens the image of a row by its number; None where the data has no images.
    """

    header: ClassVar[tuple[str, ...]] = ("item", "target", "predicted", "loss")

    def __init__(
        self,
        items: Sequence[str | int],
        classes: Sequence[str],
        targets: Any,
        outputs: Any,
        losses: Any,
        *,
        image: Callable[[int], Any] | None = None,
    ) -> None:
        super().__init__(items, classes, targets, losses, image)
        self.outputs = np.asarray(outputs)
        self._check_shapes()

    def _check_shapes(self) -> None:
        examples, columns = len(self.items), len(self.classes)
        shape = (examples, columns)
        if self.targets.shape == shape == self.outputs.shape and len(self.losses) == examples:
            return
        raise ValueError(
            f"targets and outputs must be [{examples}, {columns}] and losses as long, got "
            f"{self.targets.shape}, {self.outputs.shape} and {self.losses.shape}"
        )

    @abstractmethod
    def target_words(self, target: np.ndarray) -> str:
        """A row of `targets` in words."""

    @abstractmethod
    def predicted_words(self, output: np.ndarray) -> str:
        """A row of `outputs` in words."""

    def __getitem__(self, number: int) -> OutputsRow:
        output = self.outputs[number]
        return OutputsRow(
            self.items[number],
            self.target_words(self.targets[number]),
            self.predicted_words(output),
            float(self.losses[number]),
            output,
            self.fold_of(number),
        )

    def top_losses(self, k: int = 10) -> list[OutputsRow]:
        return [self[number] for number in self.worst(k)]

    def cells(self, row: OutputsRow, item_width: int) -> list[str]:
        return [end_of(row.item, item_width), row.target, row.predicted, number_text(row.loss)]

    def csv_columns(self) -> list[str]:
        return [f"output for {name}" for name in self.classes]

    def csv_values(self, number: int) -> Sequence[float]:
        outputs: list[float] = self.outputs[number].tolist()
        return outputs

    def plot_top_losses(self, k: int = IMAGES_SHOWN) -> Figure:
        """Plots the images with the highest losses, with what was predicted and what is true."""
        titles = []
        for row in self.top_losses(k):
            titles.append(f"loss {number_text(row.loss)}: {row.predicted} (is {row.target})")
        return plot_images(self.images(self.worst(k)), titles)

    def show_results(self, count: int = IMAGES_SHOWN) -> Figure:
        """Plots images with what was predicted and what is true, highest losses first."""
        titles = [f"{row.predicted} (is {row.target})" for row in self.top_losses(count)]
        return plot_images(self.images(self.worst(count)), titles)
