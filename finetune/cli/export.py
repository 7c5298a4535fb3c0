"""`finetune export`: a trained model in a folder of its own, in one format or several."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune import export
from finetune.cli import run_folder
from finetune.cli.parser import CommandParser
from finetune.export import Format
from finetune.export.card import model_card


def parser() -> CommandParser:
    made = CommandParser(
        "export",
        "Writes the model of a run, or an exported model, into another folder: as weights\n"
        "(safetensors) or as a graph that needs no Python code of the model (onnx,\n"
        "torch_export). The folder's README.md shows how to use each.",
        [
            "finetune export runs/photos --format onnx --output shipped/",
            "finetune export runs/photos --format [safetensors,onnx] --output shipped/",
        ],
    )
    made.add_argument("model", help="run folder, or folder of an exported model")
    kind = list[Format] | Format
    made.option("format", kind, "safetensors", help="safetensors, onnx, torch_export, or a list")
    made.option("output", str, "exported", help="folder to write")
    made.switch("overwrite", help="replace an exported model that is there")
    made.switch("json", help="what was written as JSON on standard output")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    source, output = run_folder.model_in(options["model"]), Path(options["output"])
    formats = export.check_formats(options["format"])
    description = replace(export.read_description(source), formats=formats)
    model = description.architecture.build(weights=None)
    export.read_weights(source, model)
    is_recorded = description.training is not None  # by the first version it was not
    card = model_card(description, model.source()) if is_recorded else ""
    export.write(output, model.eval(), description, card=card, overwrite=options["overwrite"])
    files = sorted(path.name for path in output.iterdir())
    print(f"{output}/: {', '.join(files)}")
    return {"output": str(output), "files": files}, 0
