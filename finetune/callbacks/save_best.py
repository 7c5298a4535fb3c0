"""SaveBest: keeps a checkpoint of the best epoch."""

from pathlib import Path
from typing import Any, Literal

from finetune.callbacks.monitor import Monitor
from finetune.training.events import Answer, Callback, EpochEnd, Save


class SaveBest(Callback):
    """Writes a checkpoint to `path` whenever `monitor` has a new best value.

    `learner.load(path)` after the fit brings the best epoch back as it was, with the optimizer and
    a history that ends there; beside `EarlyStopping` that is what others call restoring the best.
    With `ema=` the file holds both the averaged weights, which that epoch's figures are of and
    which the learner then has, and those that were trained, with which `resume()` goes on.
    """

    def __init__(
        self,
        path: str | Path,
        monitor: str = "loss",
        *,
        min_delta: float = 0.0,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        self.path = Path(path)
        self._monitor = Monitor(monitor, mode, min_delta)

    def on_epoch_end(self, event: EpochEnd) -> Answer:
        return Save(self.path) if self._monitor.improved(event) else None

    def state_dict(self) -> dict[str, Any]:
        return self._monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._monitor.load_state_dict(state)
