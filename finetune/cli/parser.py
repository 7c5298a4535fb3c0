"""CommandParser: one command's options, as `--batch-size` or `--batch_size`."""

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

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

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Name -> value. Leaves the process with code 2 after a mistake, 0 after --help."""
        self.hints.update(
            {a.dest: getattr(a, "_typehint", a.type) for a in self._actions if a.option_strings}
        )
        parsed = self.parse_args([_with_underscores(argument) for argument in arguments])
        options: dict[str, Any] = parsed.as_dict()
        options.pop("config", None)
        return options

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
