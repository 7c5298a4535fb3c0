"""The pictures: what is on them; how they look is for people to judge."""

import numpy as np
import pytest
from support import tiny_learner

from finetune.interpret.plots import Span, plot_predictions, plot_rates


def test_rates_have_a_line_for_each_group_and_phase() -> None:
    spans = [Span("frozen", 1, [(1e-4, 1e-3)] * 3), Span("unfrozen", 0, [(1e-5, 1e-4)] * 4)]
    figure = plot_rates(spans, ["body", "head"])
    (axes,) = figure.axes
    assert len(axes.lines) == 5  # two groups in two phases, and the border between these
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "learning rate")
    assert [text.get_text().strip() for text in axes.texts] == ["frozen", "unfrozen"]
    assert {text.get_text() for text in figure.legends[0].texts} == {"body", "head"}


def test_two_fits_of_one_name_are_two_spans() -> None:
    learner = tiny_learner()
    learner.freeze()
    learner.fit_one_cycle(1)
    learner.unfreeze()
    learner.fit_one_cycle(1)
    (axes,) = learner.plot_rates().axes
    assert [text.get_text().strip() for text in axes.texts] == ["one cycle", "one cycle"]


def test_before_the_first_fit_there_is_nothing_to_plot() -> None:
    with pytest.raises(ValueError, match="nothing to plot before the first fit"):
        tiny_learner().plot_rates()


def test_a_missed_picture_says_what_it_is() -> None:
    pictures = [np.zeros((4, 4)), np.zeros((4, 4, 3), dtype=np.uint8)]
    figure = plot_predictions(pictures, ["cat", "dog"], ["cat", "cat"], [0.9, 0.6])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["cat  90%", "cat  60%\n(is dog)"]
