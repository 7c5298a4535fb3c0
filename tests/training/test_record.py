"""What is recorded of a training: what ran, not what was planned."""

import pytest
from support import StopAt, setup_of, tiny_learner

from finetune import Learner
from finetune.training.record import Record, training_record


def record(learner: Learner) -> Record:
    history = learner.history
    return training_record(setup_of(learner), history.steps, history.epochs)


def test_all_phases_of_all_fits_are_there() -> None:
    learner = tiny_learner()
    learner.fine_tune(2, freeze_epochs=1)
    learner.fit(1, [1e-4, 1e-3])
    phases = record(learner).training.phases
    names, frozen = [phase.name for phase in phases], learner.layer_groups.names[0]
    assert names == ["frozen", "unfrozen", "fit"]
    assert [phase.epochs for phase in phases] == [1, 2, 1]
    assert [phase.frozen for phase in phases] == [(frozen,), (), ()]
    assert phases[2].peak_lr == (1e-4, 1e-3)


def test_the_validation_is_that_of_the_last_epoch() -> None:
    learner = tiny_learner(metrics=["accuracy"])
    learner.fit(2)
    assert record(learner).validation == learner.history.epochs[-1].valid


@pytest.mark.parametrize("steps", [3, 11])
def test_weights_that_went_on_training_have_no_validation(steps: int) -> None:
    learner = tiny_learner()
    learner.fit(2, callbacks=[StopAt(steps)])  # of 8 an epoch
    found = record(learner)
    assert found.validation == {}
    assert found.training.phases[0].steps == steps


def test_which_point_between_was_taken_is_recorded() -> None:
    learner = tiny_learner(3, metrics=["accuracy"])
    learner.fine_tune(2, 3e-1, interpolate=True)
    learner.fit(1)
    between = learner.history.epochs[2].between
    assert between is not None
    phases = record(learner).training.phases
    assert [phase.fraction for phase in phases] == [None, between.fraction, None]


def test_before_the_first_fit_there_is_nothing() -> None:
    found = record(tiny_learner())
    assert found.training.phases == ()
    assert (found.data, found.validation) == ({}, {})


def test_layer_groups_have_their_optimizer_and_decay() -> None:
    learner = tiny_learner()
    learner.layer_groups.set("weight_decay", [0.1, 0.2])
    groups = record(learner).training.groups
    assert [(g.optimizer, g.weight_decay) for g in groups] == [("AdamW", 0.1), ("AdamW", 0.2)]
    assert [g.parameters for g in groups] == [28, 10]
