"""CommandParser: one command's options, as `--batch-size` or `--batch_size`."""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from finetune.cli.mistakes import reworded


class _Formatter(DefaultHelpFormatter):
    """Descriptions and examples as they are; defaults, but no types: the words say those."""

    def _get_help_string(self, action: Any) -> str:
        text = action.help or ""
        shown = action.option_strings and action.default not in (None, False, "==SUPPRESS==")
        return f"{text} (default: %(default)s)" if shown and action.dest != "help" else text

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text


class CommandParser(ArgumentParser):
    """Answers a mistake in one line, with the nearest name, and exit code 2."""

    def __init__(
        self, command: str, description: str, examples: Sequence[str], usage: str | None = None
    ) -> None:
        self.command = command
        self.hints: dict[str, Any] = {}
        self.setting_names: frozenset[str] = frozenset()
        shown = "\n".join(f"  {line}" for line in examples)
        super().__init__(
            prog=f"finetune {command}",
            description=description,
            epilog=f"examples:\n{shown}",
            usage=usage,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )

    def option(self, name: str, kind: Any, default: Any = None, *, help: str) -> None:
        """An option with a value; name: with underscores."""
        self.add_argument(f"--{name}", type=kind, default=default, help=help)

    def switch(self, name: str, *, help: str) -> None:
        self.add_argument(f"--{name}", action="store_true", help=help)

    def add_settings(self, kind: Any) -> None:
        """FOLDER, --config, and an option for each field of a data class: what a file may hold."""
        self.setting_names = frozenset(field.name for field in fields(kind))
        self.add_argument("folder", nargs="?", help="the images; the same as --data")
        self.add_argument("--config", action="config", help="YAML file with any of these settings")
        self.add_class_arguments(kind, as_group=False)

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Name -> value; what is typed wins over a config file.

        Leaves the process with code 2 after a mistake, 0 after --help.
        """
        self.hints.update(
            {a.dest: getattr(a, "_typehint", a.type) for a in self._actions if a.option_strings}
        )
        words = _config_first(map(_with_underscores, arguments))
        switches = [f"--{name}" for name, hint in self.hints.items() if hint is bool]
        parsed = self.parse_args(_with_true(words, switches))
        options: dict[str, Any] = parsed.as_dict()
        options.pop("config", None)
        return options

    def parse_string(self, content: str, *arguments: Any, **options: Any) -> Namespace:
        """A config file's text. What is no setting, but has an option here, is refused."""
        found: Namespace = super().parse_string(content, *arguments, **options)
        own = {action.dest for action in self._actions} - self.setting_names
        for name in sorted(own & set(found.keys())):
            instead = "say data:" if name == "folder" else "give it on the command line"
            self.error(f"the config file has a key {name!r}, which is no setting; {instead}")
        return found

    def dump(self, namespace: Namespace, *arguments: Any, **options: Any) -> str:
        """What --print-config prints: the settings alone, FOLDER as their `data`."""
        kept = namespace.clone()
        if folder := kept.pop("folder", None):
            kept["data"] = folder
        for name in set(kept.keys()) - self.setting_names:
            kept.pop(name)
        text: str = super().dump(kept, *arguments, **options)
        return text

    def format_help(self, formatter: Any = None) -> str:
        for action in self._actions:
            if action.dest == "print_config":
                action.help = "print the settings as YAML, and do nothing"
        text = super().format_help(formatter).replace("--print_config [=flags]", "--print_config")
        text = re.sub(r", --\w+\+ [A-Z_]+", "", text)  # another spelling of lists
        return re.sub(r"(?<=--)\w+", lambda name: name[0].replace("_", "-"), text)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        names = {n: hint for n, hint in self.hints.items() if n not in ("help", "print_config")}
        text = reworded(str(message), self.command, names)
        print(f"finetune {self.command}: error: {text}", file=sys.stderr)
        sys.exit(2)


def _with_underscores(argument: str) -> str:
    """
    >>> _with_underscores("--batch-size=a-b"), _with_underscores("a-b")
    ('--batch_size=a-b', 'a-b')
    """
    if not argument.startswith("--"):
        return argument
    name, sign, value = argument.partition("=")
    return f"--{name[2:].replace('-', '_')}{sign}{value}"


def _config_first(words: Iterable[str]) -> list[str]:
    """Config files before all else, as a later word wins over an earlier one.

    >>> _config_first(["photos", "--epochs", "3", "--config", "a.yaml"])
    ['--config=a.yaml', 'photos', '--epochs', '3']
    """
    first, rest, left = [], [], iter(words)
    for word in left:
        if word.startswith("--config="):
            first.append(word)
        elif word == "--config" and (value := next(left, None)) is not None:
            first.append(f"{word}={value}")
        else:
            rest.append(word)
    return [*first, *rest]


def _with_true(words: Sequence[str], switches: Sequence[str]) -> list[str]:
    """
    >>> _with_true(["--save_best", "photos", "--ema", "false"], ["--save_best", "--ema"])
    ['--save_best=true', 'photos', '--ema', 'false']
    """
    pairs = zip(words, [*words[1:], ""], strict=False)
    said = ("true", "false")
    return [f"{w}=true" if w in switches and after not in said else w for w, after in pairs]
