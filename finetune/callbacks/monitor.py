"""Monitor: the value that EarlyStopping and SaveBest watch, and when it is the best so far."""

import difflib
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune.training.events import EpochEnd

_LOWER_IS_BETTER = ("loss", "error")


@dataclass(slots=True)
class Monitor:
    """monitor: "loss" (validation), "train_loss" or a metric's name. mode: None guesses by name."""

    monitor: str = "loss"
    mode: Literal["min", "max"] | None = None
    min_delta: float = 0.0
    best: float = field(default=math.nan, init=False)

    def __post_init__(self) -> None:
        if self.mode not in (None, "min", "max"):
            raise ValueError(f"mode must be 'min', 'max' or None, got {self.mode!r}")

    def improved(self, event: EpochEnd) -> bool:
        """Whether this epoch is the best so far, by more than `min_delta`."""
        values = {"train_loss": event.train_loss, **event.valid}
        if self.monitor not in values:
            near = difflib.get_close_matches(self.monitor, values, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(values)}"
            raise KeyError(f"nothing is called {self.monitor!r} to monitor; {hint}")
        value = values[self.monitor]
        lower = self.mode == "min" or (
            self.mode is None and self.monitor.endswith(_LOWER_IS_BETTER)
        )
        gain = self.best - value if lower else value - self.best
        if not math.isnan(value) and (math.isnan(self.best) or gain > self.min_delta):
            self.best = value
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
