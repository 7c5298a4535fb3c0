"""Progress: bars with the remaining time, and a table that grows a row per epoch."""

import os
import sys
import time
from collections.abc import Sequence

from tqdm.std import tqdm

from finetune.callbacks import epoch_table
from finetune.callbacks.display import Bar, Display, TextDisplay
from finetune.callbacks.history import History
from finetune.callbacks.notebook import NotebookDisplay, in_notebook
from finetune.callbacks.pace import Pace
from finetune.training.events import (
    Callback,
    EpochEnd,
    EpochStart,
    FitEnd,
    FitStart,
    PhaseStart,
    Precompute,
    StepEnd,
)

_LOSS_MEMORY = 0.95
"""Weight of the past in the exponential mean of the losses that is shown beside the bar."""
_LONG_TRAINING = 1.0
"""Seconds; validation after shorter training is over too soon to be announced."""


def choose_display(phases: Sequence[str] = ()) -> Display:
    """HTML in a notebook, text with bars on a terminal, text alone in a pipe or a file.

    phases: the names of those that will be shown.
    """
    if in_notebook():
        return NotebookDisplay()
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return TextDisplay(bars=is_terminal, phases=phases)


class Progress(Callback):
    """Shows a bar for the epoch, a bar for the run, and the table of epochs on standard output.

    The remaining time assumes the mean pace of the present phase, validation included. A plus
    behind that of the run says that frozen layers will train later, when steps take longer.
    history: of the learner; where its last epoch is worse than a probe before it, the end says so.
    """

    def __init__(self, history: History | None = None) -> None:
        self._history = History() if history is None else history
        self._display: Display = TextDisplay(bars=False)
        self._fit = FitStart((), 0, 0, (), 0)
        self._phase = PhaseStart("", 0, 0)
        self._epoch = EpochStart("", 0, 0, 0)
        self._epochs_before_phase = 0
        self._fit_started_at = 0.0
        self._steps_started_at = 0.0
        self._next_bars_at = 0.0
        self._loss_mean = 0.0
        self._loss_weight = 0.0
        self._features = ""  # which outputs of the frozen layers are being computed
        self._epochs_pace = Pace()
        self._images_pace = Pace()

    def on_fit_start(self, event: FitStart) -> None:
        self._display = choose_display(event.phases)
        self._fit = event
        self._phase = PhaseStart("", 0, 0)
        self._epochs_before_phase = event.first_epoch
        self._fit_started_at = time.perf_counter()
        self._next_bars_at = 0.0
        if event.first_epoch:
            self._display.line(f"continuing after {event.first_epoch} of {event.epochs} epochs")
        elif event.steps_per_epoch == 1:
            self._display.line("an epoch is one step; a smaller batch_size= would make it several")

    def on_phase_start(self, event: PhaseStart) -> None:
        if event.note:
            self._display.line(event.note)
        # all epochs of a phase that ended early count as done
        self._epochs_before_phase += self._phase.epochs - event.first_epoch
        self._phase = event
        self._features = ""

    def on_epoch_start(self, event: EpochStart) -> None:
        self._epoch = event
        self._steps_started_at = time.perf_counter()
        self._loss_mean = 0.0
        self._loss_weight = 0.0
        if event.epoch == self._phase.first_epoch:
            # a new pace for each phase: with other layers frozen, a step takes another time
            self._epochs_pace = Pace(self._epoch_number + event.first_step / event.steps)
        if self._steps_started_at >= self._next_bars_at:
            self._show_epoch(event.first_step)

    def on_precompute(self, event: Precompute) -> None:
        if not self._features:
            self._display.line(f"{event.phase}: {self._what_is_kept(event.views)}")
        features = f"view {event.view} of {event.views}"
        if event.view is None:
            features = "validation"
        if features != self._features:
            self._features = features
            self._images_pace = Pace(event.done)
        # later epochs do not compute these features again
        now = time.perf_counter()
        self._epochs_pace.leave_out(now - self._steps_started_at)
        self._steps_started_at = now
        if now >= self._next_bars_at:
            self._show_features(event)

    def on_step_end(self, event: StepEnd) -> None:
        self._loss_mean = _LOSS_MEMORY * self._loss_mean + (1 - _LOSS_MEMORY) * event.loss
        self._loss_weight = _LOSS_MEMORY * self._loss_weight + (1 - _LOSS_MEMORY)
        steps_done = event.step + 1
        now = time.perf_counter()
        is_long = now >= self._steps_started_at + _LONG_TRAINING
        # there is no event while validation runs, so it is announced at the last step
        announces_validation = self._is_validating(steps_done) and is_long
        if now >= self._next_bars_at or announces_validation:
            self._show_epoch(steps_done)

    def on_epoch_end(self, event: EpochEnd) -> None:
        self._display.row(event)

    def on_fit_end(self, event: FitEnd) -> None:
        if event.reason.startswith(("stopped", "interrupted")):
            self._display.line(event.reason)
        if event.reason.startswith(("stopped", "finished")):
            note = epoch_table.note_at_end(self._history.epochs)
            if note:
                self._display.line(note)
        self._display.end()

    def _what_is_kept(self, views: int) -> str:
        """Why the epochs of the phase are so fast, in words."""
        groups = self._fit.groups[self._phase.frozen :]
        training = f"{' and '.join(groups)} {'train' if len(groups) > 1 else 'trains'}"
        seen = "each image only once"
        if views > 1:
            seen = f"only {views} random views of each image"
        return f"only {training}; the layers before see {seen}"

    @property
    def _epoch_number(self) -> int:
        """The number of the present epoch in the run, from 0."""
        return self._epochs_before_phase + self._epoch.epoch

    def _is_validating(self, steps_done: int) -> bool:
        return self._fit.validates and steps_done == self._epoch.steps

    def _show_features(self, event: Precompute) -> None:
        words = [f"{event.done}/{event.total} images"]
        time_left = self._images_pace.time_left(event.done, event.total)
        if time_left:
            words.append(f"{time_left} left")
        bar = Bar(f"features, {self._features}", event.done / event.total, ", ".join(words))
        self._show(bar, epoch_fraction=0.0)

    def _show_epoch(self, steps_done: int) -> None:
        steps = self._epoch.steps
        fraction = steps_done / steps
        words = [f"{steps_done}/{steps} steps"]
        if self._loss_weight:
            words.append(f"loss {self._loss_mean / self._loss_weight:.4f}")
        number = self._epoch_number
        time_left = self._epochs_pace.time_left(number + fraction, number + 1)
        if self._is_validating(steps_done):
            words.append("validating")
        elif time_left:
            words.append(f"{time_left} left")
        name = f"{self._epoch.phase} {self._epoch.epoch + 1}/{self._phase.epochs}"
        self._show(Bar(name, fraction, ", ".join(words)), fraction)

    def _show(self, bar: Bar, epoch_fraction: float) -> None:
        """Shows this bar and, below it, that of the run."""
        total = self._fit.epochs
        number = self._epoch_number
        epochs_done = number + epoch_fraction
        seconds_so_far = time.perf_counter() - self._fit_started_at
        time_so_far = tqdm.format_interval(round(seconds_so_far))
        words = [f"{number}/{total} epochs", f"{time_so_far} so far"]
        time_left = self._epochs_pace.time_left(epochs_done, total)
        is_last_phase = self._epochs_before_phase + self._phase.epochs >= total
        steps_get_slower = self._phase.frozen > 0 and not is_last_phase
        if time_left and steps_get_slower:
            words.append(f"{time_left}+ left")
        elif time_left:
            words.append(f"{time_left} left")
        self._display.bars([bar, Bar("run", epochs_done / total, ", ".join(words))])
        # from the end of the drawing, so that a slow terminal does not slow the training down
        self._next_bars_at = time.perf_counter() + self._display.interval
