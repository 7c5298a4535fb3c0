"""Table: header and rows, shown as text in a terminal, HTML in a notebook, Markdown in a file."""

import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

_TEXT_WIDTH = 250
"""Characters; a terminal wraps or scrolls what is wider than itself."""


@dataclass(frozen=True, slots=True)
class Column:
    """How a column is shown.

    words: it holds words, which stand on the left; numbers stand on the right.
    max_width: characters of the text form beyond which a cell is folded into several lines.
    """

    name: str
    words: bool = False
    max_width: int | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of finished texts; whoever makes the table knows how its numbers are shown.

    rows: one text for each column; a row that is a single string is a note over the whole width.
    caption: a line above the HTML form.

    >>> print(Table.of(["class", "count"], [["cat", "3"]]).text())
     class  count
     ─────────────
     cat        3
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[Column]
    rows: Sequence[Sequence[str] | str]
    caption: str = ""

    @classmethod
    def of(
        cls,
        header: Sequence[str],
        rows: Iterable[Sequence[str] | str],
        *,
        words: int = 1,
        caption: str = "",
    ) -> "Table":
        """A table whose first `words` columns hold words, and whose others hold numbers."""
        columns = [Column(name, words=number < words) for number, name in enumerate(header)]
        return cls(columns, list(rows), caption)

    def text(self, *, width: int = _TEXT_WIDTH, notes: bool = False) -> str:
        """Lines without colours, at most `width` characters wide; the caption is left out.

        notes: whether those are at the end, or left out.

        The same in a notebook, where rich would display the table and return nothing.
        """
        from rich import box
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table as RichTable

        drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in self.columns:
            drawn.add_column(
                # a class may be called "[red]"
                escape(column.name),
                justify="left" if column.words else "right",
                no_wrap=column.max_width is None,
                max_width=column.max_width,
                overflow="fold",
            )
        for row in self.rows:
            if not isinstance(row, str):
                drawn.add_row(*map(escape, row))
        stream = io.StringIO()
        # a class may be called ":cat:", which is a cat's face to rich
        console = Console(
            file=stream, width=width, color_system=None, force_jupyter=False, emoji=False
        )
        console.print(drawn)
        lines = [line.rstrip() for line in stream.getvalue().splitlines()]
        text = "\n".join(lines).strip("\n")
        if notes:
            text = "\n".join([text, *(f" {row}" for row in self.rows if isinstance(row, str))])
        return text

    def html(self) -> str:
        """For a notebook, light or dark: it has no colour of its own."""
        header = self._html_cells("th", [column.name for column in self.columns])
        body = "".join(f"<tr>{self._html_row(row)}</tr>" for row in self.rows)
        table = f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
        if self.caption:
            return f"<p>{html.escape(self.caption)}</p>{table}"
        return table

    def _html_row(self, row: Sequence[str] | str) -> str:
        if isinstance(row, str):
            note = html.escape(row)
            return f'<td colspan="{len(self.columns)}" style="text-align: left">{note}</td>'
        return self._html_cells("td", row)

    def _html_cells(self, tag: str, texts: Sequence[str]) -> str:
        cells = []
        for column, text in zip(self.columns, texts, strict=True):
            # digits of equal width, so that numbers that change in place do not jump
            style = "text-align: right; font-variant-numeric: tabular-nums"
            if column.words:
                style = "text-align: left"
            cells.append(f'<{tag} style="{style}">{html.escape(text)}</{tag}>')
        return "".join(cells)

    def markdown(self) -> str:
        """For a file; notes and caption are left out.

        >>> print(Table.of(["class", "images"], [["a|b", "1,200"]]).markdown())
        | class | images |
        |---|---:|
        | a\\|b | 1,200 |
        """
        names = [column.name for column in self.columns]
        rules = ["---" if column.words else "---:" for column in self.columns]
        lines = [_markdown_row(names), f"|{'|'.join(rules)}|"]
        for row in self.rows:
            if not isinstance(row, str):
                lines.append(_markdown_row(row))
        return "\n".join(lines)


def _markdown_row(texts: Sequence[str]) -> str:
    cells = [" ".join(text.split()).replace("|", "\\|") for text in texts]
    return f"| {' | '.join(cells)} |"


def facts_html(facts: Iterable[tuple[str, str]]) -> str:
    """Names and values, one below the other, as an HTML table without a header."""
    rows = []
    for name, value in facts:
        left = 'style="text-align: left"'
        rows.append(
            f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(value)}</td></tr>"
        )
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def end_of(name: Any, width: int) -> str:
    """The end of a long name, which of a path says most.

    >>> end_of("photos/train/cat/000017.jpg", 16)
    '...at/000017.jpg'
    """
    text = str(name)
    if len(text) <= width:
        return text
    return "..." + text[3 - width :]
