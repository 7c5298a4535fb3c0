"""Numbers and tables as plain text."""

import io
from typing import Any


def number(value: float) -> str:
    """Of a loss or a metric: four decimals, or four digits where those would not say it.

    >>> number(0.87654), number(1112876.5), number(0.00002), number(0.0)
    ('0.8765', '1.113e+06', '2e-05', '0.0000')
    """
    plain = not value or 1e-3 <= abs(value) < 1e4
    return f"{value:.4f}" if plain else f"{value:.4g}"


def drawn(table: Any, width: int) -> str:
    """A rich table as lines without colours, at most `width` letters wide.

    In a notebook, too, where rich would show it below the cell and leave the text empty.
    """
    from rich.console import Console

    stream = io.StringIO()
    # a class may be called ":cat:"
    console = Console(file=stream, width=width, color_system=None, force_jupyter=False, emoji=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")
