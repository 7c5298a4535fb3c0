"""Progress in a notebook: one output that is updated in place, HTML with a text beside it."""

import html
import sys
from collections.abc import Sequence
from typing import Any

from finetune.callbacks import epoch_table
from finetune.callbacks.display import Bar
from finetune.callbacks.pace import now
from finetune.training.events import EpochEnd

_ROWS_INTERVAL = 0.1
_GRID = (
    "display:inline-grid;grid-template-columns:auto 14em auto;gap:0 0.8em;"
    "align-items:center;padding:0 0.5em"
)
_FRAME = "height:0.7em;border:1px solid;border-radius:0.35em;opacity:0.65;overflow:hidden"
_NUMBERS = "font-variant-numeric:tabular-nums"


def in_notebook() -> bool:
    """Whether standard output goes to a Jupyter front end: a notebook, Colab, VS Code.

    Not inside `contextlib.redirect_stdout` and `%%capture`: those ask for text.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel") and type(sys.stdout).__module__.startswith("ipykernel")


class Output:
    """A cell's output in many forms, which is replaced by the next one."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, forms: dict[str, Any]) -> None:
        """forms: MIME type -> content, as in a notebook's file."""
        from IPython import display

        if self._handle is None:
            handle: Any = display.DisplayHandle
            self._handle = handle()
            self._handle.display(forms, raw=True)
        else:
            self._handle.update(forms, raw=True)


class NotebookDisplay:
    """Lines, table and bars of one fit, in one output; without bars when the fit is over."""

    interval = 0.25

    def __init__(self) -> None:
        self._output = Output()
        self._rows: list[EpochEnd | str] = []
        self._bars: Sequence[Bar] = ()
        self._rows_at = -1.0
        self._shown = True

    def line(self, text: str) -> None:
        self._rows.append(text)
        self._show()

    def row(self, row: EpochEnd) -> None:
        self._rows.append(row)
        self._shown = False
        # epochs may be over in a moment; what is left out now is in the next update
        if now() >= self._rows_at + _ROWS_INTERVAL:
            self._rows_at = now()
            self._show()

    def bars(self, bars: Sequence[Bar]) -> None:
        self._bars = bars
        self._show()

    def end(self) -> None:
        if self._bars or not self._shown:
            self._bars = ()
            self._show()

    def _show(self) -> None:
        self._shown = True
        bars = _bars_as_html(self._bars) if self._bars else ""
        self._output.show(
            {
                "text/html": epoch_table.as_html(self._rows) + bars,
                "text/plain": "\n".join([*epoch_table.as_lines(self._rows), *map(str, self._bars)]),
            }
        )


def _bars_as_html(bars: Sequence[Bar]) -> str:
    """Names, bars and texts in three columns, in the colour of the text around them."""
    cells = "".join(
        f"<span>{html.escape(bar.name)}</span>"
        f'<div style="{_FRAME}">'
        f'<div style="width:{bar.fraction:.1%};height:100%;background:currentColor"></div></div>'
        f'<span style="{_NUMBERS}">{html.escape(bar.text)}</span>'
        for bar in bars
    )
    return f'<div style="{_GRID}">{cells}</div>'
