"""`finetune export`: writes a trained model into another folder, in one format or several."""

from typing import Any

from finetune import arguments
from finetune.cli import run_folder
from finetune.cli.parser import CommandParser
from finetune.export import FormatName
from finetune.export.rewriting import rewrite

FORMAT = list[FormatName] | FormatName
FORMATS_IN_WORDS = "safetensors, onnx, torch_export, app, or a list"


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
    made.add_argument("model", help=run_folder.MODEL_IN_WORDS)
    made.option("format", FORMAT, "safetensors", help=FORMATS_IN_WORDS)
    made.option("output", str, "exported", help="folder to write")
    made.option("license", str | None, help="what the card says of it, such as mit")
    made.switch("overwrite", help="replace an exported model that is there")
    made.switch("json", help="what was written as JSON on standard output")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Writes the model and lists the files; returns their names with the exit code."""
    source = run_folder.model_in(options["model"])
    output = arguments.path("output", options["output"])
    rewrite(
        source,
        output,
        options["format"],
        license=options["license"],
        overwrite=options["overwrite"],
    )
    files = sorted(path.name for path in output.iterdir())
    print(f"{output}/: {', '.join(files)}")
    return {"output": str(output), "files": files}, 0
