"""Progress: a bar and a table on a terminal, plain lines in a pipe."""

import contextlib
import fcntl
import pty
import struct
import sys
import termios
import types

import pytest
from support import StopAt, tiny_data, tiny_learner

from finetune import Learner
from finetune.callbacks.progress import Progress
from finetune.training.events import EpochEnd, EpochStart, FitEnd, FitStart, StepEnd


def play(progress: Progress, *, first_epoch: int = 0, reason: str = "finished") -> None:
    progress.on_fit_start(FitStart(("frozen",), 4, 2, ("body", "head"), first_epoch))
    progress.on_epoch_start(EpochStart("frozen", 0, 2, 0))
    for step in range(2):
        progress.on_step_end(StepEnd("frozen", 0, step, 0.5, (1e-3,), ()))
    progress.on_epoch_end(EpochEnd("frozen", 0, 0.5, {"loss": 0.25, "accuracy": 0.75}, 1.5))
    progress.on_fit_end(FitEnd(reason))


def on_a_terminal(monkeypatch, progress: Progress) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with open(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        play(progress)
    text = b""
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as screen:
        while part := screen.read(4096):  # an OSError says that nobody writes any more
            text += part
    return text.decode()


def test_a_pipe_gets_a_table_without_control_characters(capsys):
    play(Progress())
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "phase       epoch  train loss  valid loss   accuracy    seconds",
        "frozen          1      0.5000      0.2500     0.7500        1.5",
    ]
    assert all(c == "\n" or c.isprintable() for c in out)


def test_a_terminal_gets_a_bar_and_the_table(monkeypatch):
    text = on_a_terminal(monkeypatch, Progress())
    assert "frozen 1:   0%" in text
    assert "\r" in text
    assert text.rstrip().endswith("0.7500        1.5")


def test_a_notebook_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    play(Progress())
    assert "frozen 1:   0%" in capsys.readouterr().out


def test_the_header_comes_once(capsys):
    learner = tiny_learner(data=tiny_data(count=8), progress=True, metrics=["accuracy"])
    learner.fine_tune(2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["phase", "frozen", "unfrozen", "unfrozen"]


def test_a_resumed_run_says_so(capsys):
    play(Progress(), first_epoch=3)
    assert capsys.readouterr().out.startswith("continuing after 3 of 4 epochs\n")


@pytest.mark.parametrize("reason", ["stopped: enough", "interrupted"])
def test_an_early_end_is_told(capsys, reason: str):
    play(Progress(), reason=reason)
    assert capsys.readouterr().out.endswith(f"{reason}\n")


def test_an_error_in_the_middle_closes_the_bar(capsys):
    progress = Progress()
    progress.on_epoch_start(EpochStart("fit", 0, 2, 0))
    progress.on_fit_end(FitEnd("failed: mine"))
    assert capsys.readouterr().out == ""


def test_an_end_without_a_beginning_is_harmless(capsys):
    Progress().on_fit_end(FitEnd("failed: mine"))
    assert capsys.readouterr().out == ""


def test_a_quiet_learner_prints_nothing(capsys):
    learner: Learner = tiny_learner(data=tiny_data(count=8))
    learner.fine_tune(1, callbacks=[StopAt(1)])
    learner.resume()
    assert capsys.readouterr().out == ""
