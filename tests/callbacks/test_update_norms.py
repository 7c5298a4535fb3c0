"""UpdateNorms: rows while it trains, which go on after a resume, and an image."""

from pathlib import Path
from typing import Any

import pytest
from support import StopAt, tiny_learner

from finetune import Learner, UpdateNorms


def learner_with(norms: UpdateNorms) -> Learner:
    return tiny_learner(3, callbacks=[norms])


def test_it_keeps_a_row_for_every_nth_step() -> None:
    norms = UpdateNorms(every=4)
    learner_with(norms).fine_tune(1, unfreeze="all")
    expected = [("frozen", 0, 0), ("frozen", 0, 4), ("unfrozen", 0, 0), ("unfrozen", 0, 4)]
    assert [(row.phase, row.epoch, row.step) for row in norms.rows] == expected
    assert norms.groups == ("0", "1", "2")


def test_another_one_that_asks_for_more_adds_no_rows() -> None:
    seldom, often = UpdateNorms(every=4), UpdateNorms(every=1)
    tiny_learner(3, callbacks=[seldom, often]).fit(1)
    assert [row.step for row in seldom.rows] == [0, 4]
    assert [row.step for row in often.rows] == list(range(8))


def test_a_resumed_run_has_the_rows_of_one_that_was_not_interrupted(tmp_path: Path) -> None:
    whole, first, second = (UpdateNorms(every=2) for _ in range(3))
    learner_with(whole).fine_tune(1)
    stopped = learner_with(first)
    stopped.fine_tune(1, callbacks=[StopAt(11)])
    stopped.save(tmp_path / "checkpoint")
    resumed = learner_with(second)
    resumed.load(tmp_path / "checkpoint")
    assert 0 < len(second.rows) < len(whole.rows)
    resumed.resume()
    # as texts: a frozen group's NaN is not equal to itself
    assert list(map(repr, second.rows)) == list(map(repr, whole.rows))
    assert (second.groups, second.plot().axes[0].get_xlim()) == (whole.groups, (0, 2))


def test_it_draws_all_fits() -> None:
    norms = UpdateNorms(every=1)
    learner = learner_with(norms)
    learner.fine_tune(1)
    learner.fit_one_cycle(1)
    figure = norms.plot()
    names = [text.get_text() for text in figure.axes[0].texts]
    assert names == ["frozen", "1 and above", "one cycle"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["0", "1", "2"]


def test_before_a_fit_there_is_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="nothing to plot before a fit with this callback"):
        UpdateNorms().plot()


@pytest.mark.parametrize(("every", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_it_needs_a_number_of_steps(every: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"every must be a whole number of at least 1, got {every}"):
        UpdateNorms(every)
