"""Where the command `finetune` begins, outside of the package.

To import the package takes seconds, because torch does. Here Ctrl-C can be caught while that goes
on: inside the package it would end in a traceback of all that is being imported.
"""

import importlib
import sys


def main() -> int:
    """Runs the command; returns its exit code, which is 130 if Ctrl-C comes before it began."""
    try:
        cli = importlib.import_module("finetune.cli")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    code: int = cli.main()
    return code
