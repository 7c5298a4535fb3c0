"""Tables as text, HTML and Markdown."""

import re

import pytest

from finetune.tables import Column, Table

COUNTS = Table.of(["class", "count"], [["cat", "3"], "a note", ["[dog]", "12"]], caption="so many")


@pytest.mark.parametrize("notebook", [False, True])
def test_text_is_returned_and_not_displayed_in_a_notebook_too(
    notebook: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: notebook)
    lines = COUNTS.text().splitlines()
    assert [lines[0].split(), *map(str.split, lines[2:])] == [
        ["class", "count"],
        ["cat", "3"],
        ["[dog]", "12"],
    ]
    assert capsys.readouterr().out == ""


def test_numbers_stand_on_the_right_and_words_on_the_left() -> None:
    cat, dog = COUNTS.text().splitlines()[2:]
    assert cat.index("cat") == dog.index("[dog]")
    assert len(cat) == len(dog)
    html = COUNTS.html()
    assert html.count("text-align: right") == 3  # the header's cell and two rows
    assert html.count("text-align: left") == 4  # and the note


def test_a_class_may_be_called_like_an_emoji() -> None:
    assert ":cat:" in Table.of(["class"], [[":cat:"]]).text()


def test_long_cells_are_folded_where_a_column_says_so() -> None:
    folded = Table([Column("path", words=True, max_width=6)], [["abcdefghij"]]).text()
    assert [line.strip() for line in folded.splitlines()[2:]] == ["abcdef", "ghij"]


def test_html_escapes_names_and_has_no_colour_of_its_own() -> None:
    html = Table.of(["<b>"], [["<i>"], "<u>"], caption="<s>").html()
    assert not re.search(r"<[bius]>", html)
    assert not re.search(r"colou?r|background", html)


def test_a_note_goes_over_the_whole_width_of_the_html_form() -> None:
    assert '<td colspan="2" style="text-align: left">a note</td>' in COUNTS.html()
    assert COUNTS.html().startswith("<p>so many</p><table>")


def test_markdown_has_a_line_for_each_row() -> None:
    table = Table.of(["class", "images"], [["a|b\nc", "1,200"]])
    assert table.markdown().splitlines() == [
        "| class | images |",
        "|---|---:|",
        "| a\\|b c | 1,200 |",
    ]
