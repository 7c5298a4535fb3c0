"""TensorBoard: losses, metrics and rates as scalars."""

from pathlib import Path
from typing import Any

from finetune import distributed
from finetune.callbacks.optional import require
from finetune.training.events import Callback, EpochEnd, FitEnd, FitStart, StepEnd


class TensorBoard(Callback):
    """Writes to `folder` for `tensorboard --logdir`; one folder a learner.

    At every `every`-th step of an epoch `loss/step` and, for each layer group, `lr/<group>`; after
    an epoch `loss/train`, `loss/valid` and `metrics/<name>`. The axis is the number of steps over
    all phases and fits. What a resumed fit repeats takes the place of what was there.
    Raises ModuleNotFoundError without the package tensorboard.
    """

    def __init__(self, folder: str | Path, *, every: int = 10) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every is a number of steps, 1 or more, got {every!r}")
        require("tensorboard", "TensorBoard")
        self.folder = Path(folder)
        self.every = every
        self._groups: tuple[str, ...] = ()
        self._steps = 0
        self._writer: Any = None

    def on_fit_start(self, event: FitStart) -> None:
        self._groups = event.groups
        if distributed.rank() == 0:
            from torch.utils.tensorboard import SummaryWriter

            # an interrupted process may have written steps after its last checkpoint
            purge = self._steps + 1 if self._steps else None
            self._writer = SummaryWriter(self.folder, purge_step=purge)

    def on_step_end(self, event: StepEnd) -> None:
        self._steps += 1
        if self._writer is None or event.step % self.every:
            return
        self._write({"loss/step": event.loss})
        self._write({f"lr/{n}": v for n, v in zip(self._groups, event.lr, strict=True)})

    def on_epoch_end(self, event: EpochEnd) -> None:
        if self._writer is None:
            return
        self._write({"loss/train": event.train_loss})
        for name, value in event.valid.items():
            self._write({"loss/valid" if name == "loss" else f"metrics/{name}": value})
        self._writer.flush()

    def on_fit_end(self, event: FitEnd) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, self._steps)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
