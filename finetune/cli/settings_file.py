"""read_settings: the mapping that a YAML file of settings holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from finetune.cli.mistakes import UsageError, absent


def read_settings(path: Path, load: Callable[[str], Any] = yaml.safe_load) -> dict[Any, Any]:
    """The keys and values of a YAML file; load: reads YAML, and raises yaml.YAMLError.

    Raises UsageError when there is no such file, or when it holds anything but a YAML mapping.
    """
    if not path.exists():
        raise UsageError(absent(path))
    try:
        settings = load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{str(path)!r} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is no UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{str(path)!r} is no valid YAML: {_problem(error)}") from None
    if not isinstance(settings, dict):
        raise UsageError(f"{str(path)!r} holds no settings (key: value)")
    return settings


def _problem(error: yaml.YAMLError) -> str:
    """Where in the file what is wrong, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    # a mark counts from 0, editors from 1
    line, column = error.problem_mark.line + 1, error.problem_mark.column + 1
    place = f"line {line}, column {column}"
    if error.context is None:
        return f"{place}: {error.problem}"
    return f"{place}: {error.context}, {error.problem}"
