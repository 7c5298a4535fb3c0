"""StepSettings: the options of a training step."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What a training step does besides forward, backward and update.

    accumulate: batches per update. clip_norm: largest norm of the gradient, None for any.
    mixup, cutmix: alpha of the Beta distribution, 0 for none, see `mixing`. label_smoothing: the
    fraction of each target that is spread over all classes. ema: decay of the averaged weights,
    None for no average, see `Average`.
    """

    accumulate: int = 1
    clip_norm: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    ema: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.accumulate, int) or self.accumulate < 1:
            raise ValueError(
                f"accumulate must be a positive number of batches: {self.accumulate!r}"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}")
        for name in ("mixup", "cutmix"):
            alpha = getattr(self, name)
            # True is a number to Python, and here somebody's wish to switch something on
            if isinstance(alpha, bool) or not 0 <= alpha < math.inf:
                raise ValueError(
                    f"{name} is the alpha of a Beta distribution, such as 0.2 or 1.0, and 0 for "
                    f"none, got {alpha!r}"
                )
        if isinstance(self.label_smoothing, bool) or not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing needs 0 <= label_smoothing < 1, got {self.label_smoothing!r}"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(
                f"ema is the decay of an average, such as 0.999, and None for none, got {self.ema}"
            )

    def to_dict(self) -> dict[str, float | None]:
        """The settings that a resumed run must have, too, as plain data."""
        ema = self.ema
        if ema is not None:
            ema = float(ema)
        return {
            "mixup": float(self.mixup),
            "cutmix": float(self.cutmix),
            "label_smoothing": float(self.label_smoothing),
            "ema": ema,
        }
