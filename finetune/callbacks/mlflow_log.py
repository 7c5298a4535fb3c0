"""MLflow: plans as parameters, losses, metrics and rates as metrics of a run."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune import distributed
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

_LONGEST = 250
"""Characters of a parameter, for every server."""


class MLflow(Callback):
    """Logs to the run that is active, or to one of its own, the same for all fits of a learner.

    experiment, run_name: of its own run; None: as MLflow says. Where it is kept is MLflow's to
    know: `mlflow.set_tracking_uri` or MLFLOW_TRACKING_URI.
    Parameters: groups, phases, and each phase's epochs, frozen groups and largest rates, as
    `plan.<phase>.lr`; those of a second fit begin with `plan 2.`. Metrics over the number of steps:
    train_loss, valid_loss and valid_<metric> of each epoch; step_loss and `lr/<group>` at every
    `every`-th step of an epoch. What a resumed fit repeats is logged once in its own run, but
    again in one that was active.
    Raises ModuleNotFoundError without the package mlflow (mlflow-skinny will do).
    """

    def __init__(
        self, experiment: str | None = None, *, run_name: str | None = None, every: int = 50
    ) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every is a number of steps, 1 or more, got {every!r}")
        require("mlflow", "MLflow")
        self.experiment, self.run_name, self.every = experiment, run_name, every
        self.run_id: str | None = None
        self._groups: tuple[str, ...] = ()
        self._steps = self._fits = 0
        self._plan: dict[str, object] = {}
        self._logged: dict[str, int] = {}  # the last steps before a resume
        self._continued = self._logs = self._owns = False

    def on_fit_start(self, event: FitStart) -> None:
        self._groups, self._continued = event.groups, event.first_epoch > 0
        self._logged = {}
        self._plan = {
            "phases": ", ".join(event.phases),
            "epochs": event.epochs,
            "steps_per_epoch": event.steps_per_epoch,
            "groups": _short(event.groups),
        }
        if distributed.rank() == 0:
            self._enter_run()
        if event.first_epoch:
            self._find_logged()

    def on_phase_start(self, event: PhaseStart) -> None:
        self._plan[f"{event.phase}.epochs"] = event.epochs
        self._plan[f"{event.phase}.frozen_groups"] = event.frozen
        for name, values in event.peaks.items():
            pairs = zip(self._groups, values, strict=True)
            own = [f"{group}={value:.6g}" for group, value in pairs]
            self._plan[f"{event.phase}.{name}"] = _short(own)

    def on_epoch_start(self, event: EpochStart) -> None:
        if not self._plan:
            return
        if event.first_step:  # only now it is known
            self._continued = True
            self._find_logged()
        fresh, self._continued = not self._continued, True
        plan, self._plan = self._plan, {}
        if not self._logs:
            self._fits = max(1, self._fits + fresh)
            return
        import mlflow

        assert self.run_id is not None
        if fresh:  # the run may have plans of other learners, and a parameter can't change
            taken = mlflow.MlflowClient().get_run(self.run_id).data.params
            self._fits = 1
            while _key(f"{_start(self._fits)}.epochs") in taken:
                self._fits += 1
        self._fits = max(1, self._fits)
        params = {_key(f"{_start(self._fits)}.{name}"): value for name, value in plan.items()}
        mlflow.log_params(params, run_id=self.run_id)

    def on_step_end(self, event: StepEnd) -> None:
        self._steps += 1
        if self._logs and event.step % self.every == 0:
            rates = zip(self._groups, event.lr, strict=True)
            self._log({"step_loss": event.loss, **{f"lr/{name}": lr for name, lr in rates}})

    def on_epoch_end(self, event: EpochEnd) -> None:
        if self._logs:
            valid = {f"valid_{name}": value for name, value in event.valid.items()}
            self._log({"train_loss": event.train_loss, **valid, "seconds": event.seconds})

    def on_fit_end(self, event: FitEnd) -> None:
        owned, self._logs, self._owns = self._owns, False, False
        if owned:
            import mlflow

            status = {"interrupted": "KILLED", "failed": "FAILED"}
            mlflow.end_run(status.get(event.reason.partition(":")[0], "FINISHED"))

    def _enter_run(self) -> None:
        import mlflow

        active = mlflow.active_run()
        if active is None:
            number = None
            if self.run_id is None and self.experiment is not None:
                known = mlflow.get_experiment_by_name(self.experiment)
                number = known.experiment_id if known else mlflow.create_experiment(self.experiment)
            active = mlflow.start_run(self.run_id, experiment_id=number, run_name=self.run_name)
            self._owns = True
        self.run_id, self._logs = active.info.run_id, True

    def _find_logged(self) -> None:
        """An interrupted process may have logged steps after its last checkpoint."""
        if not self._owns:  # others may log to it, and their steps are not ours
            return
        import mlflow

        assert self.run_id is not None
        client = mlflow.MlflowClient()
        if _key(f"{_start(self._fits + 1)}.epochs") in client.get_run(self.run_id).data.params:
            return  # the steps of a later fit are not those that are repeated
        for name in ("step_loss", "train_loss"):
            points = client.get_metric_history(self.run_id, name)
            self._logged[name] = max((point.step for point in points), default=0)

    def _log(self, values: Mapping[str, float]) -> None:
        """The first name tells the values of an epoch from those of a step."""
        import mlflow

        if self._steps <= self._logged.get(next(iter(values)), 0):
            return
        metrics = {_key(name): float(value) for name, value in values.items()}
        mlflow.log_metrics(metrics, step=self._steps, run_id=self.run_id)

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "steps": self._steps, "fits": self._fits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run_id, self._steps, self._fits = state["run_id"], state["steps"], state["fits"]


def _start(number: int) -> str:
    return "plan" if number == 1 else f"plan {number}"


def _key(name: str) -> str:
    """With the characters that MLflow allows in a name."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _short(parts: Sequence[str]) -> str:
    """All of them, or the first and the last where that is too long."""
    text = ", ".join(parts)
    return text if len(text) <= _LONGEST else f"{parts[0]}, ..., {parts[-1]}"
