"""What a mistake on the command line or in a config file is answered with: one line."""

import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from finetune.wording import did_you_mean

_PLAIN = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false",
    list: "a list", dict: "a mapping", type(None): "null",
}  # fmt: skip


def reworded(message: str, command: str, hints: Mapping[str, Any]) -> str:
    """The parser's message in one line of plain words, with the nearest name.

    hints: name of an option -> its type.

    >>> reworded('Parser key "epochs": Expected an int. Got value: x', "train", {"epochs": int})
    "epochs needs a whole number, got 'x'"
    >>> reworded("unrecognized arguments: --epohcs 3", "train", {"epochs": int})
    "there is no option --epohcs; did you mean '--epochs'?"
    """
    text = " ".join(message.split())
    if unknown := re.search(r"unrecognized arguments: (\S+)|Option '(\S+)' is not accepted", text):
        return _unknown(unknown[1], unknown[2], command, hints)
    if wrong := re.search(r'Parser key "(\w+)": .*(?:Got|Given) value: ?(.*)$', text):
        name, value = wrong[1], wrong[2]
        needs = wanted(hints[name]) if name in hints else "another value"
        near = did_you_mean(value, words) if (words := _words(hints.get(name))) else ""
        return f"{name} needs {needs}, got {value!r}" + (f"; {near}" if near[:3] == "did" else "")
    if missing := re.search(r'Parser key "config": (.*)$', text):
        gone = re.search(r"File does not exist: '(.*)'$", missing[1])
        said = absent(gone[1]) if gone else f"{missing[1][0].lower()}{missing[1][1:]}"
        return f"config file: {said}"
    text = re.sub(r"^Unexpected config:.*", "the config file holds no settings (key: value)", text)
    text = re.sub(r"^Problems parsing config: ", "the config file is no valid YAML: ", text)
    return text.replace('in "<unicode string>", ', "in ")


def _unknown(option: str | None, key: str | None, command: str, names: Iterable[str]) -> str:
    """Of an option, a key in a config file, or a word too many."""
    if key is not None:
        return f"the config file has an unknown key {key!r}; {did_you_mean(key, names)}"
    name = (option or "").partition("=")[0]
    if not name.startswith("-"):
        return f"{command} takes no further argument, got {name!r}"
    near = did_you_mean(name.replace("_", "-"), [f"--{own}".replace("_", "-") for own in names])
    return f"there is no option {name.replace('_', '-')}; {near}"


def absent(path: str | Path) -> str:
    """That there is no such path, and which name beside it is nearly the same.

    >>> absent("nowhere/images")
    "'nowhere/images' does not exist"
    """
    first = Path(path)
    while not first.parent.is_dir():  # the folder that the mistake may be in
        first = first.parent
    near = did_you_mean(first.name, sorted(entry.name for entry in first.parent.iterdir()))
    return f"{str(path)!r} does not exist" + (f"; {near}" if near.startswith("did") else "")


def wanted(hint: Any) -> str:
    """A type in words.

    >>> wanted(Literal["crop", "pad"] | float | None)
    "'crop', 'pad', a number or null"
    """
    if get_origin(hint) is Literal:
        return _or([repr(value) for value in get_args(hint)])
    if get_origin(hint) in (Union, types.UnionType):
        literal = [repr(v) for part in get_args(hint) for v in _words(part)]
        others = [wanted(part) for part in get_args(hint) if get_origin(part) is not Literal]
        return _or([*dict.fromkeys(literal + others)])
    return _PLAIN.get(get_origin(hint) or hint, getattr(hint, "__name__", str(hint)))


def _words(hint: Any) -> list[str]:
    """The texts that a type is one of, if it is."""
    if get_origin(hint) in (Union, types.UnionType):
        return [word for part in get_args(hint) for word in _words(part)]
    return list(get_args(hint)) if get_origin(hint) is Literal else []


def _or(parts: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def in_options(message: str, names: Iterable[str]) -> str:
    """An error of the library, its arguments as options of the command line.

    >>> in_options("pass train='a', valid='b', or weights=None", ["train", "valid", "weights"])
    'pass --train a, --valid b, or --weights null'
    >>> in_options("pass split= to say where", ["split"])
    'pass --split to say where'
    """

    def option(found: re.Match[str]) -> str:
        value = found[2].strip("'") if found[2] else ""
        value = {"None": "null", "True": "", "False": "false"}.get(value, value)
        return f"--{found[1].replace('_', '-')} {value}".rstrip()

    known = "|".join(map(re.escape, names))
    return re.sub(rf"(?<![\w.-])({known})=('[^']*'|\w+)?", option, " ".join(message.split()))
