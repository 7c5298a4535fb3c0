"""Progress: bars and a table on a terminal, plain lines in a pipe."""

import os
import re
import signal
import sys
import time

import pytest
from processes import run_python
from support import StopAt, tiny_data, tiny_learner
from terminal import on_a_terminal, screen_after
from tqdm import tqdm

from finetune import Callback, EarlyStopping, History, ImageDataLoaders, Learner, vision_learner
from finetune.callbacks.epoch_table import as_lines
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

HEAD = "phase       epoch  train loss  valid loss   accuracy    seconds"
ROW = "frozen          1      0.5000      0.2500     0.7500        1.5"


def play(
    progress: Progress, *, first_epoch: int = 0, reason: str = "finished", pause: float = 0.0
) -> None:
    """The first of two phases, one epoch of two steps."""
    phases = ("frozen", "unfrozen")
    progress.on_fit_start(FitStart(phases, 4, 2, ("body", "head"), first_epoch))
    progress.on_phase_start(PhaseStart("frozen", 1, 1))
    progress.on_epoch_start(EpochStart("frozen", 0, 2, 0))
    for step in range(2):
        time.sleep(pause)
        progress.on_step_end(StepEnd("frozen", 0, step, 0.5, (1e-3,), ()))
    progress.on_epoch_end(EpochEnd("frozen", 0, 0.5, {"loss": 0.25, "accuracy": 0.75}, 1.5))
    progress.on_fit_end(FitEnd(reason))


def play_features(progress: Progress, *, views: int = 2, pause: float = 0.0) -> None:
    """Two epochs of one step, both with a view to compute."""
    progress.on_fit_start(FitStart(("frozen",), 2, 3, ("body", "head"), 0))
    progress.on_phase_start(PhaseStart("frozen", 2, 1))
    for epoch in range(2):
        progress.on_epoch_start(EpochStart("frozen", epoch, 1, 0))
        for done in (32, 64, 70):
            time.sleep(pause)
            progress.on_precompute(Precompute("frozen", epoch % views + 1, views, done, 70))
        if epoch == 0:
            time.sleep(pause)
            progress.on_precompute(Precompute("frozen", None, views, 9, 9))
        time.sleep(pause)
        progress.on_step_end(StepEnd("frozen", epoch, 0, 0.5, (1e-3,), ()))
        progress.on_epoch_end(EpochEnd("frozen", epoch, 0.5, {}, 1.5))
    progress.on_fit_end(FitEnd("finished"))


@pytest.fixture
def seconds(monkeypatch) -> list[float]:
    """A clock that stands still unless its one number is changed."""
    seconds = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    return seconds


def play_epochs(
    seconds: list[float], *, step: float, steps: int, epochs: int = 1, validates: bool = False
) -> None:
    """step: its seconds."""
    progress = Progress()
    progress.on_fit_start(FitStart(("fit",), epochs, steps, ("a",), 0, validates=validates))
    progress.on_phase_start(PhaseStart("fit", epochs, 0))
    for epoch in range(epochs):
        progress.on_epoch_start(EpochStart("fit", epoch, steps, 0))
        for i in range(steps):
            seconds[0] += step
            progress.on_step_end(StepEnd("fit", epoch, i, 0.5, (1e-3,), ()))
        progress.on_epoch_end(EpochEnd("fit", epoch, 0.5, {}, step * steps))
    progress.on_fit_end(FitEnd("finished"))


class Slowly(Callback):
    """Long enough a step for the bars to be drawn now and then."""

    def on_step_end(self, event: StepEnd) -> None:
        time.sleep(0.03)


# --- lines


def test_a_pipe_gets_a_table_without_control_characters(capsys):
    play(Progress())
    assert capsys.readouterr().out == f"{HEAD}\n{ROW}\n"


def test_a_program_in_a_pipe_writes_the_table_and_nothing_else():
    code = (
        "from support import tiny_data, tiny_learner\n"
        "tiny_learner(data=tiny_data(8), progress=True, metrics=['accuracy']).fine_tune(2)\n"
    )
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.split("\n")
    assert lines[0] == HEAD
    assert [line.split()[:2] for line in lines[1:]] == [
        ["frozen", "1"], ["unfrozen", "1"], ["unfrozen", "2"], [],
    ]  # fmt: skip
    assert all(c.isprintable() for line in lines for c in line)


def test_a_terminal_that_moves_no_cursor_gets_lines(monkeypatch):
    def act() -> None:
        monkeypatch.setenv("TERM", "dumb")
        play(Progress())

    text = on_a_terminal(monkeypatch, act)
    assert text.splitlines() == [HEAD, ROW]


def test_the_header_comes_once(capsys):
    learner = tiny_learner(data=tiny_data(count=8), progress=True, metrics=["accuracy"])
    learner.fine_tune(2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["phase", "frozen", "unfrozen", "unfrozen"]


def test_a_long_name_of_a_phase_moves_the_columns_of_all_rows(capsys):
    progress = Progress()
    phases = ("frozen", "body_2 and above")
    progress.on_fit_start(FitStart(phases, 2, 2, ("body_1", "body_2", "head"), 0))
    rows = [EpochEnd(phase, 0, 0.5, {"loss": 0.25, "accuracy": 0.75}, 1.5) for phase in phases]
    for row in rows:
        progress.on_epoch_end(row)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "phase            epoch  train loss  valid loss   accuracy    seconds",
        "frozen               1      0.5000      0.2500     0.7500        1.5",
        "body_2 and above     1      0.5000      0.2500     0.7500        1.5",
    ]
    assert as_lines(rows) == lines  # as of the history


def test_a_resumed_run_says_so(capsys):
    play(Progress(), first_epoch=3)
    assert capsys.readouterr().out.startswith("continuing after 3 of 4 epochs\n")


@pytest.mark.parametrize("reason", ["stopped: enough", "interrupted"])
def test_an_early_end_is_told(capsys, reason: str):
    play(Progress(), reason=reason)
    assert capsys.readouterr().out.endswith(f"{reason}\n")


def test_the_end_says_when_it_is_worse_than_the_probe_before(capsys):
    learner = tiny_learner(data=tiny_data(8), progress=True)
    perfect = dict.fromkeys(learner.validate(), 1.0) | {"loss": 0.0}
    learner.history.on_epoch_end(EpochEnd("probe", 0, 0.0, perfect))
    learner.fit(1, 1e-3)
    assert capsys.readouterr().out.splitlines()[-1].startswith("worse than the probe before it")


def test_a_fit_that_is_interrupted_is_not_compared_to_the_probe(capsys):
    history = History()
    history.on_epoch_end(EpochEnd("probe", 0, 0.0, {"loss": 0.1}))
    history.on_epoch_end(EpochEnd("frozen", 0, 0.0, {"loss": 0.2}))
    play(Progress(history), reason="interrupted")
    assert "worse" not in capsys.readouterr().out


def test_a_phase_that_ended_early_is_told_between_the_rows(capsys):
    learner = tiny_learner(data=tiny_data(8), progress=True)
    stopping = EarlyStopping(patience=2, min_delta=10.0)
    learner.fine_tune(1, freeze_epochs=5, callbacks=[stopping])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["phase", *["frozen"] * 4, "unfrozen"]
    assert re.fullmatch(r"frozen stopped: loss no better than 0\.\d+ for 2 epochs", lines[4])


def test_a_long_epoch_in_a_pipe_says_every_minute_how_far_it_is(capsys, seconds):
    play_epochs(seconds, step=5.0, steps=30)
    lines = capsys.readouterr().out.split("\n")
    assert lines[:2] == [
        "fit 1/1  40%, 12/30 steps, loss 0.5000, 01:30 left",
        "fit 1/1  80%, 24/30 steps, loss 0.5000, 00:30 left",
    ]
    assert [line.split()[:2] for line in lines[2:]] == [["phase", "epoch"], ["fit", "1"], []]
    assert all(c.isprintable() for line in lines for c in line)


def test_short_epochs_in_a_pipe_are_rows_alone(capsys, seconds):
    play_epochs(seconds, step=5.0, steps=8, epochs=9)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["fit", f"{i}"] for i in range(1, 10)]


def test_an_error_in_the_middle_is_told_by_the_error(capsys):
    progress = Progress()
    progress.on_fit_start(FitStart(("fit",), 1, 2, ("a",), 0))
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


# --- bars


def test_a_terminal_gets_bars_and_is_left_with_the_table(monkeypatch):
    text = on_a_terminal(monkeypatch, lambda: play(Progress(), pause=0.11))
    assert "frozen 1/1   0%|" in text
    assert re.search(r"\| 1/2 steps, loss 0.5000, \d+:\d\d left", text)
    assert "run         12%|" in text
    screen = screen_after(text)
    assert screen.lines == [HEAD, ROW]
    assert (screen.row, screen.column) == (2, 0)


def test_the_bar_says_that_validation_runs(monkeypatch, seconds):
    def act() -> None:
        play_epochs(seconds, step=0.04, steps=31, validates=True)  # the last is no time for a bar

    text = on_a_terminal(monkeypatch, act)
    assert "30/31 steps, loss 0.5000, 00:00 left" in text
    assert "31/31 steps, loss 0.5000, validating" in text


@pytest.mark.parametrize(("steps", "validates"), [(31, False), (4, True)])
def test_without_validation_or_after_a_short_epoch_the_bar_does_not(
    monkeypatch, seconds, steps: int, validates: bool
):
    def act() -> None:
        play_epochs(seconds, step=0.04, steps=steps, validates=validates)

    assert "validating" not in on_a_terminal(monkeypatch, act)


def test_time_left_is_more_where_frozen_layers_will_train(monkeypatch):
    text = on_a_terminal(monkeypatch, lambda: play(Progress(), pause=0.11))
    assert re.search(r"0/4 epochs, \d+:\d\d so far, \d+:\d\d\+ left", text)


def test_time_left_counts_validation_and_the_present_phase_alone(monkeypatch, seconds):
    def act() -> None:
        progress = Progress()
        progress.on_fit_start(FitStart(("a", "b"), 4, 1, ("body", "head"), 0))
        for phase, step in (("a", 10), ("b", 50)):
            progress.on_phase_start(PhaseStart(phase, 2, 0))
            for epoch in range(2):
                progress.on_epoch_start(EpochStart(phase, epoch, 1, 0))
                seconds[0] += step
                progress.on_step_end(StepEnd(phase, epoch, 0, 0.5, (1e-3,), ()))
                seconds[0] += 2  # validation
                progress.on_epoch_end(EpochEnd(phase, epoch, 0.5))
        progress.on_fit_end(FitEnd("finished"))

    text = on_a_terminal(monkeypatch, act)
    assert "| 1/4 epochs, 00:12 so far, 00:36 left" in text
    assert "| 2/4 epochs, 00:24 so far" in text
    assert "00:24 so far, " not in text  # nothing is known of the second phase
    assert "| 3/4 epochs, 01:16 so far, 00:52 left" in text


def test_time_left_leaves_out_what_is_computed_once(monkeypatch, seconds):
    def act() -> None:
        progress = Progress()
        progress.on_fit_start(FitStart(("a",), 5, 1, ("body", "head"), 0))
        progress.on_phase_start(PhaseStart("a", 5, 1))
        for epoch in range(2):
            progress.on_epoch_start(EpochStart("a", epoch, 1, 0))
            for done in (0, 50):
                seconds[0] += 100
                progress.on_precompute(Precompute("a", epoch + 1, 2, done, 100))
            seconds[0] += 10
            progress.on_step_end(StepEnd("a", epoch, 0, 0.5, (1e-3,), ()))
            progress.on_epoch_end(EpochEnd("a", epoch, 0.5))
        progress.on_fit_end(FitEnd("finished"))

    text = on_a_terminal(monkeypatch, act)
    assert "| 50/100 images, 01:40 left" in text
    assert "| 0/5 epochs, 03:30 so far, 00:40 left" in text
    assert "| 1/5 epochs, 06:50 so far, 00:40 left" in text  # while it computes the second view
    assert "| 1/5 epochs, 07:00 so far, 00:30 left" in text


def test_bars_are_drawn_ten_times_a_second_at_most(monkeypatch):
    class Many(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            time.sleep(0.001)

    learner = tiny_learner(data=tiny_data(400), progress=True, callbacks=[Many()])
    started = time.perf_counter()
    text = on_a_terminal(monkeypatch, lambda: learner.fit(2))
    seconds = time.perf_counter() - started
    # a row redraws them, too, and an end clears them
    assert text.count(" steps") <= seconds * 10 + 6


def test_a_step_costs_little_when_nothing_is_drawn(capsys):
    progress = Progress()
    progress.on_fit_start(FitStart(("fit",), 1, 20_000, ("a",), 0))
    progress.on_phase_start(PhaseStart("fit", 1, 0))
    progress.on_epoch_start(EpochStart("fit", 0, 20_000, 0))
    event = StepEnd("fit", 0, 0, 0.5, (1e-3,), ())
    shortest = 1.0
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(1000):
            progress.on_step_end(event)
        shortest = min(shortest, time.perf_counter() - started)
    assert shortest / 1000 < 10e-6


def test_the_bar_of_the_run_counts_a_phase_that_ended_early(monkeypatch):
    def act() -> None:
        progress = Progress()
        progress.on_fit_start(FitStart(("a", "b"), 10, 1, ("body", "head"), 0))
        progress.on_phase_start(PhaseStart("a", 5, 1))
        progress.on_epoch_start(EpochStart("a", 0, 1, 0))
        time.sleep(0.11)
        progress.on_phase_start(PhaseStart("b", 5, 0))
        progress.on_epoch_start(EpochStart("b", 0, 1, 0))
        progress.on_fit_end(FitEnd("finished"))

    text = on_a_terminal(monkeypatch, act)
    assert "run     0%|" in text
    assert "run    50%|" in text
    assert "5/10 epochs" in text


def test_a_resumed_run_counts_the_epochs_before(monkeypatch):
    def act() -> None:
        learner = tiny_learner(data=tiny_data(16), callbacks=[Slowly()])
        learner.fine_tune(3, callbacks=[StopAt(10)])
        learner.progress = True
        learner.resume()

    text = on_a_terminal(monkeypatch, act)
    assert "unfrozen 2/3  50%|" in text
    assert "run           62%|" in text
    lines = screen_after(text).lines
    assert lines[0] == "continuing after 2 of 4 epochs"
    assert [line.split()[:2] for line in lines[2:]] == [["unfrozen", "2"], ["unfrozen", "3"]]


def test_ctrl_c_leaves_the_table_and_what_was_said(monkeypatch):
    class Interrupt(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            if event.phase == "unfrozen" and event.step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    def act() -> None:
        learner = tiny_learner(data=tiny_data(16), progress=True, callbacks=[Slowly()])
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            learner.fine_tune(1, callbacks=[Interrupt()])
        print("after")

    lines = screen_after(on_a_terminal(monkeypatch, act)).lines
    assert [line.split()[0] for line in lines] == [
        "phase", "frozen", "stopping", "interrupted", "after",
    ]  # fmt: skip


def test_an_error_leaves_no_bars(monkeypatch):
    class Fail(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            if event.phase == "unfrozen":
                raise OSError("the disk is full")

    def act() -> None:
        learner = tiny_learner(data=tiny_data(8), progress=True)
        with pytest.raises(OSError, match="the disk is full"):
            learner.fine_tune(1, callbacks=[Slowly(), Fail()])
        print("after")

    lines = screen_after(on_a_terminal(monkeypatch, act)).lines
    assert [line.split()[0] for line in lines] == ["phase", "frozen", "after"]


def test_a_fit_inside_a_fit_has_its_own_bars_and_table(monkeypatch):
    class Inner(Callback):
        def on_epoch_end(self, event: EpochEnd) -> None:
            inner = tiny_learner(data=tiny_data(8), progress=True, callbacks=[Slowly()])
            inner.fit(1)

    def act() -> None:
        learner = tiny_learner(
            data=tiny_data(16), progress=True, metrics=["accuracy"], callbacks=[Slowly()]
        )
        learner.fine_tune(1, callbacks=[Inner()])
        print("after")

    lines = screen_after(on_a_terminal(monkeypatch, act)).lines
    inner = ["phase", "fit"]
    assert [line.split()[0] for line in lines] == [
        *inner, "phase", "frozen", *inner, "unfrozen", "after",
    ]  # fmt: skip


def test_a_bar_of_the_program_stays_below_the_tables(monkeypatch):
    def act() -> None:
        for seed in tqdm(range(2), desc="seeds", file=sys.stdout):
            tiny_learner(data=tiny_data(8, seed=seed), progress=True, callbacks=[Slowly()]).fit(1)

    lines = screen_after(on_a_terminal(monkeypatch, act)).lines
    assert [line.split()[0] for line in lines] == ["phase", "fit", "phase", "fit", "seeds:"]


# --- frozen layers, run once


def told_of_features(text: str) -> list[str]:
    return [line for line in text.splitlines() if "the layers before see" in line]


@pytest.mark.parametrize(
    ("views", "words"), [(1, "each image only once"), (2, "only 2 random views of each image")]
)
def test_precomputing_is_told_once_a_phase(capsys, views: int, words: str):
    play_features(Progress(), views=views)
    out = capsys.readouterr().out
    assert told_of_features(out) == [f"frozen: only head trains; the layers before see {words}"]
    assert all(c == "\n" or c.isprintable() for c in out)


def test_an_epoch_of_one_step_is_mentioned_once_a_fit(capsys):
    tiny_learner(data=tiny_data(count=4), progress=True).fine_tune(2)
    tiny_learner(data=tiny_data(count=8), progress=True).fine_tune(1)
    assert capsys.readouterr().out.count("an epoch is one step; a smaller batch_size=") == 1


def test_precomputing_is_told_again_in_the_next_fit(capsys):
    progress = Progress()
    play_features(progress)
    play_features(progress)
    assert len(told_of_features(capsys.readouterr().out)) == 2


def test_precomputing_is_told_before_the_table(capsys):
    play_features(Progress())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["frozen:", "phase", "frozen", "frozen"]


def test_precomputing_has_a_bar_of_images_then_steps_have_theirs(monkeypatch):
    text = on_a_terminal(monkeypatch, lambda: play_features(Progress(), pause=0.11))
    for name in ("view 1 of 2", "view 2 of 2", "validation"):
        assert f"features, {name} " in text
    assert re.search(r"\| 64/70 images, \d+:\d\d left", text)
    assert "| 9/9 images" in text
    assert text.index("features, validation ") < text.index("frozen 1/2 100%")
    lines = screen_after(text).lines
    assert [line.split()[0] for line in lines] == ["frozen:", "phase", "frozen", "frozen"]


def test_a_fit_that_precomputes_tells_so(capsys, photos):
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_efficientnet", weights=None)
    learner.fine_tune(1, freeze_epochs=3, freeze_views=2)
    assert told_of_features(capsys.readouterr().out) == [
        "frozen: only head trains; the layers before see only 2 random views of each image",
        "body_2 and above: only body_2 and head train; the layers before see each image only once",
    ]


def test_a_fit_that_precomputes_nothing_says_nothing_of_it(capsys):
    tiny_learner(data=tiny_data(count=8), progress=True).fine_tune(1)
    assert not told_of_features(capsys.readouterr().out)
