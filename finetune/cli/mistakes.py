"""UsageError, and the words in which a mistake of a user is answered: one line each."""

import difflib
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

_TYPES_IN_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
    Path: "a file",
}


class UsageError(ValueError):
    """What a user typed, or wrote in a config file, is wrong; the message is one line."""


def wrong_value(name: str, hint: Any, value: Any) -> str:
    """That the value of an option is not of its type, with the nearest word if there is one.

    name: as it was written, an option of the command line or a key of a config file.

    >>> wrong_value("--resize", Literal["crop", "pad"], "crap")
    "--resize needs 'crop' or 'pad', got 'crap'; did you mean 'crop'?"
    >>> wrong_value("epochs", int, None)
    'epochs needs a whole number, got null'
    """
    shown_value = "null" if value is None else repr(value)
    message = f"{name} needs {type_in_words(hint)}, got {shown_value}"
    return message + _nearest(str(value), _choices(hint))


def absent(path: str | Path) -> str:
    """That there is no such path, and which name beside it is nearly the same.

    >>> absent("nowhere/images")
    "'nowhere/images' does not exist"
    """
    first_absent = Path(path)
    while not first_absent.parent.is_dir():
        first_absent = first_absent.parent
    neighbours = sorted(entry.name for entry in first_absent.parent.iterdir())
    return f"{str(path)!r} does not exist" + _nearest(first_absent.name, neighbours)


def _nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no name is near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    if not near:
        return ""
    return f"; did you mean {near[0]!r}?"


def type_in_words(hint: Any) -> str:
    """What a value of this type is called in a message; the words to choose from come first.

    >>> type_in_words(Literal["crop", "pad"] | float | None)
    "'crop', 'pad', a number or null"
    """
    alternatives = [repr(choice) for choice in _choices(hint)]
    for member in _members(hint):
        if get_origin(member) is not Literal:
            plain_type = get_origin(member) or member
            alternatives.append(_TYPES_IN_WORDS.get(plain_type, plain_type.__name__))
    # several kinds of list are one alternative
    alternatives = list(dict.fromkeys(alternatives))
    if len(alternatives) == 1:
        return alternatives[0]
    return f"{', '.join(alternatives[:-1])} or {alternatives[-1]}"


def accepts_null(hint: Any) -> bool:
    """Whether None is of this type.

    >>> accepts_null(float | None), accepts_null(float)
    (True, False)
    """
    return type(None) in _members(hint)


def _choices(hint: Any) -> list[str]:
    """The words that a value may be, if its type lists them."""
    choices: list[str] = []
    for member in _members(hint):
        if get_origin(member) is Literal:
            choices.extend(get_args(member))
    return choices


def _members(hint: Any) -> tuple[Any, ...]:
    """The types that a union is of; a type that is no union is its only member."""
    if get_origin(hint) in (Union, types.UnionType):
        return get_args(hint)
    return (hint,)


def check_suffix(name: str, file: str, suffixes: Iterable[str]) -> None:
    """Raises ValueError unless a file that is to be written ends in one of these.

    >>> check_suffix("output", "predictions.txt", [".csv", ".jsonl"])
    Traceback (most recent call last):
        ...
    ValueError: output='predictions.txt' must end in .csv or .jsonl
    """
    known = list(suffixes)
    if Path(file).suffix.lower() not in known:
        *all_but_last, last = known
        listed = f"{', '.join(all_but_last)} or {last}" if all_but_last else last
        raise ValueError(f"{name}='{file}' must end in {listed}")


def in_options(message: str, names: Iterable[str]) -> str:
    """An error of our own library, its Python arguments rewritten as options of the command line.

    >>> in_options("pass train='a', valid='b', or weights=None", ["train", "valid", "weights"])
    'pass --train a, --valid b, or --weights null'
    >>> in_options("pass split= to say where", ["split"])
    'pass --split to say where'
    >>> in_options("batch_size must be a whole number", ["batch_size"])
    '--batch-size must be a whole number'
    """
    any_name = "|".join(re.escape(name) for name in names)
    # `name=`, with a quoted text, a plain word or no value behind it; no part of a longer name
    start_of_rule = "(?= must be )"  # as the checks of arguments begin
    argument = re.compile(
        rf"(?<![\w.-])(?P<name>{any_name})(?:=(?P<value>'[^']*'|\w+)?|{start_of_rule})"
    )
    return argument.sub(_as_option, " ".join(message.split()))


def _as_option(argument: re.Match[str]) -> str:
    option = f"--{argument['name'].replace('_', '-')}"
    value = (argument["value"] or "").strip("'")
    if value in ("", "True"):
        return option
    in_yaml = {"None": "null", "False": "false"}
    return f"{option} {in_yaml.get(value, value)}"
