"""ValuesPredictions: the table of a regression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from finetune.interpret import values
from finetune.interpret.outputs_table import OutputsTable
from finetune.interpret.page import Drawing, Section
from finetune.interpret.report import TargetReport
from finetune.wording import counted, number, values_in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ValuesPredictions(OutputsTable):
    """Predictions of numbers: outputs are values in the units of the targets.

    Arguments: see `OutputsTable`.

    >>> ValuesPredictions(["a.jpg"], ["age"], [[30.0]], [[32.5]], [6.25])
    ValuesPredictions(1 example, mean error: age 2.5000)
    """

    def target_words(self, target: np.ndarray) -> str:
        return values_in_words(self.classes, target.tolist(), digits=6)

    def predicted_words(self, output: np.ndarray) -> str:
        return values_in_words(self.classes, output.tolist(), digits=6)

    def __repr__(self) -> str:
        errors = np.abs(self.outputs - self.targets).mean(axis=0).tolist()
        mean_errors = []
        for name, error in zip(self.classes, errors, strict=True):
            mean_errors.append(f"{name} {number(error)}")
        examples = counted(len(self), "example")
        return f"ValuesPredictions({examples}, mean error: {', '.join(mean_errors)})"

    def report(self) -> TargetReport:
        """Mean absolute error, root of the mean squared error and R2 of each target."""
        return TargetReport(self.targets, self.outputs, self.classes)

    def plot(self) -> Figure:
        """Plots predicted values over true values, for each target."""
        return values.plot_values(self.targets, self.outputs, self.classes)

    def figures(self) -> dict[str, tuple[Figure, str]]:
        return {
            **super().figures(),
            "values": (self.plot(), "what is predicted over what is true"),
        }

    def sections(self, drawings: Mapping[str, Drawing], file: str) -> list[Section]:
        targets_section = Section(
            "Each target",
            [self.report().table(), drawings["values"]],
            note="Of the validation images, in the targets' own units.",
        )
        return [targets_section, self.worst_section(drawings, file)]
