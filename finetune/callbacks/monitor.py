"""Monitor: the value that EarlyStopping and SaveBest watch, and when it is the best so far."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune.training.events import EpochEnd
from finetune.wording import did_you_mean

_LOWER = ("loss", "error", "error_rate", "mae", "mse", "rmse")
_HIGHER = (
    *("accuracy", "f1", "f1_micro", "f1score", "exact_match"),
    *("precision", "recall", "auroc", "r2"),
)


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
        if self.mode is None:
            lower, higher = (self.monitor.endswith(known) for known in (_LOWER, _HIGHER))
            if not lower and not higher:
                raise ValueError(
                    f"is a lower or a higher {self.monitor!r} better? pass mode='min' or 'max'; or "
                    + did_you_mean(self.monitor, (*_LOWER, *_HIGHER))
                )
            self.mode = "min" if lower else "max"

    def improved(self, event: EpochEnd) -> bool:
        """Whether this epoch is the best so far, by more than `min_delta`."""
        values = {"train_loss": event.train_loss, **event.valid}
        if self.monitor not in values:
            hint = did_you_mean(self.monitor, values)
            raise KeyError(f"nothing is called {self.monitor!r} to monitor; {hint}")
        value = values[self.monitor]
        gain = self.best - value if self.mode == "min" else value - self.best
        if not math.isnan(value) and (math.isnan(self.best) or gain > self.min_delta):
            self.best = value
            return True
        return False

    def reset(self) -> None:
        """Forgets the best value."""
        self.best = math.nan

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
