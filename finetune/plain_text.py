"""What rich draws, as plain text."""

import io
from typing import Any


def drawn(table: Any, width: int) -> str:
    """A rich table as lines without colours, at most `width` letters wide.

    In a notebook, too, where rich would show it below the cell and leave the text empty.
    """
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None, force_jupyter=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")
