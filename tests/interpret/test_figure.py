"""The look that all figures share, and that it neither changes nor follows the notebook's style."""

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure
from PIL import Image

from finetune.interpret import figure as shared
from finetune.interpret.image_grids import RIGHT, WRONG
from finetune.interpret.losses import TRAINING, VALIDATION
from finetune.interpret.timeline import find_spans


def draw_rates(groups: int = 3, phases: int = 2) -> Figure:
    with shared.house_style():
        figure, axes = shared.new_axes(2.0, 1.0)
        axes[0].plot([0, phases], [1e-4, 1.0])
        axes[0].set_yscale("log")
        spans = find_spans([(f"a long name {i}", 0, 0, 0) for i in range(phases)], 1)
        shared.mark_epochs(axes, spans)
        shared.add_group_legend(figure, [f"blocks.{i}.conv" for i in range(groups)], "a note")
    return figure


def pixels(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def test_a_dark_style_of_the_notebook_changes_no_pixel() -> None:
    expected = pixels(draw_rates())
    with mpl.style.context("dark_background"):
        assert (pixels(draw_rates()) == expected).all()


def test_the_style_of_the_notebook_is_restored() -> None:
    with mpl.rc_context({"lines.linewidth": 7.0}):
        draw_rates()
        assert mpl.rcParams["lines.linewidth"] == 7.0


def test_a_figure_belongs_to_no_global_state() -> None:
    figure = draw_rates()
    assert figure.canvas.manager is None
    assert Gcf.get_all_fig_managers() == []


def shown_in_a_notebook(figure: Figure) -> Image.Image:
    shell = InteractiveShell.instance(history_length=0)
    # as with pyplot imported: then notebooks have a formatter for figures of all kinds
    shell.display_formatter.formatters["image/png"].for_type(Figure, lambda _: b"a white card")
    with capture_output() as captured:
        display(figure)
    InteractiveShell.clear_instance()
    (shown,) = captured.outputs
    return Image.open(io.BytesIO(shown.data["image/png"]))


def test_a_figure_in_a_notebook_has_no_background() -> None:
    image = shown_in_a_notebook(draw_rates())
    assert image.getpixel((0, 0))[3] == 0
    opacity = np.asarray(image)[..., 3]
    assert (opacity < 50).mean() > 0.9  # the axes have none, either


def test_a_saved_figure_is_on_white(tmp_path: Path) -> None:
    draw_rates().savefig(tmp_path / "rates.png")
    image = Image.open(tmp_path / "rates.png")
    assert image.getpixel((0, 0)) == (255, 255, 255, 255)
    assert image.getextrema()[3] == (255, 255)


def contrast(colour: Any, page: str) -> float:
    """The ratio of luminances of WCAG 2, from 1 to 21."""

    def luminance(name: Any) -> float:
        channels = np.array(mpl.colors.to_rgb(name))
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(colour), luminance(page)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_texts_and_lines_are_seen_on_a_light_and_on_a_dark_page(page: str) -> None:
    # of two colours as far apart as these pages, none has more than 4.35 to both
    for text in (shared.INK, RIGHT, WRONG):
        assert contrast(text, page) > 4.3
    for line in (TRAINING, VALIDATION, *shared.group_colours(10), *shared.group_colours(40)):
        assert contrast(line, page) > 3


@pytest.mark.parametrize("count", [1, 3, 10, 11, 40])
def test_every_group_has_a_colour_of_its_own(count: int) -> None:
    assert len({mpl.colors.to_hex(colour) for colour in shared.group_colours(count)}) == count


def test_up_to_ten_groups_keep_their_colours() -> None:
    assert shared.group_colours(3) == shared.group_colours(10)[:3]


def test_the_legend_has_all_of_a_few_groups() -> None:
    (legend,) = draw_rates(3).legends
    assert [text.get_text() for text in legend.texts] == [f"blocks.{i}.conv" for i in range(3)]
    assert legend.get_title().get_text() == "layer group; a note"


def test_the_legend_has_the_ends_and_the_middle_of_many_groups() -> None:
    (legend,) = draw_rates(21).legends
    names = ["blocks.0.conv (1)", "blocks.10.conv (11)", "blocks.20.conv (21)"]
    assert [text.get_text() for text in legend.texts] == names


@pytest.mark.parametrize(("groups", "phases"), [(2, 1), (10, 2), (30, 20)])
def test_nothing_is_cut_off(groups: int, phases: int) -> None:
    figure = draw_rates(groups, phases)
    figure.canvas.draw()
    texts = [*figure.axes[0].texts, *figure.legends[0].texts, figure.axes[-1].xaxis.label]
    for box in (text.get_window_extent() for text in texts):
        assert min(box.x0, box.y0) >= 0
        assert (box.x1, box.y1) <= (figure.bbox.x1, figure.bbox.y1)


def test_names_of_wide_phases_are_horizontal_and_those_of_narrow_ones_inclined() -> None:
    assert {text.get_rotation() for text in draw_rates(phases=2).axes[0].texts} == {0}
    assert {text.get_rotation() for text in draw_rates(phases=20).axes[0].texts} == {35}


def test_phases_without_room_for_a_name_have_none() -> None:
    assert len(draw_rates(phases=20).axes[0].texts) == 20
    assert len(draw_rates(phases=80).axes[0].texts) < 50


def test_a_name_may_look_like_mathematics(tmp_path: Path) -> None:
    with shared.house_style():
        figure = shared.new_figure(2, 2)
        figure.subplots().set_title("a_$\\alpha_{$")
    figure.savefig(tmp_path / "name.png")


def test_numbers_at_a_logarithmic_axis_are_plain() -> None:
    for limits in ((1e-5, 1e-1), (2e-3, 8e-3)):
        with shared.house_style():
            figure, (axes,) = shared.new_axes(2.0)
            axes.plot([0, 1], limits)
            shared.use_log_scale(axes)
            figure.canvas.draw()  # makes the ticks while dollar signs mean nothing
        labels = [label.get_text() for label in axes.get_yticklabels(which="both")]
        shown = [label for label in labels if label]
        assert len(shown) >= 2
        assert [float(label) for label in shown]
        assert "1e-05" in shown or "0.003" in shown
