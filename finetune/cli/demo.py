"""`finetune demo`: a model that learns digits, and what can be done with it."""

from typing import Any

from finetune.cli.parser import CommandParser


def parser() -> CommandParser:
    command = CommandParser(
        "demo",
        "Trains on handwritten digits with packaged ImageNet weights, in about a minute,\n"
        "without a network: finetune-vision[demo] has both.",
        ["finetune demo", "finetune demo --output demo/"],
    )
    command.option("output", str, "finetune-demo", help="folder for model and images")
    command.switch("json", help="results as JSON on standard output, all else on standard error")
    return command


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    # imported here, as --help must work without the packages that the demo needs
    from finetune import demo

    return demo.run(options["output"]), 0
