"""TensorBoard: losses, metrics and rates as scalars."""

from pathlib import Path
from typing import Any

from finetune import arguments, distributed
from finetune.callbacks.optional import require
from finetune.training.events import Callback, EpochEnd, FitEnd, FitStart, StepEnd


class TensorBoard(Callback):
    """Writes scalars to `folder` for `tensorboard --logdir`; one folder a learner.

    At every `every`-th step of an epoch it writes `loss/step` and, for each layer group,
    `lr/<group>`; after an epoch `loss/train`, `loss/valid` and `metrics/<name>`. The axis is the
    number of steps over all phases and fits. The steps that a resumed fit repeats replace those
    that were written before.
    Raises ModuleNotFoundError without the package tensorboard.

    >>> from finetune import ImageDataLoaders, vision_learner
    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    >>> import os
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     learner.fine_tune(1, callbacks=[TensorBoard(folder)])
    ...     len(os.listdir(folder))
    1
    """

    def __init__(self, folder: str | Path, *, every: int = 10) -> None:
        self.folder = arguments.path("folder", folder)
        self.every = arguments.whole_number("every", every, at_least=1)
        require("tensorboard", "TensorBoard")
        self._groups: tuple[str, ...] = ()
        self._steps = 0
        self._writer: Any = None

    def on_fit_start(self, event: FitStart) -> None:
        self._groups = event.groups
        if distributed.rank() == 0:
            from torch.utils.tensorboard import SummaryWriter

            # an interrupted process may have written steps after its last checkpoint
            first_new_step = None
            if self._steps:
                first_new_step = self._steps + 1
            self._writer = SummaryWriter(self.folder, purge_step=first_new_step)

    def on_step_end(self, event: StepEnd) -> None:
        self._steps += 1
        if self._writer is None or event.step % self.every:
            return
        self._write("loss/step", event.loss)
        for group, lr in zip(self._groups, event.lr, strict=True):
            self._write(f"lr/{group}", lr)

    def on_epoch_end(self, event: EpochEnd) -> None:
        if self._writer is None:
            return
        self._write("loss/train", event.train_loss)
        for name, value in event.valid.items():
            tag = "loss/valid" if name == "loss" else f"metrics/{name}"
            self._write(tag, value)
        self._writer.flush()

    def on_fit_end(self, event: FitEnd) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, tag: str, value: float) -> None:
        self._writer.add_scalar(tag, value, self._steps)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
