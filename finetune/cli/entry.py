"""main: finds the command, parses its options, answers with text or JSON, and an exit code."""

import csv
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib.metadata import version
from typing import Any

from finetune.cli.as_json import as_json
from finetune.cli.mistakes import in_options
from finetune.wording import did_you_mean

COMMANDS = {
    "train": "fine-tune a backbone on a folder of images; continues an interrupted run",
    "lr-find": "measure a learning rate on your images",
    "evaluate": "metrics of a trained model on labelled images",
    "predict": "the classes of images, or of all in a folder",
    "export": "a trained model in other formats",
    "models": "the backbones there are, by pattern",
    "inspect": "what is in a folder of images, a run, a model, a checkpoint, a backbone",
    "demo": "see it work in about a minute, without a network",
}
_EXPECTED = (
    ValueError, TypeError, KeyError, OSError, RuntimeError, ArithmeticError, ImportError, csv.Error,
)  # fmt: skip


def _help() -> str:
    listed = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    return (
        "usage: finetune COMMAND ...\n\nFrom a folder of images to a classifier you trust.\n\n"
        f"commands:\n{listed}\n\n"
        "examples:\n"
        "  finetune demo\n"
        "  finetune train photos/ --model convnext_tiny --epochs 5 --output runs/photos\n"
        "  finetune predict runs/photos image1.jpg image2.png\n\n"
        "finetune COMMAND --help says more; finetune --version says which one this is.\n"
        "Exit codes: 0 done, 1 could not, 2 wrong usage, 130 interrupted."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 could not, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = words[0] if words else ""
    if first in ("-h", "--help"):
        print(_help())
        return 0
    if first == "--version":
        print(f"finetune {version('finetune-vision')}")
        return 0
    name = first.replace("_", "-")
    if name not in COMMANDS:
        found = f"there is no command {first!r}; {did_you_mean(name, COMMANDS)}"
        _say(found if first else f"say what to do: {', '.join(COMMANDS)}", "", " (see finetune -h)")
        return 2
    with _plain_warnings():
        return _run(name, words[1:])


def _run(name: str, words: Sequence[str]) -> int:
    command = importlib.import_module(f"finetune.cli.{name.replace('-', '_')}")
    parser = command.parser()
    try:
        options: dict[str, Any] = parser.parse(words)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    for_machines = options.pop("json", False)
    try:
        with redirect_stdout(sys.stderr) if for_machines else nullcontext():
            result, code = command.run(options)
        if for_machines:
            print(as_json(result))
        sys.stdout.flush()
    except KeyboardInterrupt:
        hint = "; the same command continues the run" if name == "train" else ""
        print(f"interrupted{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _EXPECTED as error:
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        _say(in_options(text, parser.hints), f" {name}")
        return 1
    return int(code)


def _say(text: str, command: str = "", hint: str = "") -> None:
    print(f"finetune{command}: error: {text}{hint}", file=sys.stderr)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """In a terminal, a warning is its text, without a line of our source."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"finetune: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual
