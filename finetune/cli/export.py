"""`finetune export`: a trained model in a folder of its own, in one format or several."""

from pathlib import Path
from typing import Any

from finetune import export
from finetune.cli import run_folder
from finetune.cli.parser import CommandParser
from finetune.export import Format
from finetune.export.card import model_card
from finetune.vision import load_learner


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
    description = export.read_description(source)
    model: Any = load_learner(source).model
    own = {name: value for name, value in description.items() if name not in ("format", "version")}
    size, task = own["preprocessing"]["image_size"], own.get("task", "single_label")
    own["formats"] = export.describe_formats(formats, size, task)
    recorded = "training" in own  # by the first version it was not
    card = model_card(own, model.source()) if recorded else ""
    export.write(output, model, own, formats=formats, card=card, overwrite=options["overwrite"])
    files = sorted(path.name for path in output.iterdir())
    print(f"{output}/: {', '.join(files)}")
    return {"output": str(output), "files": files}, 0
