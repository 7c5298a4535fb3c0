"""LivePlot: the losses as a figure that is drawn anew while it trains."""

import base64
import time
from typing import TYPE_CHECKING

from finetune import arguments, distributed
from finetune.callbacks.notebook import Output, in_notebook
from finetune.interpret.figure import as_png
from finetune.interpret.losses import plot_losses
from finetune.training import tables
from finetune.training.events import Callback, EpochEnd, FitEnd, FitStart, StepEnd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWING_FRACTION = 0.05
"""The fraction of the time that goes into drawing, at most."""


class LivePlot(Callback):
    """Shows `learner.plot_losses()` of the running fit below a notebook's cell, updated in place.

    every: the fewest seconds between two drawings; more pass where drawing takes long.
    Raises RuntimeError outside a notebook; there `learner.plot_losses()` after the fit will do.

    >>> callbacks = [LivePlot(every=5)] if in_notebook() else []
    """

    def __init__(self, *, every: float = 2.0) -> None:
        every = arguments.real_number("every", every, at_least=0)
        if not in_notebook():
            raise RuntimeError(
                "LivePlot draws into the output of a notebook's cell, and this is no notebook; "
                "learner.plot_losses() draws the same after the fit"
            )
        self.every = every
        self._steps: list[StepEnd] = []
        self._epochs: list[EpochEnd] = []
        self._steps_per_epoch = 1
        self._next_drawing_at = 0.0
        self._output = Output()

    def on_fit_start(self, event: FitStart) -> None:
        self._steps = []
        self._epochs = []
        self._steps_per_epoch = event.steps_per_epoch
        self._output = Output()
        self._next_drawing_at = time.perf_counter() + self.every

    def on_step_end(self, event: StepEnd) -> None:
        self._steps.append(event)
        if time.perf_counter() >= self._next_drawing_at:
            self._draw()

    def on_epoch_end(self, event: EpochEnd) -> None:
        self._epochs.append(event)
        # an epoch's end is worth a drawing a little early
        if time.perf_counter() >= self._next_drawing_at - self.every / 2:
            self._draw()

    def on_fit_end(self, event: FitEnd) -> None:
        if self._steps:
            self._draw()

    def _draw(self) -> None:
        if distributed.rank() != 0 or not self._steps:
            return
        started_at = time.perf_counter()
        content = base64.b64encode(as_png(self._figure())).decode()
        self._output.show({"image/png": content, "text/plain": "losses so far"})
        now = time.perf_counter()
        self._next_drawing_at = now + max(self.every, (now - started_at) / _DRAWING_FRACTION)

    def _figure(self) -> "Figure":
        spans = tables.step_spans(self._steps, self._steps_per_epoch)
        valid = tables.valid_points(spans, self._steps, self._epochs)
        return plot_losses(spans, [row.loss for row in self._steps], valid)
