"""The figure of losses."""

import numpy as np
import pytest

from finetune.interpret.losses import plot_losses, smooth
from finetune.interpret.timeline import find_spans

SPANS = find_spans([("one", 0, 0, 0), ("one", 0, 0, 1), ("two", 0, 0, 0), ("two", 0, 0, 1)], 2)
LOSSES = [3.0, 2.0, 2.5, 1.0]


def test_smoothing_leaves_a_constant_as_it_is() -> None:
    assert smooth(np.full(50, 2.5), 10) == pytest.approx(np.full(50, 2.5))


def test_smoothing_removes_noise() -> None:
    noise = np.random.default_rng(0).normal(size=1000)
    assert smooth(noise, 50)[100:].std() < 0.25


def test_every_phase_is_smoothed_on_its_own() -> None:
    lines = plot_losses(SPANS, LOSSES, []).axes[0].lines
    assert [line.get_ydata().tolist() for line in lines[1:4:2]] == [[3.0, 2.0], [2.5, 1.0]]
    assert [line.get_alpha() for line in lines[:4]] == [0.28, None, 0.28, None]


def test_validation_is_at_the_end_of_its_epoch() -> None:
    validation = [(1.0, {"loss": 2.2, "accuracy": 0.5}), (2.0, {"loss": 1.1, "accuracy": 0.75})]
    figure = plot_losses(SPANS, LOSSES, validation)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "validation"]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1.0, 2.0], [2.2, 1.1])
    assert list(figure.axes[1].lines[0].get_ydata()) == [0.5, 0.75]


def test_several_metrics_have_a_legend() -> None:
    figure = plot_losses(SPANS, LOSSES, [(1.0, {"loss": 2.2, "accuracy": 0.5, "f1": 0.4})])
    names = [text.get_text() for text in figure.axes[1].get_legend().texts]
    assert (figure.axes[1].get_ylabel(), names) == ("metrics", ["accuracy", "f1"])


def test_without_validation_there_is_one_axes() -> None:
    assert len(plot_losses(SPANS, LOSSES, []).axes) == 1


def test_a_few_high_losses_do_not_flatten_the_rest_of_the_curve() -> None:
    spans = find_spans([("fit", 0, 0, i) for i in range(1000)], 1000)
    figure = plot_losses(spans, [1e6, *np.linspace(2, 1, 999)], [])
    assert figure.axes[0].get_ylim()[1] < 3


def test_a_step_without_a_loss_is_a_gap() -> None:
    values = smooth(np.array([np.nan, 2.0, np.nan, 4.0]), 2)
    assert np.isnan(values[0])
    assert values[1:].tolist() == pytest.approx([2, 2, (2 / 2 + 4) / 1.5])


@pytest.mark.parametrize("losses", [[np.nan, 2.0, np.inf, 1.0], [np.nan] * 4])
def test_losses_that_are_no_numbers_are_plotted(losses: list[float]) -> None:
    spans = find_spans([("fit", 0, 0, number) for number in range(4)], 4)
    figure = plot_losses(spans, losses, [(1, {"loss": np.nan})])
    low, high = figure.axes[0].get_ylim()
    assert np.isfinite([low, high]).all()
