"""DivergenceError: a non-finite training loss, with the place where it happened."""

from collections.abc import Sequence
from pathlib import Path

from finetune.training.events import StepEnd


class DivergenceError(ArithmeticError):
    """The training loss or a weight is NaN or infinite."""

    def at(self, row: StepEnd, groups: Sequence[str], checkpoint: Path | None) -> "DivergenceError":
        """The same error with the place where it happened, and what to do.

        groups: names of all layer groups. checkpoint: the run's path of one, which is not affected
        if it has been written.
        """
        rates = []
        for group, lr in zip(groups, row.lr, strict=True):
            rates.append(f"{group} {lr:.2g}")
        training_rates = ", ".join(rates[row.frozen :])
        message = (
            f"{self} at step {row.step} of epoch {row.epoch} in phase {row.phase!r} "
            f"(learning rates: {training_rates}); lower the learning rate or set clip_norm"
        )
        if checkpoint is not None and checkpoint.exists():
            message += f"; the last checkpoint, {checkpoint}, is intact"
        return DivergenceError(message)
