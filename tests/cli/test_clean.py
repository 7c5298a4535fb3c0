"""finetune clean: which runs it takes, and what it leaves behind."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from finetune import corrections
from finetune.cli import main
from finetune.web import listening


@pytest.fixture
def decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who keeps the first image and then presses Ctrl-C."""

    def listen(page: Any, socket: Any, *, open_browser: bool) -> None:
        client = TestClient(page, base_url=listening.address_of(socket))
        client.post("/act", json={"do": "decide", "number": 0, "action": "keep"})

    monkeypatch.setattr(listening, "listen", listen)


@pytest.mark.usefixtures("decide")
def test_decisions_go_to_a_file(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "c.csv"
    words = ["clean", str(run_folder), "--output", str(output), "--port", "0", "--count", "5"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "images to judge at http://127.0.0.1:" in said
    assert f"1 keep, 0 relabel, 0 remove: {output}" in said
    (row,) = corrections.read(output)
    assert row.action == "keep"


def test_what_is_no_run_is_an_error(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, error in (
        ([tmp_path / "none"], "none"),
        ([run_folder / "model"], "is no run folder, which knows its images"),
        ([run_folder, "--output", "c.txt"], "--output c.txt must end in .csv"),
        ([run_folder, "--count", "0"], "must be a whole number of at least 1, got 0"),
        ([run_folder, "--port", "99999"], "must be a whole number of at least 0 and at most 65535"),
    ):
        assert main(["clean", *map(str, words)]) == 1
        assert error in capsys.readouterr().err
