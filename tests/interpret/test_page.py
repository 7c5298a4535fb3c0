"""The HTML page of a run: self-contained, escaped, complete."""

import base64
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.interpret.figure import new_axes, new_figure
from finetune.interpret.page import Drawing, Facts, Page, Section, Text, render
from finetune.tables import Table


class Reader(HTMLParser):
    """Collects what a page loads and says, and checks that each element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Page) -> Reader:
    reader = Reader()
    reader.feed(render(page))
    assert reader.open == []
    return reader


def test_a_page_has_all_its_parts_and_loads_nothing() -> None:
    figure = Drawing.of(new_figure(2, 1), "nothing")
    parts = [
        Table.of(["class", "count"], [["cat", "3"]]), Facts([("size", "32 px")]), figure,
        Text("finetune predict"), Text("epochs: 3", folded="all settings"),
    ]  # fmt: skip
    reader = read(Page("a title", "a line", [("87.7 %", "accuracy")], [Section("one", parts)]))
    for text in ("a title", "87.7 %", "cat", "32 px", "finetune predict", "all settings"):
        assert text in reader.text
    (source,) = reader.sources
    head, _, data = source.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert not {"script", "link", "iframe"} & set(reader.tags)


def test_names_are_text_not_html() -> None:
    name = "<b>cat</b> & 'dog'"
    reader = read(Page(name, "", [], [Section(name, [Table.of([name], [[name]]), Text(name)])]))
    assert "b" not in reader.tags
    assert reader.text.count(name) >= 5  # with the title of the window


def test_small_figures_shrink_and_wide_ones_scroll_on_a_phone() -> None:
    assert [Drawing.of(new_figure(width, 1), "").wide for width in (3, 9)] == [False, True]


def test_the_file_of_a_figure_is_the_figure_on_white(tmp_path: Path) -> None:
    figure, (axes,) = new_axes(1.0, width=3)
    axes.plot([0, 1], [0, 1], alpha=0.5)
    Drawing.of(figure, "a line", tmp_path / "line.png")
    figure.savefig(tmp_path / "expected.png", dpi=150)
    image, expected = Image.open(tmp_path / "line.png"), Image.open(tmp_path / "expected.png")
    assert image.info["dpi"] == expected.info["dpi"]
    difference = np.asarray(image.convert("RGB"), int) - np.asarray(expected.convert("RGB"), int)
    assert np.abs(difference).max() <= 2
