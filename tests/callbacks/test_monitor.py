"""Monitor: which value is watched, and when it is the best so far."""

import math
from functools import partial
from typing import Any

import pytest
from support import tiny_data, tiny_learner

from finetune import DataLoaders, EarlyStopping, SaveBest
from finetune.callbacks.monitor import Monitor
from finetune.tasks import registered_tasks
from finetune.training.events import EpochEnd

LOWER = {"error_rate", "mae", "mse", "rmse"}
NAMES = sorted({name for task in registered_tasks() for name in task.named_metrics()})


def improvements(monitor: Monitor, name: str, values: list[float]) -> list[bool]:
    return [monitor.improved(EpochEnd("fit", i, 0.0, {name: v})) for i, v in enumerate(values)]


@pytest.mark.parametrize("name", ["loss", "top_1_error"])
def test_losses_and_errors_should_fall(name: str):
    assert improvements(Monitor(name), name, [0.5, 0.6, 0.4]) == [True, False, True]


@pytest.mark.parametrize("name", ["accuracy", "f1"])
def test_everything_else_should_rise(name: str):
    assert improvements(Monitor(name), name, [0.5, 0.4, 0.6]) == [True, False, True]


@pytest.mark.parametrize("name", NAMES)
def test_the_direction_of_every_metric_of_the_library_is_known(name: str):
    falls = [True, name in LOWER, name not in LOWER]
    assert improvements(Monitor(name), name, [0.5, 0.4, 0.6]) == falls


def test_the_training_loss_can_be_watched():
    monitor = Monitor("train_loss")
    assert [monitor.improved(EpochEnd("fit", 0, loss)) for loss in (2.0, 3.0)] == [True, False]


def test_mode_says_otherwise():
    assert improvements(Monitor("loss", "max"), "loss", [0.5, 0.6]) == [True, True]
    assert improvements(Monitor("spread", "min"), "spread", [0.5, 0.4]) == [True, True]


def test_an_equal_value_is_no_improvement():
    assert improvements(Monitor("loss"), "loss", [0.5, 0.5]) == [True, False]


def test_less_than_min_delta_is_no_improvement():
    monitor = Monitor("loss", min_delta=0.1)
    assert improvements(monitor, "loss", [0.5, 0.45, 0.39]) == [True, False, True]


def test_no_number_is_never_an_improvement():
    values = [math.nan, 0.5, math.nan, 0.4]
    assert improvements(Monitor("loss"), "loss", values) == [False, True, False, True]


def test_a_wrong_mode_is_told():
    with pytest.raises(ValueError, match="'min', 'max', None, got 'lowest'"):
        Monitor("loss", "lowest")


def test_a_name_nearly_right_gets_a_hint():
    message = "monitor='acuracy' is nothing that an epoch gives; did you mean 'accuracy'"
    with pytest.raises(ValueError, match=message):
        improvements(Monitor("acuracy", "max"), "accuracy", [0.5])


@pytest.mark.parametrize("callback", [EarlyStopping, partial(SaveBest, "best.ckpt")])
def test_a_wrong_name_is_told_before_the_first_epoch(callback: Any):
    learner = tiny_learner(metrics="accuracy")
    message = "monitor='acuracy' is nothing that an epoch gives; did you mean 'accuracy'"
    with pytest.raises(ValueError, match=message):
        learner.fit(1, callbacks=[callback(monitor="acuracy", mode="max")])
    assert learner.history.steps == []


def test_without_validation_there_is_only_the_training_loss():
    learner = tiny_learner(data=DataLoaders(tiny_data().train))
    with pytest.raises(ValueError, match=r"monitor='loss' is nothing .* 'train_loss'\?$"):
        learner.fit(1, callbacks=[EarlyStopping()])
    learner.fit(1, callbacks=[EarlyStopping("train_loss")])


def test_a_name_quite_wrong_gets_the_list():
    with pytest.raises(ValueError, match="there are train_loss, accuracy"):
        improvements(Monitor("zzz", "max"), "accuracy", [0.5])


def test_the_best_value_is_its_state():
    monitor, other = Monitor("loss"), Monitor("loss")
    improvements(monitor, "loss", [0.5])
    other.load_state_dict(monitor.state_dict())
    assert improvements(other, "loss", [0.6, 0.4]) == [False, True]


def test_a_name_that_does_not_tell_the_direction_needs_a_mode():
    with pytest.raises(
        ValueError, match="monitor='spread': is a lower or a higher one better\\? pass mode='min'"
    ):
        Monitor("spread")
    assert improvements(Monitor("spread", "min"), "spread", [0.5, 0.4, 0.6]) == [True, True, False]
