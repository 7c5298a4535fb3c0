"""EarlyStopping: patience counts epochs without a new best, anew in every phase."""

import math

import pytest
from support import tiny_data, tiny_learner

from finetune import EarlyStopping, Stop
from finetune.training.events import EpochEnd, PhaseStart


def answers(callback: EarlyStopping, losses: list[float]) -> list[Stop | None]:
    rows = [EpochEnd("fit", i, 0.0, {"loss": loss}) for i, loss in enumerate(losses)]
    return [callback.on_epoch_end(row) for row in rows]


def test_it_stops_after_patience_epochs_without_a_new_best():
    stop = Stop("loss no better than 0.4000 for 2 epochs", phase_only=True)
    assert answers(EarlyStopping(patience=2), [0.5, 0.4, 0.6, 0.5]) == [None, None, None, stop]


def test_a_new_best_starts_the_count_again():
    assert answers(EarlyStopping(patience=2), [0.5, 0.6, 0.4, 0.6, 0.3]) == [None] * 5


def test_a_new_phase_starts_the_count_again():
    callback = EarlyStopping(patience=2)
    answers(callback, [0.5, 0.6])
    callback.on_phase_start(PhaseStart("unfrozen", 3, 0))
    assert answers(callback, [0.6]) == [None]


def test_a_resumed_phase_goes_on_counting():
    callback = EarlyStopping(patience=2)
    answers(callback, [0.5, 0.6])
    callback.on_phase_start(PhaseStart("unfrozen", 3, 0, first_epoch=2))
    assert answers(callback, [0.6]) != [None]


def test_a_loss_that_is_no_number_does_not_count_as_better():
    assert answers(EarlyStopping(patience=2), [math.nan, math.nan])[-1] is not None


def test_patience_is_at_least_one_epoch():
    with pytest.raises(ValueError, match="of at least 1, got 0"):
        EarlyStopping(patience=0)


def test_its_state_is_the_count_and_the_best():
    callback, other = EarlyStopping(patience=2), EarlyStopping(patience=2)
    answers(callback, [0.5, 0.6])
    other.load_state_dict(callback.state_dict())
    assert answers(other, [0.55]) != [None]


def test_it_ends_a_real_fit():
    learner = tiny_learner(data=tiny_data(count=8))
    learner.fit(9, callbacks=[EarlyStopping(patience=2, min_delta=10.0)])
    assert len(learner.history.epochs) == 3


def test_an_unknown_name_ends_the_fit_with_a_hint():
    with pytest.raises(ValueError, match="did you mean 'loss'"):
        tiny_learner(data=tiny_data(count=8)).fit(1, callbacks=[EarlyStopping("los", mode="min")])
