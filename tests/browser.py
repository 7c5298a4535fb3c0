"""The browser of the tests that look at pages, and where its screenshots go."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SCREENSHOTS = Path(os.environ.get("CI_ARTIFACTS", Path(__file__).parents[1] / "artifacts"))


@contextmanager
def command_with_a_page(*words: object) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A command of finetune that listens, at a free port; see `server_of`."""
    with server_of("-m", "finetune", *words, "--port", "0") as server:
        yield server


@contextmanager
def server_of(*words: object) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Python with these words, which listens: the address that it prints, and its process.

    Ctrl-C ends it, after which its standard output can be read, and is to be closed.
    """
    command = [sys.executable, *map(str, words)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        address = None
        while address is None:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{command} ended: {process.stderr.read()}")
            address = re.search(r"http://\S+", line)
        yield address[0], process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stderr.close()
