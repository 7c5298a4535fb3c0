"""DivergenceError: a non-finite training loss, with the place where it happened."""

from collections.abc import Sequence
from pathlib import Path

from finetune.training.events import StepEnd


class DivergenceError(ArithmeticError):
    """The training loss or a weight is NaN or infinite.

    >>> from finetune import ImageDataLoaders, vision_learner
    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    >>> try:
    ...     learner.fit(1, 1e30)
    ... except DivergenceError as error:
    ...     print(str(error).partition(" at ")[0])
    the training loss is nan
    """

    def at(self, row: StepEnd, groups: Sequence[str], checkpoint: Path | None) -> "DivergenceError":
        """The same error with the place where it happened, and what to do.

        Steps and epochs count from 1, as in the tables. groups: names of all layer groups.
        checkpoint: the run's path of one, which is not affected if it has been written.
        """
        rates = []
        for group, lr in zip(groups, row.lr, strict=True):
            rates.append(f"{group} {lr:.2g}")
        training_rates = ", ".join(rates[row.frozen :])
        message = (
            f"{self} at step {row.step + 1} of epoch {row.epoch + 1} in phase {row.phase!r} "
            f"(learning rates: {training_rates}); lower the learning rate or set clip_norm"
        )
        if checkpoint is not None and checkpoint.exists():
            message += f"; the last checkpoint, {checkpoint}, is intact"
        return DivergenceError(message)
