"""Tables as plain text."""

import pytest
from rich.table import Table

from finetune.plain_text import drawn


@pytest.mark.parametrize("notebook", [False, True])
def test_a_table_becomes_text_in_a_notebook_too(
    notebook: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: notebook)
    table = Table("class", "count")
    table.add_row("cat", "3")
    assert {"class", "count", "cat", "3"} <= {*drawn(table, 80).replace("│", " ").split()}
    assert capsys.readouterr().out == ""


def test_a_class_may_be_called_like_an_emoji() -> None:
    table = Table("class")
    table.add_row(":cat:")
    assert ":cat:" in drawn(table, 80)
