"""Progress: a bar while an epoch runs and a table that grows a row per epoch, as plain text."""

import sys
from typing import Any

from tqdm.std import tqdm

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

_WIDTH = 11


class Progress(Callback):
    """Prints to standard output; no bar where that is neither a terminal nor a notebook."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._shown = ""
        self._steps = self._rows = 0
        self._told_of_features = False

    def on_fit_start(self, event: FitStart) -> None:
        self._rows = 0
        if event.note:
            self._print(event.note)
        if event.first_epoch:
            self._print(f"continuing after {event.first_epoch} of {event.epochs} epochs")

    def on_phase_start(self, event: PhaseStart) -> None:
        self._told_of_features = False

    def on_epoch_start(self, event: EpochStart) -> None:
        self._steps = event.steps
        self._show(f"{event.phase} {event.epoch + 1}", " steps", event.first_step, event.steps)

    def on_precompute(self, event: Precompute) -> None:
        if not self._told_of_features:
            self._told_of_features = True
            self._close()
            views = f"{event.views} view" + ("s" if event.views > 1 else "")
            self._print(f"{event.phase}: the frozen layers run once for {views} of each picture")
        name = "validation" if event.view is None else f"view {event.view} of {event.views}"
        self._show(f"features, {name}", " pictures", event.done, event.total)

    def on_step_end(self, event: StepEnd) -> None:
        name = f"{event.phase} {event.epoch + 1}"
        self._show(name, " steps", event.step + 1, self._steps)

    def on_epoch_end(self, event: EpochEnd) -> None:
        self._close()
        results = {"train loss": event.train_loss}
        results.update({f"valid {n}" if n == "loss" else n: v for n, v in event.valid.items()})
        if not self._rows:
            heads = "".join(f"{name:>{max(_WIDTH, len(name) + 2)}}" for name in results)
            self._print(f"{'phase':<12}{'epoch':>5}{heads}{'seconds':>{_WIDTH}}")
        cells = "".join(f"{v:>{max(_WIDTH, len(n) + 2)}.4f}" for n, v in results.items())
        self._print(f"{event.phase:<12}{event.epoch + 1:>5}{cells}{event.seconds:>{_WIDTH}.1f}")
        self._rows += 1

    def on_fit_end(self, event: FitEnd) -> None:
        self._close()
        if event.reason.startswith(("stopped", "interrupted")):
            self._print(event.reason)

    def _show(self, name: str, unit: str, done: int, total: int) -> None:
        if self._bar is not None and self._shown == name:
            self._bar.update(done - self._bar.n)
            return
        self._close()
        self._shown = name
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=name,
            unit=unit,
            leave=False,
            file=sys.stdout,
            dynamic_ncols=True,
            disable=not (sys.stdout.isatty() or "ipykernel" in sys.modules),
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, line: str) -> None:
        print(line, flush=True)
