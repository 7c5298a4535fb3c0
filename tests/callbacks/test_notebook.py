"""Progress and LivePlot in a real kernel, as a notebook's file keeps them."""

import base64
import re
import textwrap
import time
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import finetune
from finetune import LivePlot

ROOT = finetune.__file__.rpartition("/finetune/")[0]
CELLS = {
    "set-up": f"""
        import os, signal, sys, time
        sys.path[:0] = [{ROOT!r}, {ROOT + "/tests"!r}]
        from support import StopAt, tiny_data, tiny_learner
        from finetune import Callback, LivePlot

        class Slowly(Callback):
            def on_step_end(self, event):
                time.sleep(0.02)

        def new(count, **options):
            data = tiny_data(count)
            return tiny_learner(data=data, progress=True, metrics=["accuracy"], **options)

        learner = new(80, callbacks=[Slowly()])""",
    "fit": "learner.fine_tune(2)",
    "history": "learner.history",
    "nested": """
        class Inner(Callback):
            def on_epoch_end(self, event):
                new(8).fit(1)

        new(16).fit(2, callbacks=[Inner()])""",
    "interrupted": """
        class Interrupt(Callback):
            def on_step_end(self, event):
                if event.epoch == 1:
                    os.kill(os.getpid(), signal.SIGINT)

        try:
            new(16, callbacks=[Slowly()]).fit(2, callbacks=[Interrupt()])
        except KeyboardInterrupt:
            print("caught")""",
    "many": "new(8).fit(100)",
    "plot": "learner.fit(2, callbacks=[LivePlot(every=0.2)])",
    "captured": """
        import contextlib, io
        with contextlib.redirect_stdout(io.StringIO()) as text:
            new(8).fit(1)
        print(text.getvalue())""",
}


class Watched(NotebookClient):
    """Keeps when each content of an output was sent."""

    def __init__(self, notebook: Any, **options: object) -> None:
        super().__init__(notebook, **options)
        self.sent: dict[int, list[tuple[float, dict]]] = {}

    def process_message(self, msg: dict, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            row = (time.monotonic(), msg["content"]["data"])
            self.sent.setdefault(cell_index, []).append(row)
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def notebook() -> dict[str, tuple[list[Any], list[tuple[float, dict]]]]:
    """Cell -> its outputs, and what was sent over time."""
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(text)) for text in CELLS.values()]
    client = Watched(nbformat.v4.new_notebook(cells=cells), kernel_name="python3", timeout=120)
    client.execute()
    return {
        name: (client.nb.cells[i].outputs, client.sent.get(i, [])) for i, name in enumerate(CELLS)
    }


def rows_of(html: str) -> list[str]:
    """The first cell of each row of the table's body."""
    return re.findall(r"<tr><td[^>]*>(.*?)</td>", html)


def test_a_fit_leaves_one_output_with_a_row_per_epoch(notebook):
    (output,), _ = notebook["fit"]  # no second one, and nothing on stderr
    assert output.output_type == "display_data"
    assert set(output.data) == {"text/html", "text/plain"}  # no widget
    assert rows_of(output.data["text/html"]) == ["frozen", "unfrozen", "unfrozen"]
    assert "steps" not in output.data["text/html"]
    lines = output.data["text/plain"].splitlines()
    assert lines[0] == "phase       epoch  train loss  valid loss   accuracy    seconds"
    assert len(lines) == 4


def test_bars_are_shown_while_it_runs(notebook):
    _, sent = notebook["fit"]
    html = [data["text/html"] for _, data in sent]
    assert any(re.search(r"unfrozen 2/2<.*/20 steps, loss 0\.\d+, \d+:\d\d left<", h) for h in html)
    assert any(re.search(r">run<.*2/3 epochs, \d+:\d\d so far, \d+:\d\d left<", h) for h in html)
    assert any(re.search(r"unfrozen 2/2 +\d+%, \d+/20 steps", d["text/plain"]) for _, d in sent)


def test_bars_are_sent_four_times_a_second_at_most(notebook):
    _, sent = notebook["fit"]
    bars = [at for at, data in sent if "steps" in data["text/html"]]
    rows = 3  # each of which sends the bars, too
    assert len(bars) <= 4 * (sent[-1][0] - sent[0][0]) + 1 + rows


def test_a_hundred_short_epochs_are_not_sent_one_by_one(notebook):
    (output,), sent = notebook["many"]
    assert len(rows_of(output.data["text/html"])) == 100
    seconds = sent[-1][0] - sent[0][0]
    assert len(sent) <= 14 * seconds + 4


def test_the_history_is_a_table(notebook):
    (output,), _ = notebook["history"]
    assert rows_of(output.data["text/html"]) == ["frozen", "unfrozen", "unfrozen"]


def test_a_fit_inside_a_fit_has_its_own_output(notebook):
    outputs, _ = notebook["nested"]
    tables = [rows_of(output.data["text/html"]) for output in outputs]
    assert tables == [["fit", "fit"], ["fit"], ["fit"]]
    assert all("steps" not in output.data["text/html"] for output in outputs)


def test_an_interrupted_fit_leaves_its_table(notebook):
    outputs, _ = notebook["interrupted"]
    assert rows_of(outputs[0].data["text/html"]) == ["fit", "interrupted"]
    assert "steps" not in outputs[0].data["text/html"]
    assert [output.text.strip() for output in outputs[1:]] == [
        "stopping after this step; once more to stop at once",
        "caught",
    ]


def test_redirected_output_is_text(notebook):
    (output,), _ = notebook["captured"]
    assert output.text.splitlines()[0].startswith("phase ")
    assert output.text.splitlines()[1].startswith("fit ")


def test_a_live_plot_is_one_image_that_grows(notebook):
    outputs, sent = notebook["plot"]
    table, image = sorted(outputs, key=lambda output: "image/png" in output.data)
    assert rows_of(table.data["text/html"]) == ["fit", "fit"]
    images = [data["image/png"] for _, data in sent if "image/png" in data]
    assert len(set(images)) > 1
    assert image.data["image/png"] == images[-1]
    assert base64.b64decode(images[-1]).startswith(b"\x89PNG")


def test_a_live_plot_needs_a_notebook():
    with pytest.raises(RuntimeError, match=r"learner\.plot_losses\(\) draws the same"):
        LivePlot()


def test_a_live_plot_refuses_a_pause_that_is_none():
    with pytest.raises(ValueError, match="every must be a finite number of at least 0, got -1"):
        LivePlot(every=-1)
