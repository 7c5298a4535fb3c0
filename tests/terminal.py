"""A pseudo-terminal and the screen that a person sees on it."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable

COLUMNS = 100


class Screen:
    """What control characters do to lines of text: those of a bar, any other is an error."""

    def __init__(self) -> None:
        self.cells: list[list[str]] = [[]]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        for part in re.findall(r"\x1b\[\d*[A-Za-z]|.", text, re.DOTALL):
            if part == "\r":
                self.column = 0
            elif part == "\n":
                self.row += 1
            elif part == "\x1b[A":
                self.row -= 1
            elif part == "\x1b[J":
                self.cells[self.row] = self.cells[self.row][: self.column]
                del self.cells[self.row + 1 :]
            else:
                assert part.isprintable(), f"unknown control character {part!r}"
                self._put(part)
            assert self.row >= 0, "above where it began"
            self.cells += [[] for _ in range(self.row + 1 - len(self.cells))]

    def _put(self, letter: str) -> None:
        line = self.cells[self.row]
        line += [" "] * (self.column + 1 - len(line))
        line[self.column] = letter
        self.column += 1
        assert self.column <= COLUMNS, "a bar that is wider than the terminal"

    @property
    def lines(self) -> list[str]:
        return "\n".join("".join(line).rstrip() for line in self.cells).rstrip().splitlines()


def on_a_terminal(monkeypatch, act: Callable[[], object]) -> str:
    """What `act()` writes while standard output and error are a terminal of 24 x 100."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    parts: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # which says that nobody writes any more
            while part := os.read(ours, 4096):
                parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with open(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            patch.setattr(sys, "stderr", terminal)
            patch.setenv("TERM", "xterm")
            act()
    finally:
        reader.join()
        os.close(ours)
    return b"".join(parts).decode()


def screen_after(text: str) -> Screen:
    screen = Screen()
    screen.feed(text)
    return screen
