"""SaveBest: keeps a checkpoint of the best epoch."""

import math
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
    A file that is there already must be of the same run: the best epoch of a run on other data, or
    with another plan or other settings, is not replaced but a CheckpointError.

    >>> from finetune import ImageDataLoaders, vision_learner
    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     learner.fine_tune(2, callbacks=[SaveBest(f"{folder}/best.ckpt", "accuracy")])
    ...     learner.load(f"{folder}/best.ckpt")
    """

    def __init__(
        self,
        path: str | Path,
        monitor: str = "loss",
        *,
        min_delta: float = 0.0,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        self.path = self.saves_to = arguments.path("path", path)
        self._monitor = Monitor(monitor, mode, min_delta)

    def on_fit_start(self, event: FitStart) -> None:
        self._monitor.check(event)

    def on_epoch_end(self, event: EpochEnd) -> Answer:
        if self._monitor.improved(event):
            self.knows_its_file = True
            return Save(self.path)
        return None

    def state_dict(self) -> dict[str, Any]:
        return self._monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._monitor.load_state_dict(state)
        self.knows_its_file = not math.isnan(self._monitor.best)
