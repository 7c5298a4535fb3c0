"""OverflowWatch: whether float16 gradients were finite in any step, so that weights moved."""

from dataclasses import dataclass, field

import torch

from finetune.training.divergence import DivergenceError
from finetune.wording import counted, warn

_LOWEST_SCALE = 1.0
"""Below it gradients overflow although they are made smaller than they are."""


@dataclass(slots=True)
class OverflowWatch:
    """Counts steps without an update: the scaler leaves out those whose gradients overflow.

    That is usual in the first steps, until the scale fits. If it goes on, a run would end as if it
    had trained, and no weight has moved. To know it makes the host wait for the device, so it is
    looked at after an epoch.

    scaler: None for other precisions, in which there is nothing to watch.
    """

    scaler: torch.amp.GradScaler | None
    steps: int = 0
    has_moved: bool = False
    _steps_before: int = 0
    _scale_before: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        if self.scaler is not None:
            self._scale_before = self.scaler.get_scale()

    def check_steps(self) -> None:
        """Looks at the steps since the last call.

        Raises DivergenceError if no gradient was finite at any scale.
        """
        if self.scaler is None:
            return
        scale = self.scaler.get_scale()
        steps_since = self.steps - self._steps_before
        # every step that is left out makes the scale smaller
        lowest = self._scale_before * self.scaler.get_backoff_factor() ** steps_since
        if steps_since and scale > lowest:
            self.has_moved = True
        elif steps_since and scale < _LOWEST_SCALE:
            raise DivergenceError(
                f"the gradients are not finite in float16, in none of the last {steps_since} steps "
                "and with none of the scales that were tried, so that no weight moved; pass "
                "precision='bf16' or 'fp32'"
            )
        self._steps_before, self._scale_before = self.steps, scale

    def warn_if_nothing_moved(self) -> None:
        """To be called at the end of a run."""
        if self.scaler is not None and self.steps and not self.has_moved:
            warn(
                f"no weight moved: the float16 gradients overflowed in all of "
                f"{counted(self.steps, 'step')}; train for more steps, which find the scale that "
                "fits, or pass precision='bf16' or 'fp32'"
            )
