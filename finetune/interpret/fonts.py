"""Fonts for texts in any script: matplotlib's own font has neither Chinese nor many others."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWS_BOXES = "last resort"
"""How the names of fonts begin that have a box for every letter there is."""
_REGULAR_WEIGHT = 400


def give_fonts(figure: Figure) -> None:
    """Adds an installed font to each text with letters that its own fonts lack.

    A letter that no installed font has stays a box.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if text.get_text().isascii():
            continue
        families = list(text.get_fontfamily())
        for letter in sorted(set(text.get_text())):
            if letter.isascii() or any(_has(family, letter) for family in families):
                continue
            family = _family_with(letter)
            if family is not None:
                families.append(family)
        text.set_fontfamily(families)


@cache
def _has(family: str, letter: str) -> bool:
    from matplotlib import font_manager

    try:
        # as properties: of a text, what is behind a hyphen would be taken for the size
        properties = font_manager.FontProperties(family=[family])
        path = font_manager.findfont(properties, fallback_to_default=False)
    except ValueError:  # it is not installed
        return False
    return _has_glyph(path, letter)


@cache
def _family_with(letter: str) -> str | None:
    """An installed family that has the letter; upright and without serifs, if there is one."""
    from matplotlib import font_manager

    def rank(entry: Any) -> tuple[bool, bool, bool, str]:
        is_slanted = entry.style != "normal"
        is_heavy = entry.weight != _REGULAR_WEIGHT
        return is_slanted, is_heavy, "sans" not in entry.name.lower(), entry.name

    for entry in sorted(font_manager.fontManager.ttflist, key=rank):
        draws_boxes = entry.name.lower().lstrip(".").startswith(_DRAWS_BOXES)
        if not draws_boxes and _has_glyph(entry.fname, letter):
            family: str = entry.name
            return family
    return None


@cache
def _has_glyph(path: str, letter: str) -> bool:
    from matplotlib.ft2font import FT2Font

    try:
        return bool(FT2Font(path).get_char_index(ord(letter)))
    except (OSError, RuntimeError):  # a font that is damaged, or gone
        return False
