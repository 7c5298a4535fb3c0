"""Weights & Biases: plans as the config, losses, metrics and rates as the history of a run."""

from collections.abc import Mapping
from typing import Any

from finetune import arguments, distributed
from finetune.callbacks.optional import require
from finetune.training.events import (
    Callback,
    EpochEnd,
    EpochStart,
    FitEnd,
    FitStart,
    PhaseStart,
    StepEnd,
)

_STEP = "step"
"""The metric that is the axis of all others: the number of steps over all phases and fits."""
_EXIT_CODES = {"failed": 1, "interrupted": 255}
"""By the first word of why a fit ended; Weights & Biases calls 255 killed, and others crashed."""


class Wandb(Callback):
    """Logs to the active run of Weights & Biases, or else to one of its own, for all fits.

    project, name: of its own run; None leaves them to wandb. Where it goes is set in wandb, too:
    `wandb login`, or WANDB_MODE=offline, which keeps the run in a folder for `wandb sync`.
    Config: groups, phases, and of each phase its epochs, frozen groups and largest rates, under
    "plan"; of a second fit under "plan 2". History over `step`, the number of steps: train_loss,
    valid_loss and valid_<metric> of each epoch; step_loss and `lr/<group>` at every `every`-th step
    of an epoch. A fit that is resumed from a checkpoint goes on in its run, and logs the steps
    after the checkpoint once more.
    Raises ModuleNotFoundError without the package wandb.

    >>> callbacks = [Wandb("photos", name="convnext_tiny", every=10)]
    """

    def __init__(
        self, project: str | None = None, *, name: str | None = None, every: int = 50
    ) -> None:
        for argument, value in (("project", project), ("name", name)):
            if value is not None:
                arguments.text(argument, value)
        self.every = arguments.whole_number("every", every, at_least=1)
        require("wandb", "Wandb")
        self.project = project
        self.name = name
        self.run_id: str | None = None
        # over all fits of the learner
        self._steps = 0
        self._fit_number = 0
        # of the present fit
        self._fit = FitStart((), 0, 0, (), 0)
        self._has_number = False
        self._plan: dict[str, Any] = {}
        self._run: Any = None  # only the first process has one
        self._owns_run = False

    def on_fit_start(self, event: FitStart) -> None:
        self._fit = event
        self._has_number = False
        self._plan = {
            "phases": list(event.phases),
            "epochs": event.epochs,
            "steps_per_epoch": event.steps_per_epoch,
            "groups": list(event.groups),
        }
        if distributed.rank() == 0:
            self._enter_run()

    def on_phase_start(self, event: PhaseStart) -> None:
        of_phase: dict[str, Any] = {"epochs": event.epochs, "frozen_groups": event.frozen}
        for name, peaks in event.peaks.items():
            of_phase[name] = dict(zip(self._fit.groups, peaks, strict=True))
        self._plan[event.phase] = of_phase

    def on_epoch_start(self, event: EpochStart) -> None:
        if not self._has_number:
            self._has_number = True
            is_resumed = self._fit.first_epoch > 0 or event.first_step > 0
            if not is_resumed or self._fit_number == 0:
                self._fit_number += 1
        if self._run is not None:
            key = "plan" if self._fit_number == 1 else f"plan {self._fit_number}"
            self._run.config.update({key: self._plan}, allow_val_change=True)

    def on_step_end(self, event: StepEnd) -> None:
        self._steps += 1
        if event.step % self.every == 0:
            values = {"step_loss": event.loss}
            for group, lr in zip(self._fit.groups, event.lr, strict=True):
                values[f"lr/{group}"] = lr
            self._log(values)

    def on_epoch_end(self, event: EpochEnd) -> None:
        values = {"train_loss": event.train_loss}
        for name, value in event.valid.items():
            values[f"valid_{name}"] = value
        values["seconds"] = event.seconds
        self._log(values)

    def on_fit_end(self, event: FitEnd) -> None:
        run, owns_run = self._run, self._owns_run
        self._run = None
        self._owns_run = False
        if owns_run:
            reason = event.reason.partition(":")[0]
            run.finish(exit_code=_EXIT_CODES.get(reason, 0))

    def _enter_run(self) -> None:
        """Takes the active run, or else starts one or goes on with that of the fit before."""
        import wandb

        self._run = wandb.run
        if self._run is None:
            self._run = wandb.init(
                project=self.project, name=self.name, id=self.run_id, resume="allow"
            )
            self._owns_run = True
        self.run_id = self._run.id
        # wandb's own count of steps can't go back, as that of a resumed fit does
        self._run.define_metric("*", step_metric=_STEP)

    def _log(self, values: Mapping[str, float]) -> None:
        if self._run is not None:
            numbers = {name: float(value) for name, value in values.items()}
            self._run.log({**numbers, _STEP: self._steps})

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "steps": self._steps, "fits": self._fit_number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run_id = state["run_id"]
        self._steps = state["steps"]
        self._fit_number = state["fits"]
