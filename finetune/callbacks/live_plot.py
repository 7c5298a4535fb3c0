"""LivePlot: the losses as a figure that is drawn anew while it trains."""

import base64
import io
from typing import TYPE_CHECKING

from finetune import distributed
from finetune.callbacks.notebook import Output, in_notebook
from finetune.callbacks.pace import now
from finetune.interpret.losses import plot_losses
from finetune.training import tables
from finetune.training.events import Callback, EpochEnd, EpochStart, FitEnd, FitStart, StepEnd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHARE = 0.05
"""Of the time, at most, that goes into drawing."""


class LivePlot(Callback):
    """In a notebook, `learner.plot_losses()` of the running fit, below the cell, in place.

    every: seconds between two drawings at least; more where drawing takes long.
    Raises RuntimeError outside a notebook; there `learner.plot_losses()` after the fit will do.
    """

    def __init__(self, *, every: float = 2.0) -> None:
        if not every >= 0:
            raise ValueError(f"every is a number of seconds, 0 or more, got {every!r}")
        if not in_notebook():
            raise RuntimeError(
                "LivePlot draws into the output of a notebook's cell, and here is none; "
                "learner.plot_losses() draws the same after the fit"
            )
        self.every = every
        self._steps: list[StepEnd] = []
        self._epochs: list[EpochEnd] = []
        self._steps_per_epoch = 1
        self._whole = True
        self._due = 0.0
        self._output = Output()

    def on_fit_start(self, event: FitStart) -> None:
        self._steps, self._epochs = [], []
        self._steps_per_epoch = event.steps_per_epoch
        self._output = Output()
        self._due = now() + self.every

    def on_epoch_start(self, event: EpochStart) -> None:
        self._whole = event.first_step == 0

    def on_step_end(self, event: StepEnd) -> None:
        self._steps.append(event)
        if now() >= self._due:
            self._draw()

    def on_epoch_end(self, event: EpochEnd) -> None:
        if self._whole:  # the first steps of the others are not here, so its place is not known
            self._epochs.append(event)
        if now() >= self._due - self.every / 2:
            self._draw()

    def on_fit_end(self, event: FitEnd) -> None:
        if self._steps:
            self._draw()

    def _draw(self) -> None:
        if distributed.rank() or not self._steps:
            return
        started = now()
        png = io.BytesIO()
        self._figure().savefig(png, format="png", dpi=100)
        content = base64.b64encode(png.getvalue()).decode()
        self._output.show({"image/png": content, "text/plain": "losses so far"})
        self._due = now() + max(self.every, (now() - started) / _SHARE)

    def _figure(self) -> "Figure":
        spans = tables.step_spans(self._steps, self._steps_per_epoch)
        valid = tables.valid_points(spans, self._steps, self._epochs)
        return plot_losses(spans, [row.loss for row in self._steps], valid)
