"""The `finetune` command; one file a subcommand."""

from finetune.cli.entry import main

__all__ = ["main"]
