"""MLflow: what its own client finds in a store on disk."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import StopAt, tiny_data, tiny_learner

from finetune import Callback, Learner, MLflow, Save
from finetune.training.events import StepEnd


@pytest.fixture
def mlflow(monkeypatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # needs no database
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


class Killed(Callback):
    """The last checkpoint is after 7 steps; the end comes after `steps`."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps, self.done = path, steps, 0

    def on_step_end(self, event: StepEnd) -> Save | None:
        self.done += 1
        if self.done == self.steps:
            raise OSError("killed")
        return Save(self.path) if self.done == 7 else None


def learner_with(callback: MLflow, **options: object) -> Learner:
    """Five steps an epoch."""
    return tiny_learner(
        data=tiny_data(count=20), callbacks=[callback], metrics=["accuracy"], **options
    )


def points(mlflow: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    rows = mlflow.MlflowClient().get_metric_history(run_id, name)
    return [(row.step, row.value) for row in rows]


def test_a_run_has_the_plan_and_the_metrics(mlflow):
    callback = MLflow("flowers", run_name="first", every=2)
    learner = learner_with(callback)
    learner.fine_tune(2, base_lr=1e-2)
    run = mlflow.get_run(callback.run_id)
    assert run.info.run_name == "first"
    assert run.info.status == "FINISHED"
    assert mlflow.get_experiment(run.info.experiment_id).name == "flowers"
    assert run.data.params == {
        "plan.phases": "frozen, unfrozen",
        "plan.epochs": "3",
        "plan.steps_per_epoch": "5",
        "plan.groups": "0, 1",
        "plan.frozen.epochs": "1",
        "plan.frozen.frozen_groups": "1",
        "plan.frozen.lr": "0=0.001, 1=0.01",
        "plan.frozen.momentum": "0=0.95, 1=0.95",
        "plan.unfrozen.epochs": "2",
        "plan.unfrozen.frozen_groups": "0",
        "plan.unfrozen.lr": "0=5e-05, 1=0.005",
        "plan.unfrozen.momentum": "0=0.95, 1=0.95",
    }
    epochs, steps = learner.history.epochs, learner.history.steps
    losses = [(5 * i + 5, row.valid["loss"]) for i, row in enumerate(epochs)]
    assert points(mlflow, callback.run_id, "valid_loss") == losses
    assert [v for _, v in points(mlflow, callback.run_id, "train_loss")] == [
        row.train_loss for row in epochs
    ]
    assert len(points(mlflow, callback.run_id, "valid_accuracy")) == 3
    shown = [i for i, row in enumerate(steps) if row.step % 2 == 0]
    for name, wanted in {
        "step_loss": [steps[i].loss for i in shown],
        "lr/1": [steps[i].lr[1] for i in shown],
    }.items():
        assert points(mlflow, callback.run_id, name) == [
            (i + 1, value) for i, value in zip(shown, wanted, strict=True)
        ]


def test_a_second_fit_is_in_the_same_run(mlflow):
    callback = MLflow()
    learner = learner_with(callback)
    learner.fit(1)
    first = callback.run_id
    learner.fit(2)
    run = mlflow.get_run(first)
    assert callback.run_id == first
    assert (run.data.params["plan.epochs"], run.data.params["plan 2.epochs"]) == ("1", "2")
    assert [step for step, _ in points(mlflow, first, "train_loss")] == [5, 10, 15]
    assert mlflow.active_run() is None


@pytest.mark.parametrize("steps", [2, 7])
def test_a_resumed_fit_goes_on_in_its_run_with_its_plan(mlflow, tmp_path: Path, steps: int):
    callback, again = MLflow(), MLflow()
    learner = learner_with(callback)
    learner.fine_tune(1, callbacks=[StopAt(steps)])
    learner.save(tmp_path / "a.ckpt")
    other = learner_with(again)
    other.load(tmp_path / "a.ckpt")
    other.resume()
    assert again.run_id == callback.run_id
    assert not any(name.startswith("plan 2") for name in mlflow.get_run(again.run_id).data.params)
    assert [step for step, _ in points(mlflow, again.run_id, "train_loss")] == [5, 10]


# after 10, those of two epochs, validation has still to come
@pytest.mark.parametrize("steps", [9, 10, 12])
def test_what_a_killed_fit_logged_after_its_checkpoint_is_not_logged_again(
    mlflow, tmp_path: Path, steps: int
):
    path, callback, again = tmp_path / "a.ckpt", MLflow(every=1), MLflow(every=1)
    with pytest.raises(OSError, match="killed"):
        learner_with(callback).fit(3, callbacks=[Killed(path, steps)])
    other = learner_with(again)
    other.load(path)
    other.resume()
    assert again.run_id == callback.run_id
    for name, wanted in {"step_loss": list(range(1, 16)), "valid_loss": [5, 10, 15]}.items():
        assert [step for step, _ in points(mlflow, again.run_id, name)] == wanted


def test_a_new_fit_from_an_old_checkpoint_is_logged(mlflow, tmp_path: Path):
    path, again = tmp_path / "a.ckpt", MLflow(every=1)
    learner_with(MLflow(every=1)).fit(2, callbacks=[Killed(path, 99)])
    other = learner_with(again)
    other.load(path)
    other.fit(1)
    steps = [step for step, _ in points(mlflow, again.run_id, "step_loss")]
    assert steps == [*range(1, 11), *range(8, 13)]


def test_a_fit_that_is_resumed_after_another_one_is_logged(mlflow, tmp_path: Path):
    path, callback, again = tmp_path / "a.ckpt", MLflow(every=1), MLflow(every=1)
    learner = learner_with(callback)
    learner.fit(2, callbacks=[Killed(path, 99), StopAt(7)])
    learner.fit(2)
    other = learner_with(again)
    other.load(path)
    other.resume()
    steps = [step for step, _ in points(mlflow, again.run_id, "step_loss")]
    assert steps == [*range(1, 18), 8, 9, 10]


def test_a_resumed_fit_in_an_active_run_is_logged_beside_what_others_log(mlflow, tmp_path: Path):
    path = tmp_path / "a.ckpt"
    with mlflow.start_run() as run:
        learner = learner_with(MLflow(every=1))
        learner.fit(2, callbacks=[Killed(path, 99), StopAt(7)])
        mlflow.log_metric("step_loss", 0.5, step=100)
        learner.resume()
    steps = [step for step, _ in points(mlflow, run.info.run_id, "step_loss")]
    assert steps == [*range(1, 8), 100, 8, 9, 10]


def test_a_run_that_is_active_is_used_and_stays_active(mlflow):
    callback = MLflow("not this one")
    with mlflow.start_run() as mine:
        mlflow.log_param("epochs", 7)
        learner_with(callback).fit(1)
        assert mlflow.active_run().info.run_id == mine.info.run_id
    assert callback.run_id == mine.info.run_id
    params = mlflow.get_run(mine.info.run_id).data.params
    assert (params["epochs"], params["plan.epochs"]) == ("7", "1")
    assert mlflow.get_experiment_by_name("not this one") is None


def test_a_run_says_how_it_ended(mlflow):
    class Interrupt(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    class Fail(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            raise OSError("the disk is full")

    callback = MLflow()
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        learner_with(callback).fit(1, callbacks=[Interrupt()])
    assert mlflow.get_run(callback.run_id).info.status == "KILLED"
    callback = MLflow()
    with pytest.raises(OSError, match="the disk is full"):
        learner_with(callback).fit(1, callbacks=[Fail()])
    assert mlflow.get_run(callback.run_id).info.status == "FAILED"
    assert mlflow.active_run() is None


def test_names_of_groups_that_mlflow_does_not_allow(mlflow):
    callback = MLflow()
    learner = tiny_learner(
        data=tiny_data(count=8), callbacks=[callback], split={"0": "stem*", "1": "head"}
    )
    learner.fit(1)
    assert "lr/stem_" in mlflow.get_run(callback.run_id).data.metrics


def test_many_groups_fit_into_a_parameter(mlflow):
    callback = MLflow()
    tiny_learner(60, data=tiny_data(count=8), callbacks=[callback]).fit(1, slice(1e-4, 1e-2))
    params = mlflow.get_run(callback.run_id).data.params
    assert params["plan.fit.lr"] == "0=0.0001, ..., 59=0.01"


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'finetune-vision\[tracking\]'"):
        MLflow()


def test_a_number_of_steps_that_is_none():
    with pytest.raises(ValueError, match="every must be a whole number of at least 1, got 0"):
        MLflow(every=0)


def test_two_learners_share_an_active_run(mlflow):
    with mlflow.start_run() as run:
        for epochs in (1, 2):
            tiny_learner().fit(epochs, callbacks=[MLflow()])
    params = mlflow.MlflowClient().get_run(run.info.run_id).data.params
    assert (params["plan.epochs"], params["plan 2.epochs"]) == ("1", "2")
