"""Coverage and size of sets over the coverage that is requested."""

import numpy as np
import pytest

from finetune.interpret.coverage import REQUESTED
from finetune.interpret.predictions import Predictions
from finetune.interpret.values_predictions import ValuesPredictions


def table(count: int = 400) -> Predictions:
    noise = np.random.default_rng(0)
    targets = noise.integers(0, 4, count)
    scores = noise.normal(0, 1, (count, 4))
    scores[np.arange(count), targets] += 1.5
    return Predictions(range(count), list("abcd"), targets, scores, np.zeros(count))


def test_sets_hold_the_truth_as_often_as_asked_and_grow_with_it() -> None:
    curve = table().coverage()
    assert curve.requested.tolist() == list(REQUESTED)
    # what a set of the most probable class alone holds already is more than little that is asked
    is_asked = curve.requested >= table().accuracy + 0.1
    asked, held = curve.requested[is_asked], curve.coverages[is_asked]
    assert held == pytest.approx(asked, abs=0.02)
    assert (np.diff(curve.sizes) >= 0).all()
    assert 1 <= curve.sizes[0] <= curve.sizes[-1] <= 4


def test_coverages_that_need_more_examples_are_left_out() -> None:
    assert table(40).coverage().requested.max() == 0.95
    with pytest.raises(ValueError, match=r"coverage=0\.99 needs at least 99 examples"):
        table(40).coverage([0.99])


@pytest.mark.parametrize("share", [0, 1, 2.5])
def test_a_coverage_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="requested must be a finite number above 0 and below 1"):
        table(40).coverage([0.5, share])


def test_it_is_a_table_and_a_figure() -> None:
    curve = table(100).coverage([0.8, 0.9])
    assert repr(curve).splitlines()[0].split() == ["requested", "coverage", "classes", "a", "set"]
    assert "<td" in curve._repr_html_()
    top, bottom = table(100).plot_coverage().axes
    assert len(top.lines) == 2
    assert bottom.get_xlabel() == "requested coverage"


def test_for_numbers_it_says_what_there_is_instead() -> None:
    values = ValuesPredictions(["a.jpg"], ["age"], [[30.0]], [[32.5]], [6.25])
    with pytest.raises(ValueError, match=r"plot_coverage\(\) is for one class per example"):
        values.plot_coverage()
