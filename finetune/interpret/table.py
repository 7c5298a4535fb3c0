"""Small tables: in the terminal, and as HTML in a notebook."""

import html
from collections.abc import Sequence

from finetune.plain_text import drawn


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """left: how many columns, from the first on, hold words; the others hold numbers.

    >>> print(as_text(["class", "count"], [["cat", "3"]]))
     class  count
     ─────────────
     cat        3
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, column in enumerate(header):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return drawn(table, 250)


def as_html(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, caption: str = ""
) -> str:
    """For a notebook, light or dark: no colour of its own."""

    def line(cells: Sequence[str], tag: str) -> str:
        sides = ("left" if i < left else "right" for i in range(len(cells)))
        return "".join(
            f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{line(header, 'th')}</tr></thead>"
    above = f"<p>{html.escape(caption)}</p>" if caption else ""
    return f"{above}<table>{head}<tbody>{body}</tbody></table>"


def shortened(name: object, width: int) -> str:
    """The end of a long name, which of a path says most.

    >>> shortened("photos/train/cat/000017.jpg", 16)
    '...at/000017.jpg'
    """
    text = str(name)
    return text if len(text) <= width else "..." + text[3 - width :]
