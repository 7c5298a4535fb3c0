"""`finetune demo`."""

from typing import Any

from finetune.cli.parser import CommandParser


def parser() -> CommandParser:
    made = CommandParser(
        "demo",
        "Trains on handwritten digits with packaged ImageNet weights, in about a minute,\n"
        "without a network: finetune-vision[demo] has both.",
        ["finetune demo", "finetune demo --output demo/"],
    )
    made.option("output", str, "finetune-demo", help="folder for model and images")
    made.switch("json", help="results as JSON on standard output, all else on standard error")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    from finetune import demo

    return demo.run(options["output"]), 0
