"""MLflow: plans as parameters, losses, metrics and rates as metrics of a run."""

import re
from collections.abc import Mapping, Sequence
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

_LONGEST_PARAMETER = 250
"""Characters of a parameter's value that every MLflow server stores."""


class MLflow(Callback):
    """Logs to the active MLflow run, or else to one of its own, the same for all fits of a learner.

    experiment, run_name: of its own run; None leaves them to MLflow. Where runs are stored is set
    in MLflow, by `mlflow.set_tracking_uri` or MLFLOW_TRACKING_URI.
    Parameters: groups, phases, and each phase's epochs, frozen groups and largest rates, as
    `plan.<phase>.lr`; those of a second fit begin with `plan 2.`. Metrics over the number of steps:
    train_loss, valid_loss and valid_<metric> of each epoch; step_loss and `lr/<group>` at every
    `every`-th step of an epoch. A resumed fit repeats the steps after its checkpoint: they are
    logged once in a run of its own, but again in a run that was active.
    Raises ModuleNotFoundError without the package mlflow (mlflow-skinny will do).

    >>> callbacks = [MLflow("photos", run_name="convnext_tiny", every=10)]
    """

    def __init__(
        self, experiment: str | None = None, *, run_name: str | None = None, every: int = 50
    ) -> None:
        for name, value in (("experiment", experiment), ("run_name", run_name)):
            if value is not None:
                arguments.text(name, value)
        self.every = arguments.whole_number("every", every, at_least=1)
        require("mlflow", "MLflow")
        self.experiment = experiment
        self.run_name = run_name
        self.run_id: str | None = None
        # over all fits of the learner
        self._steps = 0
        self._fit_number = 0
        # of the present fit
        self._groups: tuple[str, ...] = ()
        self._first_epoch = 0
        self._has_number = False
        self._plan: dict[str, object] = {}  # parameters that are not logged yet
        self._is_logging = False  # only the first process does
        self._owns_run = False
        # metric -> the step up to which it was logged before the fit was resumed
        self._logged_until: dict[str, int] = {}

    def on_fit_start(self, event: FitStart) -> None:
        self._groups = event.groups
        self._first_epoch = event.first_epoch
        self._has_number = False
        self._logged_until = {}
        self._plan = {
            "phases": ", ".join(event.phases),
            "epochs": event.epochs,
            "steps_per_epoch": event.steps_per_epoch,
            "groups": _shorten(event.groups),
        }
        if distributed.rank() == 0:
            self._enter_run()

    def on_phase_start(self, event: PhaseStart) -> None:
        self._plan[f"{event.phase}.epochs"] = event.epochs
        self._plan[f"{event.phase}.frozen_groups"] = event.frozen
        for name, peaks in event.peaks.items():
            texts = []
            for group, peak in zip(self._groups, peaks, strict=True):
                texts.append(f"{group}={peak:.6g}")
            self._plan[f"{event.phase}.{name}"] = _shorten(texts)

    def on_epoch_start(self, event: EpochStart) -> None:
        # the plan waits for its phase's first epoch, as only that of the first phase says
        # whether the fit is resumed in the middle of an epoch
        if not self._has_number:
            self._has_number = True
            if self._first_epoch > 0 or event.first_step > 0:
                self._find_logged_steps()
                self._fit_number = max(1, self._fit_number)
            else:
                self._fit_number = self._new_fit_number()
        self._log_plan()

    def on_step_end(self, event: StepEnd) -> None:
        self._steps += 1
        if event.step % self.every == 0:
            values = {"step_loss": event.loss}
            for group, lr in zip(self._groups, event.lr, strict=True):
                values[f"lr/{group}"] = lr
            self._log("step_loss", values)

    def on_epoch_end(self, event: EpochEnd) -> None:
        values = {"train_loss": event.train_loss}
        for name, value in event.valid.items():
            values[f"valid_{name}"] = value
        values["seconds"] = event.seconds
        self._log("train_loss", values)

    def on_fit_end(self, event: FitEnd) -> None:
        owned_run = self._owns_run
        self._is_logging = False
        self._owns_run = False
        if owned_run:
            import mlflow

            status_by_reason = {"interrupted": "KILLED", "failed": "FAILED"}
            reason = event.reason.partition(":")[0]
            mlflow.end_run(status_by_reason.get(reason, "FINISHED"))

    def _enter_run(self) -> None:
        """Takes the active run, or else starts one or goes on with that of the fit before."""
        import mlflow

        run = mlflow.active_run()
        if run is None:
            experiment_id = None
            if self.run_id is None and self.experiment is not None:
                experiment_id = _experiment_id(self.experiment)
            run = mlflow.start_run(self.run_id, experiment_id=experiment_id, run_name=self.run_name)
            self._owns_run = True
        self.run_id = run.info.run_id
        self._is_logging = True

    def _new_fit_number(self) -> int:
        """The first number without a plan in the run, which other learners may log to, too."""
        if not self._is_logging:
            return self._fit_number + 1
        parameters = self._logged_parameters()
        number = 1
        while _plan_key(number, "epochs") in parameters:
            number += 1
        return number

    def _find_logged_steps(self) -> None:
        """Finds what an interrupted process logged after its last checkpoint."""
        # others may log to a run that was active, and their steps are not those of this fit
        if not self._owns_run:
            return
        # with a later fit in the run, the last steps are not those that are repeated
        if _plan_key(self._fit_number + 1, "epochs") in self._logged_parameters():
            return
        import mlflow

        assert self.run_id is not None
        client = mlflow.MlflowClient()
        for name in ("step_loss", "train_loss"):
            points = client.get_metric_history(self.run_id, name)
            self._logged_until[name] = max((point.step for point in points), default=0)

    def _logged_parameters(self) -> dict[str, str]:
        import mlflow

        assert self.run_id is not None
        parameters: dict[str, str] = mlflow.MlflowClient().get_run(self.run_id).data.params
        return parameters

    def _log_plan(self) -> None:
        if self._is_logging and self._plan:
            import mlflow

            parameters = {}
            for name, value in self._plan.items():
                parameters[_plan_key(self._fit_number, name)] = value
            mlflow.log_params(parameters, run_id=self.run_id)
        self._plan = {}

    def _log(self, metric: str, values: Mapping[str, float]) -> None:
        """Logs values at the present step, unless they were logged before the fit was resumed.

        metric: the one in `values` whose history in the run tells that.
        """
        if not self._is_logging or self._steps <= self._logged_until.get(metric, 0):
            return
        import mlflow

        metrics = {_allowed_name(name): float(value) for name, value in values.items()}
        mlflow.log_metrics(metrics, step=self._steps, run_id=self.run_id)

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "steps": self._steps, "fits": self._fit_number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run_id = state["run_id"]
        self._steps = state["steps"]
        self._fit_number = state["fits"]


def _experiment_id(name: str) -> str:
    """Of the experiment with this name, which is made if there is none."""
    import mlflow

    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        return mlflow.create_experiment(name)
    return experiment.experiment_id


def _plan_key(fit_number: int, name: str) -> str:
    """The name of a parameter: those of the first fit begin with `plan.`, then `plan 2.`."""
    if fit_number == 1:
        return _allowed_name(f"plan.{name}")
    return _allowed_name(f"plan {fit_number}.{name}")


def _allowed_name(name: str) -> str:
    """The name without the characters that MLflow does not allow."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _shorten(texts: Sequence[str]) -> str:
    """All the texts, or the first and the last where all are too long for a parameter."""
    joined = ", ".join(texts)
    if len(joined) <= _LONGEST_PARAMETER:
        return joined
    return f"{texts[0]}, ..., {texts[-1]}"
