"""read_settings: the mapping that a YAML file of settings holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from finetune.cli.mistakes import UsageError, absent

_MOST_BYTES = 100_000
_MOST_NODES = 50_000


class _TooLargeError(ValueError):
    """A file that is no reasonable file of settings."""


def read_settings(path: Path, load: Callable[[str], Any] = yaml.safe_load) -> dict[Any, Any]:
    """The keys and values of a YAML file; load: reads YAML, and raises yaml.YAMLError.

    Raises UsageError when there is no such file, or when it holds anything but a YAML mapping.
    """
    if not path.exists():
        raise UsageError(absent(path))
    try:
        text = _read_text(path)
        _check_expanded_size(yaml.compose(text, yaml.SafeLoader))
        settings = load(text)
    except RecursionError:
        raise UsageError(f"{str(path)!r} is nested too deeply for settings") from None
    except OSError as error:
        raise UsageError(f"{str(path)!r} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is no UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{str(path)!r} is no valid YAML: {_problem(error)}") from None
    except _TooLargeError as error:
        raise UsageError(f"{str(path)!r} is too large for settings: {error}") from None
    if not isinstance(settings, dict):
        raise UsageError(f"{str(path)!r} holds no settings (key: value)")
    return settings


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise _TooLargeError(f"it has more than {_MOST_BYTES:,} bytes")
    return content.decode("utf-8")


def _check_expanded_size(root: yaml.Node | None) -> None:
    """Raises _TooLargeError if the document, with its aliases written out, is too large.

    An alias of ten aliases, and so on, is a short file that would take all of the memory. Nodes are
    shared here, so that each is counted once.
    """
    sizes: dict[int, int] = {}

    def size_of(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        sizes[id(node)] = _MOST_NODES + 1  # what a node that contains itself would come to
        size = 1
        if isinstance(node, yaml.SequenceNode):
            size += sum(map(size_of, node.value))
        elif isinstance(node, yaml.MappingNode):
            size += sum(size_of(key) + size_of(value) for key, value in node.value)
        sizes[id(node)] = size
        return size

    if root is not None and size_of(root) > _MOST_NODES:
        raise _TooLargeError(f"its aliases stand for more than {_MOST_NODES:,} values")


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
