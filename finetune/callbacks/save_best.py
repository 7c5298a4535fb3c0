"""SaveBest: keeps a checkpoint of the best epoch."""

from pathlib import Path
from typing import Any, Literal

from finetune import arguments
from finetune.callbacks.monitor import Monitor
from finetune.training.events import Answer, Callback, EpochEnd, FitStart, Save


class SaveBest(Callback):
    """Writes a checkpoint to `path` whenever `monitor` has a new best value.

    `learner.load(path)` after the fit brings the best epoch back as it was, with the optimizer and
    a history that ends there; together with `EarlyStopping`, others call this "restore best".
    With `ema=` the file holds two sets of weights: the averaged ones, which that epoch was
    validated with and which the learner has after loading, and the trained ones, with which
    `resume()` goes on.
    """

    def __init__(
        self,
        path: str | Path,
        monitor: str = "loss",
        *,
        min_delta: float = 0.0,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        self.path = arguments.path("path", path)
        self._monitor = Monitor(monitor, mode, min_delta)

    def on_fit_start(self, event: FitStart) -> None:
        self._monitor.check(event)

    def on_epoch_end(self, event: EpochEnd) -> Answer:
        if self._monitor.improved(event):
            return Save(self.path)
        return None

    def state_dict(self) -> dict[str, Any]:
        return self._monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._monitor.load_state_dict(state)
