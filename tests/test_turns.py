"""Turns: what runs in another thread, or a forked process, changes no number of a training."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_python
from support import FILES_ALONE, copy_of, same_state, tiny_learner
from torch import Tensor

from finetune import Callback, ImageDataLoaders, Learner, turns, vision_learner
from finetune.randomness import isolated, seed_everything
from finetune.training.events import StepEnd

SECONDS = 20
"""After which a test that waits for another thread fails."""


# --- turns


def test_whoever_is_alone_has_the_turn_until_he_leaves():
    order = []

    def shares() -> None:
        with turns.shared():
            order.append("shared")

    with turns.alone():
        thread = threading.Thread(target=shares)
        thread.start()
        thread.join(0.05)
        order.append("alone")
    thread.join(SECONDS)
    assert order == ["alone", "shared"]


def test_predictions_share_a_turn():
    meeting = threading.Barrier(2)

    def shares() -> None:
        with turns.shared():
            meeting.wait(SECONDS)

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(shares) for _ in range(2)]:
            future.result()


def test_a_turn_inside_of_a_turn_is_a_part_of_it():
    with turns.alone(), turns.shared(), turns.alone():
        pass
    with turns.shared(), turns.alone():
        pass


def test_a_step_waits_no_longer_than_for_the_predictions_that_were_there_before():
    """And these do not have to wait for all steps that are to come."""
    order: list[str] = []

    def trains() -> None:
        with turns.alone():
            order.append("step")

    def predicts() -> None:
        with turns.shared():
            order.append("prediction")

    with turns.shared():
        threads = []
        for work in (trains, predicts, trains):
            threads.append(threading.Thread(target=work))
            threads[-1].start()
            threads[-1].join(0.05)
    for thread in threads:
        thread.join(SECONDS)
    assert order == ["step", "prediction", "step"]


def take_a_turn() -> bool:
    with turns.alone():
        return True


def test_an_error_ends_a_turn():
    with pytest.raises(KeyError), turns.alone():
        raise KeyError
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(take_a_turn).result(SECONDS)


@contextmanager
def interrupted_at(place: int) -> Iterator[None]:
    """Ctrl-C at one of the places in turns.py that are passed inside of the block.

    Python looks for signals where a function begins, and behind each call.
    """
    places_left = [place]

    def profile(frame: Any, event: str, _: object) -> None:
        is_place = event in ("call", "c_return") and frame.f_code.co_filename == turns.__file__
        if is_place and frame.f_code.co_name not in ("__init__", "__del__"):
            places_left[0] -= 1
            if places_left[0] == 0:
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("kind", [turns.alone, turns.shared])
def test_ctrl_c_at_any_moment_leaves_no_turn_behind(kind: Callable[[], Any]):
    interrupts = 0
    for place in range(1, 30):
        try:
            with interrupted_at(place), kind():
                pass
        except KeyboardInterrupt:
            interrupts += 1
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(take_a_turn).result(SECONDS)
    assert 5 < interrupts < 29


@pytest.mark.parametrize("kind", [turns.alone, turns.shared])
def test_ctrl_c_at_any_moment_of_a_wait_leaves_no_place_behind(
    kind: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(turns, "_SECONDS_WAITED", 0.001)
    interrupts = 0
    for place in range(1, 30):
        has_turn, may_end = threading.Event(), threading.Event()

        def holds(has_turn: Any = has_turn, may_end: Any = may_end) -> None:
            with turns.alone():
                has_turn.set()
                may_end.wait(0.02)

        with ThreadPoolExecutor(2) as threads:
            holder = threads.submit(holds)
            has_turn.wait(SECONDS)
            try:
                with interrupted_at(place), kind():
                    pass
            except KeyboardInterrupt:
                interrupts += 1
            may_end.set()
            holder.result(SECONDS)
            assert threads.submit(take_a_turn).result(SECONDS)
    assert interrupts > 10


def test_ctrl_c_while_it_waits_ends_the_wait():
    may_end = threading.Event()

    def holds() -> None:
        with turns.alone():
            threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
            has_turn.set()
            may_end.wait(SECONDS)

    has_turn = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        holder = threads.submit(holds)
        has_turn.wait(SECONDS)
        with pytest.raises(KeyboardInterrupt), turns.shared():
            pass
        may_end.set()
        holder.result(SECONDS)
        assert threads.submit(take_a_turn).result(SECONDS)


# --- training while another thread works


class InAnotherThread(Callback):
    """Does some work in another thread, again and again, for as long as a fit runs."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.count = 0
        self.errors: list[BaseException] = []
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._repeat)

    def _repeat(self) -> None:
        while not self.is_over.is_set():
            try:
                self.work()
                self.count += 1
            except BaseException as error:
                self.errors.append(error)

    def on_step_end(self, event: StepEnd) -> None:
        if not self.thread.is_alive():
            self.thread.start()

    def on_fit_end(self, event: object) -> None:
        self.is_over.set()
        self.thread.join(SECONDS)


WORKS: dict[str, Callable[[Learner, Any], Any]] = {
    "predict": lambda learner, item: learner.predict(item),
    "validate": lambda learner, item: learner.validate(),
    "predictions": lambda learner, item: learner.predictions(),
}


def fit_beside(
    new: Callable[[], Learner], work: Callable[[Learner, Any], Any], item: Any, epochs: int = 8
) -> None:
    """Asserts that a fit ends with the same weights as one beside which nothing happens."""
    usual, watched = new(), new()
    usual.fit(epochs, 1e-2, cache_features=False)
    beside = InAnotherThread(lambda: work(watched, item))
    generator = torch.get_rng_state()
    watched.fit(epochs, 1e-2, cache_features=False, callbacks=[beside])
    assert beside.errors == []
    assert beside.count
    assert same_state(usual.model.state_dict(), watched.model.state_dict())
    assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_what_dropout_and_samplers_draw_is_not_disturbed(work: Callable[..., Any]):
    fit_beside(lambda: tiny_learner(3), work, torch.ones(4))


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_norms_that_are_folded_for_a_step_are_not_seen(photos: Path, work: Callable[..., Any]):
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)

    def new() -> Learner:
        return vision_learner(
            data, "test_resnet", weights=None, progress=False, norm="eval", precision="bf16"
        )

    fit_beside(new, work, photos / "red" / "000.jpg", epochs=4)


def test_learners_train_in_several_threads_as_one_after_the_other():
    def trained(seed: int) -> dict[str, Tensor]:
        learner = learners[seed]
        learner.fit(3, 1e-2)
        return copy_of(learner.model.state_dict())

    learners = [tiny_learner(3, dropout=0.5 / (1 + seed)) for seed in range(2)]
    expected = [trained(seed) for seed in range(2)]
    learners = [tiny_learner(3, dropout=0.5 / (1 + seed)) for seed in range(2)]
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(trained, range(2)))
    assert all(map(same_state, expected, results))


# --- generators


def test_blocks_of_several_threads_restore_what_was_before_the_first():
    before = torch.get_rng_state()
    inner_has_begun, outer_has_ended = threading.Event(), threading.Event()

    def inner() -> None:
        with isolated():
            inner_has_begun.set()
            outer_has_ended.wait(SECONDS)
            torch.rand(3)

    thread = threading.Thread(target=inner)
    with isolated():
        seed_everything(0, "test")
        thread.start()
        inner_has_begun.wait(SECONDS)
    outer_has_ended.set()
    thread.join(SECONDS)
    assert torch.equal(before, torch.get_rng_state())


# --- forked processes


FORKS = """
import os, signal, sys, warnings
from pathlib import Path
import torch
from finetune import ImageDataLoaders, vision_learner

warnings.simplefilter("ignore")
torch.set_num_threads(2)
photos = Path(sys.argv[1])
data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
learner = vision_learner(data, "test_resnet", weights=None, progress=False)

data.show_batch(4)
photo = photos / "red" / "000.jpg"
answer = learner.predict(photo).label
child = os.fork()
if not child:
    signal.alarm(60)
    assert learner.predict(photo).label == answer
    learner.fit(1)
    learner.validate()
    list(learner.predict_folder(photos, progress=False))
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this platform")
def test_a_fork_trains_and_predicts_after_the_process_before_it_has(photos: Path):
    assert run_python(FORKS, photos).stdout == "0\n"


IMPORTED_ALONE = """
import os
import torch
import finetune.turns

torch.set_num_threads(2)
child = os.fork()
if not child:
    os._exit(torch.get_num_threads())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this platform")
def test_the_forks_of_a_process_that_has_computed_nothing_keep_their_threads():
    done = subprocess.run(
        [sys.executable, "-c", FILES_ALONE + IMPORTED_ALONE],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "2\n"
