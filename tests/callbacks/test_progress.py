"""Progress: a bar and a table on a terminal, plain lines in a pipe."""

import contextlib
import fcntl
import pty
import struct
import sys
import termios
import types
from collections.abc import Callable

import pytest
from support import StopAt, tiny_data, tiny_learner

from finetune import ImageDataLoaders, Learner, vision_learner
from finetune.callbacks.progress import Progress
from finetune.training.events import (
    EpochEnd,
    EpochStart,
    FitEnd,
    FitStart,
    PhaseStart,
    Precompute,
    StepEnd,
)


def play(progress: Progress, *, first_epoch: int = 0, reason: str = "finished") -> None:
    progress.on_fit_start(FitStart(("frozen",), 4, 2, ("body", "head"), first_epoch))
    progress.on_epoch_start(EpochStart("frozen", 0, 2, 0))
    for step in range(2):
        progress.on_step_end(StepEnd("frozen", 0, step, 0.5, (1e-3,), ()))
    progress.on_epoch_end(EpochEnd("frozen", 0, 0.5, {"loss": 0.25, "accuracy": 0.75}, 1.5))
    progress.on_fit_end(FitEnd(reason))


def play_features(progress: Progress, *, views: int = 2, first_epoch: int = 0) -> None:
    """Two epochs of one step, both with a view to compute."""
    progress.on_fit_start(FitStart(("frozen",), 2, 1, ("body", "head"), first_epoch))
    progress.on_phase_start(PhaseStart("frozen", 2, 1))
    for epoch in range(2):
        progress.on_epoch_start(EpochStart("frozen", epoch, 1, 0))
        for done in (32, 64, 70):
            progress.on_precompute(Precompute("frozen", epoch % views + 1, views, done, 70))
        if epoch == 0:
            progress.on_precompute(Precompute("frozen", None, views, 9, 9))
        progress.on_step_end(StepEnd("frozen", epoch, 0, 0.5, (1e-3,), ()))
        progress.on_epoch_end(EpochEnd("frozen", epoch, 0.5, {}, 1.5))
    progress.on_fit_end(FitEnd("finished"))


def on_a_terminal(monkeypatch, progress: Progress, play: Callable[[Progress], None] = play) -> str:
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


def told_of_features(text: str) -> list[str]:
    return [line for line in text.splitlines() if "frozen layers" in line]


@pytest.mark.parametrize(("views", "words"), [(1, "1 view"), (2, "2 views")])
def test_precomputing_is_told_once_a_phase(capsys, views: int, words: str):
    play_features(Progress(), views=views)
    out = capsys.readouterr().out
    assert told_of_features(out) == [
        f"frozen: the frozen layers run once for {words} of each picture"
    ]
    assert all(c == "\n" or c.isprintable() for c in out)


def test_precomputing_is_told_again_in_the_next_fit(capsys):
    progress = Progress()
    play_features(progress)
    play_features(progress)
    assert len(told_of_features(capsys.readouterr().out)) == 2


def test_precomputing_is_told_before_the_table(capsys):
    play_features(Progress())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["frozen:", "phase", "frozen", "frozen"]


def test_precomputing_has_a_bar_of_pictures(monkeypatch):
    text = on_a_terminal(monkeypatch, Progress(), play_features)
    for name in ("view 1 of 2", "view 2 of 2", "validation"):
        assert f"features, {name}: " in text
    assert " 32/70 " in text
    assert " 9/9 " in text


def test_precomputing_is_told_on_a_line_of_its_own(monkeypatch):
    text = on_a_terminal(monkeypatch, Progress(), play_features)
    before, _, _ = text.partition("frozen: the frozen layers")
    assert before.endswith(("\n", "\r"))


def test_the_bar_of_steps_comes_back_after_precomputing(monkeypatch):
    text = on_a_terminal(monkeypatch, Progress(), play_features)
    assert text.index("features, validation: ") < text.index("frozen 1: 100%")


def test_a_fit_that_precomputes_tells_so(capsys, photos):
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_efficientnet", weights=None)
    learner.fine_tune(1, freeze_epochs=3, freeze_views=2)
    assert told_of_features(capsys.readouterr().out) == [
        "frozen: the frozen layers run once for 2 views of each picture"
    ]


def test_a_fit_that_precomputes_nothing_says_nothing_of_it(capsys):
    tiny_learner(data=tiny_data(count=8), progress=True).fine_tune(1)
    assert not told_of_features(capsys.readouterr().out)
