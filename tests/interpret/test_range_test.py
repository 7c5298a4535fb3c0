"""The figure of a range test; tests of whole curves are in tests/test_lr_finder.py."""

from finetune.interpret.range_test import plot_range_test

LRS = [1e-7 * 10 ** (8 * i / 50) for i in range(50)]
LOSSES = [1 + (i - 30) ** 2 / 100 for i in range(50)]


def test_a_suggestion_before_the_first_rate_is_inside_the_axes() -> None:
    axes = plot_range_test(LRS, LOSSES, slice(5, -5), {"minimum": 1e-8, "valley": 1e-3}).axes[0]
    assert axes.get_xlim()[0] == 1e-8
    marks = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    assert marks == [1e-8, 1e-3]


def test_a_suggestion_is_marked_on_the_curve() -> None:
    axes = plot_range_test(LRS, LOSSES, slice(5, -5), {"valley": LRS[20]}).axes[0]
    assert axes.lines[-1].get_ydata()[0] == LOSSES[20]
    assert axes.get_xlabel() == "learning rate"
