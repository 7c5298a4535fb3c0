"""CommandParser: what may be typed after a command, and what a config file may hold."""

import argparse
import inspect
import sys
from argparse import Action, ArgumentError
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, get_loader

from finetune.cli.mistakes import UsageError, accepts_null, type_in_words, wrong_value
from finetune.cli.settings_file import read_settings
from finetune.dictionary import our_option
from finetune.wording import did_you_mean

_OTHER_NAMES = {"backbone": "model", "arch": "model"}
"""What is called otherwise in a terminal than in Python."""


@dataclass(frozen=True, slots=True)
class _Argument:
    """A word without an option before it. Only a command's last one may be optional or several."""

    name: str
    nargs: Literal["?", "+"] | None
    default: str | None

    @property
    def in_usage(self) -> str:
        shown = {None: "{}", "?": "[{}]", "+": "{} ..."}[self.nargs]
        return shown.format(self.name.upper())


class CommandParser:
    """The arguments, options and settings of one command: reads them, and shows them as help.

    Words and config files are taken apart here, and jsonargparse is handed one value at a time with
    the type of its option. So the name, the type and the value of a mistake are known, and none of
    them has to be read out of a message. From jsonargparse come also the options and the help of a
    data class.
    """

    def __init__(self, command: str, description: str, examples: Sequence[str]) -> None:
        self.command = command
        self.hints: dict[str, Any] = {"help": bool}
        """Name of an option, with underscores -> type of its value."""
        self.setting_names: tuple[str, ...] = ()
        """The options that a config file may hold."""
        self._switches = {"help"}
        self._arguments: list[_Argument] = []
        indented_examples = "\n".join(f"  {example}" for example in examples)
        self._library = ArgumentParser(
            prog=f"finetune {command}",
            description=description,
            epilog=f"examples:\n{indented_examples}",
            formatter_class=_HelpFormatter,
            exit_on_error=False,
        )

    # What the command takes

    def add_argument(
        self,
        name: str,
        *,
        nargs: Literal["?", "+"] | None = None,
        default: str | None = None,
        help: str,
    ) -> None:
        """A word without an option before it; nargs: `?` for one or none, `+` for one or more."""
        self._arguments.append(_Argument(name, nargs, default))
        # jsonargparse only shows it, and lets it be absent: `_assign` finds whether it is missing
        self._library.add_argument(name, nargs="?", metavar=name.upper(), help=help)

    def option(self, name: str, kind: Any, default: Any = None, *, help: str) -> None:
        """An option with a value; name: with underscores."""
        self.hints[name] = kind
        self._library.add_argument(f"--{name}", type=kind, default=default, help=help)

    def switch(self, name: str, *, help: str) -> None:
        """An option without a value, which is then true; name: with underscores."""
        self.hints[name] = bool
        self._switches.add(name)
        self._library.add_argument(f"--{name}", action="store_true", help=help)

    def add_settings(self, kind: Any, *, unused: Iterable[str] = ()) -> None:
        """FOLDER, --config, and an option for each field of a data class: what a file may hold.

        The help has a group for each data class that it inherits from.
        unused: settings that change nothing here; a file for several commands may hold them, and
        the help leaves them out.
        """
        self.add_argument("folder", nargs="?", help="the images; the same as --data")
        self.hints["config"] = Path
        self._library.add_argument(
            "--config", metavar="FILE", help="YAML file with any of the settings below"
        )
        self.switch("print_config", help="print the settings as YAML, and do nothing")
        self.setting_names = tuple(field.name for field in fields(kind))
        self.hints.update(get_type_hints(kind))
        self._library.add_class_arguments(kind, as_group=False)
        hidden = set(unused)
        for action in self._library._actions:
            if action.dest in hidden:
                action.help = argparse.SUPPRESS
        for ancestor in reversed(kind.__mro__):
            names = set(vars(ancestor).get("__annotations__", {})) - hidden
            if names:
                title = str(inspect.getdoc(ancestor)).partition("\n")[0].rstrip(".")
                self._group_options(names, title)

    def _group_options(self, names: set[str], title: str) -> None:
        """Gives options that are there a group of their own in the help."""
        group = self._library.add_argument_group(title[0].lower() + title[1:])
        for action in self._library._actions:
            if action.dest not in names:
                continue
            for other_group in self._library._action_groups:
                if action in other_group._group_actions:
                    other_group._group_actions.remove(action)
            group._group_actions.append(action)

    # What a user typed

    def parse(self, words: Sequence[str]) -> dict[str, Any]:
        """Name -> value; what is typed wins over a config file, and a file over the defaults.

        Raises UsageError. Prints help or settings where they are asked for, and leaves the process
        with code 0.
        """
        # behind "--" there are arguments only, such as a file that is called "-h"
        options_end = list(words).index("--") if "--" in words else len(words)
        if not {"-h", "--help"}.isdisjoint(words[:options_end]):
            print(self.format_help(), end="")
            sys.exit(0)
        options, arguments = self._take_apart(words)
        from_files: dict[str, Any] = {}
        typed = self._assign(arguments)
        for name, text in options:
            if name == "config":
                from_files.update(self._read_config(Path(text).expanduser()))
            elif name in self._switches:
                typed[name] = True
            else:
                typed[name] = self._convert(name, text, written_as=_with_dashes(name))
        defaults: dict[str, Any] = self._library.get_defaults().as_dict()
        values = {**defaults, **from_files, **typed}
        values.pop("config", None)
        if values.pop("print_config", False):
            print(self._as_yaml(values), end="")
            sys.exit(0)
        return values

    def _take_apart(self, words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
        """Options, each a name with underscores and the text of its value, and the other words."""
        options: list[tuple[str, str]] = []
        arguments: list[str] = []
        remaining = deque(words)
        while remaining:
            word = remaining.popleft()
            if word == "--":
                arguments.extend(remaining)
                break
            if not _is_option(word):
                arguments.append(word)
                continue
            shown_name, equals_sign, value = word.partition("=")
            name = self._name_of(shown_name)
            if not equals_sign:
                value = self._take_value(name, remaining)
            elif name in self._switches:
                raise UsageError(f"{_with_dashes(name)} takes no value, got {value!r}")
            options.append((name, value))
        return options, arguments

    def _name_of(self, shown_name: str) -> str:
        """An option's name with underscores. Raises UsageError when there is no such option."""
        name = shown_name.removeprefix("--").replace("-", "_")
        if shown_name.startswith("--") and name in self.hints:
            return name
        # --help is near to any short word, and never what was meant
        known = [_with_dashes(option) for option in self.hints if option != "help"]
        shown_name = shown_name.replace("_", "-")
        hint = did_you_mean(shown_name, known)
        meant = _OTHER_NAMES.get(name) or our_option(name, self.hints)
        if meant in self.hints:
            hint = f"did you mean {_with_dashes(meant)!r}?"
        raise UsageError(f"there is no option {shown_name}; {hint}")

    def _take_value(self, name: str, remaining: deque[str]) -> str:
        """The value of an option, taken from the words behind it. Raises UsageError without any."""
        if name in self._switches:
            return ""
        next_word = remaining[0] if remaining else None
        # the folder may follow a setting that is on or off: --save-best photos/
        is_on_or_off = self.hints[name] in (bool, bool | None)
        if is_on_or_off and next_word not in ("true", "false", "null"):
            return "true"
        if next_word is None or _is_option(next_word):
            wanted = type_in_words(self.hints[name])
            raise UsageError(f"{_with_dashes(name)} has no value behind it; it needs {wanted}")
        return remaining.popleft()

    def _assign(self, words: list[str]) -> dict[str, Any]:
        """The arguments' names with their words. Raises UsageError for too few and for too many."""
        required = [argument.name for argument in self._arguments if argument.nargs != "?"]
        if len(words) < len(required):
            missing = " and ".join(name.upper() for name in required[len(words) :])
            raise UsageError(f"{self.command} needs {missing}: {self._usage()}")
        values: dict[str, Any] = {}
        remaining = list(words)
        for argument in self._arguments:
            if argument.nargs == "+":
                values[argument.name] = remaining
                remaining = []
            elif remaining:
                values[argument.name] = remaining.pop(0)
            else:
                values[argument.name] = argument.default
        if remaining:
            raise UsageError(f"{self.command} takes no further argument, got {remaining[0]!r}")
        return values

    def _convert(self, name: str, value: Any, *, written_as: str) -> Any:
        """The value in the type of its option, for which a text is read as YAML.

        written_as: what the option is called in the message of a UsageError.
        """
        hint = self.hints[name]
        # jsonargparse takes null for a setting that was left out, and accepts it for any type
        if value is None and not accepts_null(hint):
            raise UsageError(wrong_value(written_as, hint, value))
        try:
            parsed = self._library.parse_object({name: value}, defaults=False)
        except ArgumentError:
            raise UsageError(wrong_value(written_as, hint, value)) from None
        return parsed.as_dict()[name]

    # What a config file holds

    def _read_config(self, path: Path) -> dict[str, Any]:
        """Setting -> value. Raises UsageError for an unknown key or a value of a wrong type."""
        settings: dict[str, Any] = {}
        # the loader of values on the command line: to PyYAML alone, 1e-3 is a text
        for key, value in read_settings(path, get_loader("yaml")).items():
            if key not in self.setting_names:
                raise UsageError(f"{str(path)!r} has {self._no_setting(key)}")
            settings[key] = self._convert(key, value, written_as=f"{key} in {str(path)!r}")
        return settings

    def _no_setting(self, key: Any) -> str:
        """What a key of a config file is, if it is no setting, and what to do instead."""
        if key == "folder":
            return "a key 'folder', which is no setting; say data:"
        if key in self.hints:
            return f"a key {key!r}, which is no setting; give it on the command line"
        return f"an unknown key {key!r}; {did_you_mean(str(key), self.setting_names)}"

    def _as_yaml(self, values: dict[str, Any]) -> str:
        """The settings alone, as a config file; FOLDER is their `data`."""
        settings = {name: values[name] for name in self.setting_names}
        if values["folder"] is not None:
            settings["data"] = values["folder"]
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)

    # What help says

    def format_help(self) -> str:
        self._library.usage = self._usage()
        text: str = self._library.format_help()
        return text

    def _usage(self) -> str:
        words = ["finetune", self.command]
        words.extend(argument.in_usage for argument in self._arguments)
        if self.setting_names:
            words.append("[--config FILE]")
        return " ".join([*words, "[OPTION ...]"])


class _HelpFormatter(DefaultHelpFormatter):
    """Descriptions and examples as they are; defaults, but no types: the words say those.

    Its methods are those that the formatters of argparse itself override.
    """

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        if not action.option_strings or action.dest == "help":
            return text
        if action.default is None or action.default is False:
            return text
        if str(action.default).isspace():  # it would be shown as nothing; the text says it
            return text
        return f"{text} (default: %(default)s)"

    def _format_action_invocation(self, action: Action) -> str:
        """`--batch-size BATCH_SIZE`, without the `--name+` that jsonargparse adds for a list."""
        if not action.option_strings:
            return str(super()._format_action_invocation(action))
        spellings = [name for name in action.option_strings if not name.endswith("+")]
        shown = ", ".join(name.replace("_", "-") for name in spellings)
        if action.nargs == 0:
            return shown
        return f"{shown} {action.metavar or action.dest.upper()}"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text


def _is_option(word: str) -> bool:
    """Whether a word is meant as an option: it is no number, and no text with a space in it.

    >>> [_is_option(word) for word in ("--epochs", "--data=a b", "-x", "-1e-3", "-", "- a", "a")]
    [True, True, True, False, False, False, False]
    """
    name = word.partition("=")[0]
    if not name.startswith("-") or name == "-" or " " in name:
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _with_dashes(name: str) -> str:
    return f"--{name.replace('_', '-')}"
