"""finetune serve: which models it takes, where it listens."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from finetune.cli import main
from finetune.web import listening


def test_a_run_is_served_on_the_loopback_address(
    run_folder: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers: list[Any] = []

    def listen(application: Any, socket: Any, *, open_browser: bool) -> None:
        assert socket.getsockname()[0] == "127.0.0.1"
        client = TestClient(application, base_url=listening.address_of(socket))
        photo = next(photos.rglob("*.jpg"))
        answers.append(client.post("/predict", files={"images": photo.read_bytes()}).json())
        assert client.get("/model").json()["most_images"] == 5

    monkeypatch.setattr(listening, "listen", listen)
    assert main(["serve", str(run_folder), "--port", "0", "--images", "5"]) == 0
    assert "3 classes) answers at http://127.0.0.1:" in capsys.readouterr().out
    assert answers[0]["predictions"][0]["label"] in ("blue", "green", "red")


def test_what_can_not_be_served_is_an_error(
    run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, error in (
        ([photos], "is no exported model"),
        (
            [run_folder, "--images", "0"],
            "--images must be a whole number of at least 1 and",
        ),
        ([run_folder, "--port", "-5"], "must be a whole number of at least 0 and at most 65535"),
    ):
        assert main(["serve", *map(str, words)]) == 1
        assert error in capsys.readouterr().err
