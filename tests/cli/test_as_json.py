"""What commands answer to machines."""

import json
from collections import namedtuple
from typing import Any

import pytest

from finetune.cli import demo as demo_command
from finetune.cli import main, models
from finetune.cli.as_json import as_json


def test_numbers_that_are_not_finite_are_null() -> None:
    row = namedtuple("row", "r2")(float("-inf"))
    value = {"a": [1, 2.5, float("nan")], "b": {"c": (float("inf"), None)}, "row": row, "t": "NaN"}
    expected = {"a": [1, 2.5, None], "b": {"c": [None, None]}, "row": [None], "t": "NaN"}
    assert json.loads(as_json(value)) == expected


def test_commands_answer_without_nan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "run", lambda options: ({"r2": float("nan")}, 0))
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"r2": None}


def test_the_demo_answers_in_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune import demo

    def run(output: str) -> dict[str, Any]:
        print("words")
        return {"accuracy": 0.97}

    monkeypatch.setattr(demo, "run", run)
    assert "json" in demo_command.parser().parse([])
    assert main(["demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"accuracy": 0.97}
