"""Python programs in processes of their own, without the seconds of importing torch in each.

A server has imported it, and forks a process for each program: that knows nothing of the process
that runs the tests. It is not for tests of imports, or of what is decided by them.
"""

import atexit
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TextIO

import pytest

SECONDS = 300
"""A program that takes longer is killed."""

IMPORTED = ("pytest", "torchmetrics", "jsonargparse", "matplotlib.figure", "finetune.cli")

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(IMPORTED))


class Program:
    """A program that runs, with text streams to and from it.

    code: the text of a script, or its file. environment: variables that are set before it begins,
    too late for what torch reads when it is imported.
    """

    def __init__(
        self, code: str | Path, *arguments: object, environment: Mapping[str, str] | None = None
    ) -> None:
        _start_server()
        their_input, our_output = _CONTEXT.Pipe(duplex=False)
        our_input, their_output = _CONTEXT.Pipe(duplex=False)
        # a file, because a pipe that nobody reads would fill up
        self._errors = NamedTemporaryFile("r")  # noqa: SIM115
        words = [str(argument) for argument in arguments]
        self._process = _CONTEXT.Process(
            target=_run,
            args=(their_input, their_output, self._errors.name, code, words, environment or {}),
        )
        self._process.start()
        their_input.close()
        their_output.close()
        self.stdin = _stream(our_output, "w")
        self.stdout = _stream(our_input, "r")

    def wait(self, text: str = "") -> "subprocess.CompletedProcess[str]":
        """Writes `text` to the program; returns what it prints from now on, and how it ends."""
        self.stdin.write(text)
        self.stdin.close()
        timer = threading.Timer(SECONDS, self._process.kill)
        timer.start()
        printed = self.stdout.read()
        self.stdout.close()
        self._process.join()
        timer.cancel()
        code = self._process.exitcode
        assert code is not None
        errors = self._errors.read()
        self._errors.close()
        self._process.close()
        return subprocess.CompletedProcess([], code, printed, errors)


def run_python(
    code: str | Path, *arguments: object, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """What a program prints, and how it ends."""
    return Program(code, *arguments, environment=environment).wait()


def run_together(
    count: int, code: str | Path, *arguments: object
) -> list["subprocess.CompletedProcess[str]"]:
    """As `run_python`, for so many processes that know of each other as under torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = []
    for rank in range(count):
        environment = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": count,
            "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "GLOO_SOCKET_IFNAME": "lo",
        }
        variables = {name: str(value) for name, value in environment.items()}
        programs.append(Program(code, *arguments, environment=variables))
    # what they print fits into the pipes, so that none waits for another one to be read
    return [program.wait() for program in programs]


def _start_server() -> None:
    """Starts the server, unless it runs; it must import the package that the tests import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        forkserver.ensure_running()


def _stream(connection: Connection, mode: str) -> TextIO:
    stream = open(os.dup(connection.fileno()), mode, encoding="utf-8")  # noqa: SIM115
    connection.close()
    return stream  # type: ignore[return-value]


def _run(
    stdin: Connection,
    stdout: Connection,
    stderr: str,
    code: str | Path,
    arguments: list[str],
    environment: Mapping[str, str],
) -> None:
    """What the new process does."""
    os.environ.update(environment)
    os.dup2(stdin.fileno(), 0)
    os.dup2(stdout.fileno(), 1)
    os.dup2(os.open(stderr, os.O_WRONLY), 2)
    stdin.close()
    stdout.close()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["-c", *arguments]
    atexit._clear()  # what the server has registered is not this program's
    try:
        if isinstance(code, Path):
            runpy.run_path(str(code), run_name="__main__")
        else:
            exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
    finally:
        # a fork of multiprocessing would end without it
        atexit._run_exitfuncs()
