"""main: finds the command, parses its options, answers with text or JSON, and an exit code."""

import csv
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib.metadata import version
from typing import Any

from finetune import launch
from finetune.cli.as_json import as_json
from finetune.cli.mistakes import UsageError, in_options
from finetune.wording import did_you_mean

COMMANDS = {
    "train": "fine-tune a backbone on a folder of images; continues an interrupted run",
    "compare": "which backbone suits your images, without training any",
    "lr-find": "measure a learning rate on your images",
    "cross-validate": "metrics with standard errors, from training on parts of your images",
    "evaluate": "metrics of a trained model on labelled images",
    "clean": "find wrong labels, and decide about each on a page in the browser",
    "predict": "the classes of images, or of all in a folder",
    "serve": "answers for images on a page in the browser, and as JSON",
    "export": "a trained model in other formats",
    "push": "a trained model to the Hugging Face hub",
    "models": "the backbones there are, by pattern",
    "inspect": "what is in a folder of images, a run, a model, a checkpoint, a backbone",
    "pack": "a folder of images as tar files, for network disks and object stores",
    "demo": "see it work in about a minute, without a network",
}

DONE, COULD_NOT, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

_EXPECTED = (
    ValueError, TypeError, KeyError, OSError, RuntimeError, ArithmeticError, ImportError, csv.Error,
)  # fmt: skip
"""What the library raises about a user's images, files and settings: shown without a traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 could not, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # the name of a file need not be valid UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _answer(words)
        # here, where a broken pipe is caught, and not at the end of the process
        sys.stdout.flush()
    except KeyboardInterrupt:
        hint = "; the same command continues the run" if words[:1] == ["train"] else ""
        print(f"interrupted{hint}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has enough
        _discard_output()
        return DONE
    return code


def _discard_output() -> None:
    """Or else Python would complain of the broken pipe once more when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _answer(words: Sequence[str]) -> int:
    """Does what the words of a command line say; returns the exit code."""
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return DONE
    if words[0] == "--version":
        print(f"finetune {version('finetune-vision')}")
        return DONE
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        _print_error(f"there is no command {words[0]!r}; {hint} (see finetune -h)")
        return WRONG_USAGE
    with _plain_warnings():
        return _parse_and_run(name, words[1:])


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    listed = "\n".join(f"  {name:<{width}}{text}" for name, text in COMMANDS.items())
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


def _parse_and_run(name: str, words: Sequence[str]) -> int:
    # imported here, as some commands import torch, which takes seconds
    command = importlib.import_module(f"finetune.cli.{name.replace('-', '_')}")
    parser = command.parser()
    try:
        options = parser.parse(words)
    except SystemExit:  # it has printed what --help or --print-config asks for
        return DONE
    except UsageError as mistake:
        if launch.rank() == 0:  # all processes have the same words
            _print_error(str(mistake), name)
        return WRONG_USAGE
    try:
        return _run(command, options)
    except BrokenPipeError:
        if name != "train":
            raise
        _discard_output()
        _print_error("nobody reads the output; the same command continues the run", name)
        return COULD_NOT
    except _EXPECTED as error:
        _print_error(in_options(_message(error), parser.hints), name)
        return COULD_NOT


def _run(command: Any, options: dict[str, Any]) -> int:
    """Runs the command; as JSON, its result is all that standard output gets."""
    is_for_machines = options.pop("json", False)
    with _output_for_people(is_for_machines):
        result, code = command.run(options)
    if is_for_machines and launch.rank() == 0:
        print(as_json(result))
    sys.stdout.flush()  # a pipe that is broken says so here
    return int(code)


@contextmanager
def _output_for_people(is_for_machines: bool) -> Iterator[None]:
    """Standard output goes where people read it: once, however many processes print."""
    if launch.rank() > 0:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    else:
        with redirect_stdout(sys.stderr) if is_for_machines else nullcontext():
            yield


def _message(error: BaseException) -> str:
    """The error's text; of a KeyError without the quotes that Python puts around it."""
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    return str(error)


def _print_error(text: str, command: str = "") -> None:
    program = f"finetune {command}".rstrip()
    if launch.rank() > 0:
        program += f" (process {launch.rank()})"
    print(f"{program}: error: {text}", file=sys.stderr)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """In a terminal, a warning is its text, without a line of our source."""
    usual_format = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"finetune: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual_format
