"""`finetune export`: writes a trained model into another folder, in one format or several."""

from dataclasses import replace
from typing import Any

from finetune import arguments, export
from finetune.cli import run_folder
from finetune.cli.parser import CommandParser
from finetune.export import FormatName
from finetune.export.card import model_card


def parser() -> CommandParser:
    made = CommandParser(
        "export",
        "Writes the model of a run, or an exported model, into another folder: as weights\n"
        "(safetensors), as a graph that needs no Python code of the model (onnx,\n"
        "torch_export), or with a demo (app). The folder's README.md shows how to use each.",
        [
            "finetune export runs/photos --format onnx --output shipped/",
            "finetune export runs/photos --format [safetensors,onnx] --output shipped/",
            "finetune export runs/photos --format app --output demo/",
        ],
    )
    made.add_argument("model", help="run folder, or folder of an exported model")
    kind = list[FormatName] | FormatName
    formats = "safetensors, onnx, torch_export, app, or a list"
    made.option("format", kind, "safetensors", help=formats)
    made.option("output", str, "exported", help="folder to write")
    made.switch("overwrite", help="replace an exported model that is there")
    made.switch("json", help="what was written as JSON on standard output")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Writes the model and lists the files; returns their names with the exit code."""
    source = run_folder.model_in(options["model"])
    output = arguments.path("output", options["output"])
    formats = export.check_formats(options["format"])
    description = replace(export.read_description(source), formats=formats)
    model = description.architecture.build(weights=None)
    export.read_weights(source, model)
    card = ""
    # models of the first version have no record of their training, without which there is no card
    if description.training is not None:
        card = model_card(description, model.source())
    export.write(output, model.eval(), description, card=card, overwrite=options["overwrite"])
    files = sorted(path.name for path in output.iterdir())
    print(f"{output}/: {', '.join(files)}")
    return {"output": str(output), "files": files}, 0
