"""Epochs as text and as HTML."""

import re
from dataclasses import replace

import pytest

from finetune import History
from finetune.callbacks.epoch_table import as_html, as_lines, note_at_end
from finetune.training.events import EpochEnd, PointBetween

FIRST = EpochEnd("frozen", 0, 0.5, {"loss": 0.25, "accuracy": 0.75}, 1.5)
BARE = EpochEnd("fit", 1, 0.25)


def cells(html: str) -> list[list[str]]:
    """The cells of each row of the table, its header first."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_lines_are_those_of_the_terminal():
    assert as_lines(["a note", FIRST, "stopped"]) == [
        "a note",
        "phase       epoch  train loss  valid loss   accuracy    seconds",
        "frozen          1      0.5000      0.2500     0.7500        1.5",
        "stopped",
    ]
    assert as_lines(["a note"]) == ["a note"]


def test_html_has_a_row_per_epoch_and_notes_where_they_came():
    html = as_html(["first", FIRST, "between", FIRST])
    assert html.startswith("<div>first</div><table>")
    row = ["frozen", "1", "0.5000", "0.2500", "0.7500", "1.5"]
    head = ["phase", "epoch", "train loss", "valid loss", "accuracy", "seconds"]
    assert cells(html) == [head, row, ["between"], row]


COMPARED = {fraction: {"loss": 1.0, "accuracy": 0.5 + fraction / 4} for fraction in (0.0, 0.5, 1.0)}


@pytest.mark.parametrize(
    ("fraction", "words"),
    [
        (0.0, "from before the phase, better than its end (accuracy 0.7500, loss 1.0000)"),
        (0.5, "0.5 of the way from before the phase (accuracy 0.5000, loss 1.0000) to its end"),
        (1.0, "of the end, better than all towards those before (accuracy 0.5000"),
    ],
)
def test_which_weights_were_taken_is_a_line_below_their_epoch(fraction: float, words: str):
    row = replace(FIRST, between=PointBetween(fraction, COMPARED))
    lines = as_lines([row, FIRST])
    assert len(lines) == 4
    assert words in lines[2]
    assert cells(as_html([row, FIRST]))[2] == [lines[2]]


PROBE = EpochEnd("probe", 0, 0.3, {"loss": 0.2, "accuracy": 0.75})


@pytest.mark.parametrize(
    ("results", "is_worse"),
    [
        ({"loss": 0.1, "accuracy": 0.5}, True),
        ({"loss": 0.3, "accuracy": 0.75}, True),
        ({"loss": float("nan"), "accuracy": 0.75}, True),
        ({"loss": 0.9, "accuracy": 0.8}, False),
        ({"loss": 0.2, "accuracy": 0.75}, False),
        ({"loss": 0.2 + 1e-7, "accuracy": 0.75}, False),
        ({"loss": 0.9}, False),
        ({}, False),
    ],
)
def test_the_end_says_when_it_is_worse_than_the_probe(results: dict[str, float], is_worse: bool):
    note = note_at_end([PROBE, FIRST, EpochEnd("unfrozen", 0, 0.1, results)])
    assert bool(note) == is_worse
    assert ("which had accuracy 0.7500, loss 0.2000" in note) == is_worse


def test_the_last_of_several_probes_is_the_measure():
    better = EpochEnd("probe", 0, 0.3, {"loss": 0.1, "accuracy": 0.9})
    assert "accuracy 0.9000" in note_at_end([PROBE, better, FIRST])
    assert note_at_end([better, FIRST, PROBE]) == ""
    assert note_at_end([]) == ""


def test_what_an_epoch_lacks_is_empty():
    assert cells(as_html([FIRST, BARE]))[2] == ["fit", "2", "0.2500", "", "", "0.0"]
    assert as_lines([FIRST, BARE])[2].split() == ["fit", "2", "0.2500", "0.0"]
    assert len({len(line) for line in as_lines([FIRST, BARE])}) == 1


def test_notes_alone_are_no_table():
    assert as_html(["first", "second"]) == "<div>first</div><div>second</div>"


def test_names_are_text_in_html():
    html = as_html(["<note>", EpochEnd("<b>", 0, 0.5, {"f<1>": 0.5})])
    assert "<div>&lt;note&gt;</div>" in html
    assert cells(html)[0][3] == "f&lt;1&gt;"
    assert cells(html)[1][0] == "&lt;b&gt;"


def test_html_has_no_colour_of_its_own():
    assert not re.search(r"colou?r|background", as_html(["a", FIRST, "b"]))


def test_the_history_is_a_table_in_a_notebook():
    history = History()
    assert history._repr_html_() == "<div>History(0 epochs, 0 steps)</div>"
    history.on_epoch_end(FIRST)
    assert cells(history._repr_html_())[1][0] == "frozen"


def test_the_table_of_a_history_ends_with_what_is_worse_than_the_probe():
    history = History()
    history.on_epoch_end(PROBE)
    history.on_epoch_end(FIRST)
    assert cells(history._repr_html_())[-1] == [note_at_end([PROBE, FIRST])]
