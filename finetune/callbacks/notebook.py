"""Progress in a notebook: one output that is updated in place, HTML with a text beside it."""

import html
import sys
import time
from collections.abc import Sequence
from typing import Any

from finetune.callbacks import epoch_table
from finetune.callbacks.display import Bar
from finetune.training.events import EpochEnd

_ROWS_INTERVAL = 0.1
"""Seconds between two updates for a row, at least."""
_GRID = (
    "display:inline-grid;grid-template-columns:auto 14em auto;gap:0 0.8em;"
    "align-items:center;padding:0 0.5em"
)
_FRAME = "height:0.7em;border:1px solid;border-radius:0.35em;opacity:0.65;overflow:hidden"
_NUMBERS = "font-variant-numeric:tabular-nums"


def in_notebook() -> bool:
    """Whether standard output goes to a Jupyter front end: a notebook, Colab, VS Code.

    False inside `contextlib.redirect_stdout` and `%%capture`, which ask for text.
    """
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return False
    has_kernel = hasattr(ipython.get_ipython(), "kernel")
    return has_kernel and type(sys.stdout).__module__.startswith("ipykernel")


class Output:
    """A cell's output, of which each new content takes the place of the one before."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, forms: dict[str, Any]) -> None:
        """forms: MIME type -> content, as in a notebook's file."""
        from IPython import display

        if self._handle is None:
            handle_class: Any = display.DisplayHandle
            self._handle = handle_class()
            self._handle.display(forms, raw=True)
        else:
            self._handle.update(forms, raw=True)


class NotebookDisplay:
    """Shows lines, table and bars of a fit in one output; the bars go when the fit is over."""

    interval = 0.25

    def __init__(self) -> None:
        self._output = Output()
        self._rows: list[EpochEnd | str] = []
        self._bars: Sequence[Bar] = ()
        self._last_row_at = -1.0
        self._is_up_to_date = True

    def line(self, text: str) -> None:
        self._rows.append(text)
        self._update()

    def row(self, row: EpochEnd) -> None:
        self._rows.append(row)
        self._is_up_to_date = False
        # epochs may be over in a moment; a row that is left out now is in the next update
        now = time.perf_counter()
        if now >= self._last_row_at + _ROWS_INTERVAL:
            self._last_row_at = now
            self._update()

    def bars(self, bars: Sequence[Bar]) -> None:
        self._bars = bars
        self._update()

    def end(self) -> None:
        if self._bars or not self._is_up_to_date:
            self._bars = ()
            self._update()

    def _update(self) -> None:
        self._is_up_to_date = True
        content = epoch_table.as_html(self._rows)
        lines = epoch_table.as_lines(self._rows)
        if self._bars:
            content += _bars_as_html(self._bars)
            lines += [str(bar) for bar in self._bars]
        self._output.show({"text/html": content, "text/plain": "\n".join(lines)})


def _bars_as_html(bars: Sequence[Bar]) -> str:
    """Names, bars and texts in three columns, in the colour of the text around them."""
    cells = []
    for bar in bars:
        filled = f"width:{bar.fraction:.1%};height:100%;background:currentColor"
        cells.append(f"<span>{html.escape(bar.name)}</span>")
        cells.append(f'<div style="{_FRAME}"><div style="{filled}"></div></div>')
        cells.append(f'<span style="{_NUMBERS}">{html.escape(bar.text)}</span>')
    return f'<div style="{_GRID}">{"".join(cells)}</div>'
