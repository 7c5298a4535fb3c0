"""One process that fails, stops, ends, or does something else, ends the others, which say why."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from processes import run_together
from torchruns import torchrun

BEGIN = """
import os, signal, sys, time
from pathlib import Path
import torch
from support import StopAt, same_state, tiny_learner
from finetune import Callback, Save, distributed

rank = int(os.environ["RANK"])
folder = Path(sys.argv[1])

class AtStep(Callback):
    def __init__(self, step, work):
        self.left, self.work = step, work

    def on_step_end(self, event):
        self.left -= 1
        return self.work() if self.left == 0 else None

def fail():
    raise ArithmeticError("the third step is odd")

learner = tiny_learner()
"""


def ends_of(code: str, folder: Path, count: int = 2) -> list["subprocess.CompletedProcess[str]"]:
    return run_together(count, BEGIN + code, folder)


def last_line(program: "subprocess.CompletedProcess[str]") -> str:
    return program.stderr.rstrip().splitlines()[-1]


def test_an_error_in_one_process_is_told_by_the_others(tmp_path: Path) -> None:
    code = """
learner.fit(3, callbacks=[AtStep(3, fail)] if rank == 1 else [])
"""
    first, second, third = ends_of(code, tmp_path, 3)
    assert [rank.returncode for rank in (first, second, third)] == [1, 1, 1]
    assert last_line(second) == "ArithmeticError: the third step is odd"
    for rank in (first, third):
        assert last_line(rank).endswith(
            "ProcessError: process 1 failed in a fit: ArithmeticError: the third step is odd"
        )


def test_what_one_process_is_asked_for_all_do(tmp_path: Path) -> None:
    """A Stop ends all at the same step, and a file is written by the first one."""
    code = """
learner.fit(3, callbacks=[StopAt(3)] if rank == 1 else [])
print(len(learner.history.steps), learner.trainer.run.ended)
save = AtStep(2, lambda: Save(folder / "asked.ckpt"))
learner.fit(1, callbacks=[save] if rank == 1 else [])
print((folder / "asked.ckpt").is_file())
"""
    for rank in ends_of(code, tmp_path):
        assert rank.returncode == 0, rank.stderr
        assert rank.stdout == "3 stopped: that is enough (in process 1)\nTrue\n"


def test_processes_that_begin_different_things_are_told(tmp_path: Path) -> None:
    """Both can go on: nothing has begun."""
    code = """
try:
    learner.validate() if rank == 0 else learner.fit(1)
except RuntimeError as error:
    print(error)
learner.fit(1)
print(len(learner.history.steps))
"""
    first, second = ends_of(code, tmp_path)
    told = "process {} has begun {}, and process {} {}; all processes must call the same\n8\n"
    assert first.stdout == told.format(0, "validate()", 1, "a fit"), first.stderr
    assert second.stdout == told.format(1, "a fit", 0, "validate()"), second.stderr


def test_what_one_process_calls_alone_works_or_is_an_error(tmp_path: Path) -> None:
    code = """
learner.fit(1)
if rank == 0:
    print(len(learner.predictions()), learner.predict(torch.zeros(4)).label in ("no", "yes"))
    learner.save(folder / "alone.ckpt")
    learner.load(folder / "alone.ckpt")
    learner.validate()
"""
    first, second = ends_of(code, tmp_path)
    assert (second.returncode, second.stderr) == (0, "")
    assert first.stdout == "32 True\n", first.stderr
    assert last_line(first).endswith(
        "process 0 waits in validate() for process 1, which has ended; all processes must call it"
    )


@pytest.mark.parametrize("call", ["fit(1)", "lr_find(steps=20)"])
def test_an_error_elsewhere_in_the_script_is_told_by_those_who_wait(
    call: str, tmp_path: Path
) -> None:
    first, second = ends_of(f"learner.{call} if rank == 0 else sys.exit('wrong')", tmp_path)
    assert (first.returncode, second.returncode) == (1, 1)
    assert "waits in" in last_line(first)
    assert "for process 1, which has ended" in last_line(first)


def test_a_file_is_there_for_all_when_they_have_saved(tmp_path: Path) -> None:
    code = """
if rank == 0:
    learner.save(folder / "alone.ckpt")  # the others need not call it
learner.fit(1)
if rank == 0:
    slow_state = learner.trainer.state_dict
    learner.trainer.state_dict = lambda: (time.sleep(0.5), slow_state())[1]
learner.save(folder / "run.ckpt")
print((folder / "run.ckpt").is_file())
try:
    learner.save(folder / "run.ckpt" / "file")
except OSError:
    print("is not written")
except RuntimeError as error:
    print(str(error).partition("(")[0])
"""
    first, second = ends_of(code, tmp_path)
    assert first.stdout == "True\nis not written\n", first.stderr
    assert second.stdout == "True\nprocess 0 failed in save\n", second.stderr


def test_a_process_that_is_killed_is_missed(tmp_path: Path) -> None:
    code = """
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
learner.fit(3, callbacks=[AtStep(3, kill)] if rank == 1 else [])
"""
    first, second = ends_of(code, tmp_path)
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 1
    assert "process 0 has lost another process in a fit, which ended without" in last_line(first)


def test_a_checkpoint_may_be_on_a_disk_of_the_first_process(tmp_path: Path) -> None:
    code = """
own = folder / str(rank) / "run.ckpt"
interrupt = AtStep(11, lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    learner.fit(2, callbacks=[interrupt] if rank == 1 else [], checkpoint=own)
except KeyboardInterrupt:
    print("interrupted")
again = tiny_learner()
again.fit(2, checkpoint=own)
whole = tiny_learner()
whole.fit(2)
print(own.is_file(), len(again.history.steps))
print(same_state(whole.model.state_dict(), again.model.state_dict()))
"""
    first, second = ends_of(code, tmp_path)
    assert first.stdout == "interrupted\nTrue 16\nTrue\n", first.stderr
    assert second.stdout == "interrupted\nFalse 16\nTrue\n", second.stderr


def test_a_file_that_can_not_be_written_is_an_error_in_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code = """
learner.fit(1, checkpoint=folder / "file" / "run.ckpt")
"""
    for rank in ends_of(code, tmp_path):
        assert rank.returncode == 1
        assert last_line(rank).startswith(("NotADirectoryError", "FileExistsError"))


# --- what takes seconds


@pytest.mark.slow
def test_a_process_that_waits_for_one_that_goes_on_elsewhere_is_ended(tmp_path: Path) -> None:
    """The first one waits inside of torch, and the second one has caught its error."""
    code = """
try:
    learner.fit(3, callbacks=[AtStep(3, fail)] if rank == 1 else [])
except ArithmeticError:
    time.sleep(20)
    print("has slept")
"""
    first, second = ends_of(code, tmp_path)
    assert (first.returncode, second.stdout) == (1, "has slept\n")
    assert last_line(first) == (
        "process 0 ends, since process 1 failed in a fit: ArithmeticError: the third step is odd"
    )


@pytest.mark.slow
def test_torchrun_ends_with_the_error_of_a_process(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    code = "learner.fit(3, callbacks=[AtStep(3, fail)] if rank == 1 else [])"
    script.write_text(f"{BEGIN}\n{code}\n")
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = torchrun(script, tmp_path, environment=environment)
    assert done.returncode == 1
    assert "[rank1]: ArithmeticError: the third step is odd" in done.stderr
