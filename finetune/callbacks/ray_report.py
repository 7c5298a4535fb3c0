"""RayReport: what Ray Train learns of a run, and gives back to a worker that takes it over."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from finetune import distributed
from finetune.callbacks.optional import require
from finetune.files.temporary import TemporaryFolder
from finetune.training.events import Callback, EpochEnd, EpochStart, FitEnd, FitStart

_FILE = "run.ckpt"


class RayReport(Callback):
    """Reports the epochs of a fit to Ray Train, with a checkpoint that a lost worker goes on from.

    Make it in the function that Ray's `TorchTrainer` runs, and pass its `checkpoint` to the fit.
    Metrics of an epoch: train_loss, valid_loss, valid_<metric>, phase, epoch (in the phase, from 1)
    and seconds. When Ray starts the workers anew, since one of them or its machine was lost, the
    fit goes on after the last epoch that was reported, and ends as it would have done, bit for bit.
    checkpoint: a file of this worker's, for the fit's `checkpoint=`.
    Raises ModuleNotFoundError without the package ray, RuntimeError outside of a worker of Ray's.

    >>> def train(config):
    ...     learner = vision_learner(data, config["backbone"])
    ...     report = RayReport()
    ...     learner.fine_tune(3, checkpoint=report.checkpoint, callbacks=[report])
    """

    def __init__(self) -> None:
        require("ray", "RayReport", extra="ray")
        from ray import train

        try:
            reported = train.get_checkpoint()
        except Exception as error:  # of classes that differ between the versions of Ray
            raise RuntimeError(
                "RayReport is for the function that a TorchTrainer of Ray runs, and this is no "
                f"worker of Ray's ({error})"
            ) from error
        self._folder = TemporaryFolder("finetune-ray")
        self.checkpoint = self._folder.path / _FILE
        if reported is not None and distributed.is_first():
            with reported.as_directory() as folder:
                shutil.copyfile(Path(folder) / _FILE, self.checkpoint)
        self._metrics: dict[str, Any] | None = None

    def on_fit_start(self, event: FitStart) -> None:
        self._metrics = None

    def on_epoch_start(self, event: EpochStart) -> None:
        # only now there is a checkpoint after the epoch before this one
        self._report()

    def on_epoch_end(self, event: EpochEnd) -> None:
        metrics: dict[str, Any] = {"phase": event.phase, "epoch": event.epoch + 1}
        metrics["train_loss"] = event.train_loss
        for name, value in event.valid.items():
            metrics[f"valid_{name}"] = value
        metrics["seconds"] = event.seconds
        self._metrics = metrics

    def on_fit_end(self, event: FitEnd) -> None:
        if not event.reason.startswith("failed"):
            self._report()

    def _report(self) -> None:
        """Reports the last epoch that has not been reported; in all workers, as Ray wants it."""
        from ray import train

        if self._metrics is None:
            return
        metrics, self._metrics = self._metrics, None
        if not self.checkpoint.exists():  # it is the first worker's
            train.report(metrics)
            return
        # in the same folder, where a killed worker leaves nothing for good
        with tempfile.TemporaryDirectory(dir=self._folder.path) as folder:
            shutil.copyfile(self.checkpoint, Path(folder) / _FILE)
            train.report(metrics, checkpoint=train.Checkpoint.from_directory(folder))
