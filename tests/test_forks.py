"""A lock that another thread held at the moment of a fork is free in the child."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import FILES_ALONE

import finetune

PACKAGE = Path(finetune.__file__).parent

HELD_BY_A_THREAD = f"""
{FILES_ALONE}
import os, signal, threading
from finetune.forks import ForkSafeLock

lock, is_held, may_end = ForkSafeLock(), threading.Event(), threading.Event()

def holds():
    with lock.held():
        is_held.set()
        may_end.wait()

threading.Thread(target=holds, daemon=True).start()
is_held.wait()
child = os.fork()
if not child:
    signal.alarm(10)
    with lock.held(), lock.held():
        os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
may_end.set()
"""

HELD_BY_THE_ONE_THAT_FORKS = f"""
{FILES_ALONE}
import os, signal
from finetune.forks import ForkSafeLock

lock = ForkSafeLock()
with lock.held():
    child = os.fork()
    signal.alarm(10)
with lock.held():
    pass
if not child:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this platform")
@pytest.mark.parametrize("script", [HELD_BY_A_THREAD, HELD_BY_THE_ONE_THAT_FORKS])
def test_a_forked_process_finds_it_free(script: str):
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"


def test_the_package_has_no_other_locks():
    for file in PACKAGE.rglob("*.py"):
        if file.name in ("forks.py", "turns.py"):  # which see to forks themselves
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            is_lock = isinstance(node, ast.Attribute) and node.attr in (
                "Lock", "RLock", "Condition", "Semaphore"
            )  # fmt: skip
            assert not is_lock, f"{file}:{node.lineno}: use ForkSafeLock"
