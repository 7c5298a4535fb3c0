"""The figure of rates and momenta: what is on it; how it looks is for people to judge."""

import numpy as np

from finetune.interpret.rates import plot_rates
from finetune.interpret.timeline import Span, find_spans

NAMES = ["body", "head"]


def spans() -> list[Span]:
    steps = [("frozen", 1, 0, i) for i in range(3)] + [("unfrozen", 0, 0, i) for i in range(4)]
    return find_spans(steps, 4)


RATES = [(1e-4, 1e-3)] * 3 + [(1e-5, 1e-4)] * 4


def test_rates_have_a_line_for_each_group_and_phase() -> None:
    figure = plot_rates(spans(), NAMES, RATES)
    (axes,) = figure.axes
    assert len(axes.lines) == 5  # two groups in two phases, and the border between these
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "learning rate")
    assert [text.get_text() for text in axes.texts] == ["frozen", "unfrozen"]
    assert {text.get_text() for text in figure.legends[0].texts} == {"body", "head"}


def test_frozen_groups_are_dotted() -> None:
    lines = plot_rates(spans(), NAMES, RATES).axes[0].lines
    dotted = [line for line in lines if line.is_dashed()]
    assert [line.get_ydata().tolist() for line in dotted] == [[1e-4] * 3]


def test_momenta_are_below_the_rates() -> None:
    momenta = [(0.9, 0.8)] * 7
    axes = plot_rates(spans(), NAMES, RATES, momenta).axes
    assert [plot.get_ylabel() for plot in axes] == ["learning rate", "momentum"]
    assert len(axes[1].lines) == 5


def test_equal_momenta_are_one_line() -> None:
    axes = plot_rates(spans(), NAMES, RATES, [(0.9, 0.9)] * 7).axes
    assert len(axes[1].lines) == 3


def test_a_rate_of_0_is_a_gap() -> None:
    rates = [(0.0, 1e-3), (0.0, 1e-3), (1e-4, 1e-3)]
    figure = plot_rates(find_spans([("fit", 0, 0, i) for i in range(3)], 3), NAMES, rates)
    figure.canvas.draw()
    low, high = figure.axes[0].get_ylim()
    assert 1e-5 < low < high < 1e-1
    body = figure.axes[0].lines[0].get_ydata()
    assert np.isnan(body).tolist() == [True, True, False]


def test_rates_that_are_all_0_are_no_error() -> None:
    figure = plot_rates(find_spans([("fit", 0, 0, 0)], 1), NAMES, [(0.0, 0.0)])
    figure.canvas.draw()


def test_groups_with_equal_rates_take_turns_along_the_line() -> None:
    steps = find_spans([("fit", 0, 0, i) for i in range(3)], 3)
    lines = plot_rates(steps, ["a", "b", "c"], [(1e-4, 1e-4, 1e-3)] * 3).axes[0].lines
    assert [line.is_dashed() for line in lines] == [True, True, False]
    offsets = [line._unscaled_dash_pattern for line in lines[:2]]
    assert offsets == [(0.0, (6.0, 6.0)), (6.0, (6.0, 6.0))]  # modulo 12
