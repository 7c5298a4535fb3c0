"""Progress: bars with the remaining time, and a table that grows a row per epoch."""

import os
import sys

from finetune.callbacks.display import Bar, Display, TextDisplay
from finetune.callbacks.notebook import NotebookDisplay, in_notebook
from finetune.callbacks.pace import Pace, clock, now
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

_MEMORY = 0.95
"""Weight of the past in the mean of the losses beside the bar."""
_LONG = 1.0
"""Seconds; the validation after shorter epochs is over too soon for a word."""


def choose_display() -> Display:
    """In a notebook HTML; on a terminal text with bars; in a pipe or a file text alone."""
    if in_notebook():
        return NotebookDisplay()
    return TextDisplay(bars=sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


class Progress(Callback):
    """A bar for the epoch, one for the run, and the table, where standard output is shown.

    Remaining time is from the pace of the present phase: with a plus where frozen layers will
    train later, and steps take longer then.
    """

    def __init__(self) -> None:
        self._display: Display = TextDisplay(bars=False)
        self._fit = FitStart((), 0, 0, (), 0)
        self._phase = PhaseStart("", 0, 0)
        self._epochs_before = 0  # this phase
        self._epoch = EpochStart("", 0, 0, 0)
        self._begun = self._epoch_begun = self._due = 0.0
        self._loss = self._weight = 0.0
        self._features = ""
        self._run, self._view = Pace(), Pace()

    def on_fit_start(self, event: FitStart) -> None:
        self._display = choose_display()
        self._fit, self._begun, self._due = event, now(), 0.0
        self._phase = PhaseStart("", 0, 0)
        self._epochs_before, self._run = event.first_epoch, Pace()
        if event.note:
            self._display.line(event.note)
        if event.first_epoch:
            told = f"continuing after {event.first_epoch} of {event.epochs} epochs"
            self._display.line(told)

    def on_phase_start(self, event: PhaseStart) -> None:
        if event.note:
            self._display.line(event.note)
        # all epochs of a phase that ended early count as done
        self._epochs_before += self._phase.epochs - event.first_epoch
        self._phase, self._features = event, ""
        self._run.forget()

    def on_epoch_start(self, event: EpochStart) -> None:
        self._epoch, self._loss, self._weight = event, 0.0, 0.0
        self._epoch_begun = now()
        self._run.begin(event.first_step, self._epoch_begun)
        if self._epoch_begun >= self._due:
            self._show_epoch(event.first_step)

    def on_precompute(self, event: Precompute) -> None:
        if not self._features:
            views = f"{event.views} view" + ("s" if event.views > 1 else "")
            told = f"{event.phase}: the frozen layers run once for {views} of each image"
            self._display.line(told)
        name = "validation" if event.view is None else f"view {event.view} of {event.views}"
        if self._features != name:
            self._features = name
            self._view = Pace()
            self._view.begin(event.done, now())
        self._view.step(event.done, now())
        self._run.begin(self._epoch.first_step, now())  # the steps have not begun
        if now() >= self._due:
            left = self._view.epoch_left(event.total)
            text = f"{event.done}/{event.total} images{_left(left)}"
            self._show(Bar(f"features, {name}", event.done / event.total, text))

    def on_step_end(self, event: StepEnd) -> None:
        self._loss = _MEMORY * self._loss + (1 - _MEMORY) * event.loss
        self._weight = _MEMORY * self._weight + (1 - _MEMORY)
        at, last = now(), event.step + 1 == self._epoch.steps
        if at < self._due and not last:
            return
        self._run.step(event.step + 1, at)
        # nothing else would say so while validation runs
        validating = last and self._fit.validates and at >= self._epoch_begun + _LONG
        if at >= self._due or validating:
            self._show_epoch(event.step + 1)

    def on_epoch_end(self, event: EpochEnd) -> None:
        self._run.end(now())
        self._display.row(event)

    def on_fit_end(self, event: FitEnd) -> None:
        if event.reason.startswith(("stopped", "interrupted")):
            self._display.line(event.reason)
        self._display.end()

    def _show_epoch(self, done: int) -> None:
        steps = self._epoch.steps
        loss = f", loss {self._loss / self._weight:.4f}" if self._weight else ""
        validating = done == steps and self._fit.validates
        rest = ", validating" if validating else _left(self._run.epoch_left(steps))
        text = f"{done}/{steps} steps{loss}{rest}"
        name = f"{self._epoch.phase} {self._epoch.epoch + 1}/{self._phase.epochs}"
        self._show(Bar(name, done / steps, text), done / steps)

    def _show(self, bar: Bar, epoch_done: float = 0.0) -> None:
        """This bar and that of the run."""
        number = self._epochs_before + self._epoch.epoch
        total = self._fit.epochs
        left = self._run.run_left(self._epoch.steps, total - number - 1)
        slower = self._phase.frozen and self._epochs_before + self._phase.epochs < total
        text = f"{number}/{total} epochs, {clock(now() - self._begun)} so far"
        text += _left(left, "+" if slower else "")
        self._display.bars([bar, Bar("run", (number + epoch_done) / total, text)])
        self._due = now() + self._display.interval


def _left(seconds: float | None, more: str = "") -> str:
    return "" if seconds is None else f", {clock(seconds)}{more} left"
