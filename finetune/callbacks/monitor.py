"""Monitor: the value that EarlyStopping and SaveBest watch, and when it is the best so far."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from finetune import arguments
from finetune.tasks.ranking import Direction, better_direction, names_of_known_direction
from finetune.training.events import EpochEnd, FitStart
from finetune.wording import did_you_mean


@dataclass(slots=True)
class Monitor:
    """Watches one value of each epoch and remembers its best.

    monitor: "loss" (validation), "train_loss" or a metric's name. mode: whether the smallest or
    the largest value is the best; None decides by the end of the name. min_delta: by how much a
    value must be better than the best so far.
    """

    monitor: str = "loss"
    mode: Direction | None = None
    min_delta: float = 0.0
    best: float = field(default=math.nan, init=False)

    def __post_init__(self) -> None:
        arguments.text("monitor", self.monitor)
        arguments.choice("mode", self.mode, ["min", "max", None])
        arguments.real_number("min_delta", self.min_delta, at_least=0)
        if self.mode is None:
            self.mode = self._mode_of_name()

    def _mode_of_name(self) -> Direction:
        direction = better_direction(self.monitor)
        if direction is None:
            hint = did_you_mean(self.monitor, names_of_known_direction())
            raise ValueError(
                f"monitor={self.monitor!r}: is a lower or a higher one better? pass mode='min' or "
                f"'max'; or {hint}"
            )
        return direction

    def check(self, event: FitStart) -> None:
        """Raises ValueError, before the first epoch, for a name that no epoch will have."""
        names = ["train_loss"]
        if event.validates:
            names += ["loss", *event.metrics]
        self._check_is_among(names)

    def _check_is_among(self, names: Collection[str]) -> None:
        if self.monitor not in names:
            hint = did_you_mean(self.monitor, names)
            raise ValueError(f"monitor={self.monitor!r} is nothing that an epoch gives; {hint}")

    def improved(self, event: EpochEnd) -> bool:
        """Whether this epoch is the best so far, by more than `min_delta`."""
        values = {"train_loss": event.train_loss, **event.valid}
        self._check_is_among(values)
        value = values[self.monitor]
        gain = value - self.best
        if self.mode == "min":
            gain = self.best - value
        is_first = math.isnan(self.best)
        if math.isnan(value) or not (is_first or gain > self.min_delta):
            return False
        self.best = value
        return True

    def reset(self) -> None:
        """Forgets the best value."""
        self.best = math.nan

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
