"""DivergenceError: a loss that is no number, with the place where it happened."""

from collections.abc import Sequence
from pathlib import Path

from finetune.training.events import StepEnd


class DivergenceError(ArithmeticError):
    """The training loss is NaN or infinite."""

    def at(self, row: StepEnd, groups: Sequence[str], checkpoint: Path | None) -> "DivergenceError":
        """With the place where it happened, and what to do."""
        named = list(zip(groups, row.lr, strict=True))[row.frozen :]
        rates = ", ".join(f"{name} {lr:.2g}" for name, lr in named)
        kept = "" if checkpoint is None else f"; the last checkpoint, {checkpoint}, is intact"
        return DivergenceError(
            f"{self} at step {row.step} of epoch {row.epoch} in phase {row.phase!r} "
            f"(learning rates: {rates}); lower the learning rate or set clip_norm{kept}"
        )
