"""Names of classes in any script are drawn, if an installed font has their letters."""

import unicodedata
import warnings

import matplotlib as mpl
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from finetune.interpret import figure as shared


def letters_of(family: str) -> set[int]:
    return set(FT2Font(font_manager.findfont(family)).get_charmap())


@pytest.fixture
def foreign_letter() -> str:
    """One that matplotlib's usual font lacks and another of its fonts has."""
    known = letters_of("DejaVu Sans")
    for number in sorted(letters_of("STIXGeneral") - known):
        if unicodedata.category(chr(number)).startswith("L"):
            return chr(number)
    raise AssertionError("DejaVu Sans has all letters")


def draw(title: str) -> list[str]:
    """The families of a title that was drawn; what matplotlib warns of is an error."""
    with shared.house_style():
        figure, (axes,) = shared.new_axes(2.0)
        axes.set_title(title)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    return list(axes.title.get_fontfamily())


def test_a_letter_that_the_font_lacks_is_drawn_with_another(foreign_letter: str) -> None:
    families = draw(f"a {foreign_letter}")
    assert len(families) == 2
    assert ord(foreign_letter) in letters_of(families[1])


def test_a_text_in_letters_of_the_font_keeps_it() -> None:
    assert draw("Äpfel") == draw("apples") == ["sans-serif"]


def test_a_letter_that_no_font_has_is_a_box() -> None:
    with pytest.raises(UserWarning, match=r"Glyph .* missing"):
        draw("\U000f1234")


def test_the_fonts_of_the_notebook_are_used() -> None:
    with mpl.rc_context({"font.family": ["STIXGeneral"]}):
        assert draw("apples") == ["STIXGeneral"]
        assert mpl.rcParams["font.family"] == ["STIXGeneral"]
