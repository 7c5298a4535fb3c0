"""`finetune export`: writes a trained model into another folder, in one format or several."""

from pathlib import Path
from typing import Any

from finetune import arguments, export
from finetune.cli import build, run_folder
from finetune.cli.mistakes import absent
from finetune.cli.parser import CommandParser
from finetune.config import TrainConfig
from finetune.export import FormatName, LabelledImages
from finetune.export.formats import formats_of
from finetune.export.rewriting import rewrite
from finetune.vision import load_learner


def add_format_options(made: CommandParser) -> None:
    """What `export` and `push` share."""
    made.option(
        "format",
        list[FormatName] | FormatName,
        "safetensors",
        help="safetensors, onnx, onnx_fp16, onnx_int8, torch_export, app, or a list",
    )
    made.option("license", str | None, help="what the card says of it, such as mit")
    made.option("onnx_opset", int | None, help="version of ONNX's operators; null is torch's own")
    made.option(
        "images",
        str | None,
        help="a folder with a folder for each class, to calibrate onnx_int8 with and to measure "
        "what is lost; null is the validation images of the run",
    )


def parser() -> CommandParser:
    made = CommandParser(
        "export",
        "Writes the model of a run, or an exported model, into another folder: as weights\n"
        "(safetensors), as a graph that needs no Python code of the model (onnx,\n"
        "torch_export; onnx_fp16 and onnx_int8 are smaller), or with a demo (app). The\n"
        "folder's README.md shows how to use each.",
        [
            "finetune export runs/photos --format onnx --output shipped/",
            "finetune export runs/photos --format [safetensors,onnx_int8] --output shipped/",
            "finetune export runs/photos --format app --output demo/",
        ],
    )
    made.add_argument("model", help=run_folder.MODEL_IN_WORDS)
    add_format_options(made)
    made.option("output", str, "exported", help="folder to write")
    made.switch("overwrite", help="replace an exported model that is there")
    made.switch("json", help="what was written as JSON on standard output")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Writes the model and lists the files; returns their names with the exit code."""
    output = arguments.path("output", options["output"])
    write(options, output, overwrite=options["overwrite"])
    files = sorted(path.name for path in output.iterdir())
    print(f"{output}/: {', '.join(files)}")
    return {"output": str(output), "files": files}, 0


def write(
    options: dict[str, Any], target: Path, *, repository: str = "", overwrite: bool = False
) -> None:
    """Writes the model into a folder as the options say; repository: of the hub, if any."""
    source = run_folder.model_in(options["model"])
    formats = export.check_formats(options["format"])
    images: LabelledImages | None = None
    if any(export_format.uses_images for export_format in formats_of(formats)):
        is_needed = any(export_format.needs_images for export_format in formats_of(formats))
        images = _images(options, source, is_needed=is_needed)
    rewrite(
        source,
        target,
        formats,
        license=options["license"],
        repository=repository,
        images=images,
        onnx_opset=options["onnx_opset"],
        overwrite=overwrite,
    )


def _images(options: dict[str, Any], model: Path, *, is_needed: bool) -> LabelledImages | None:
    """The images of a folder, or those of the run's validation; None where there are none.

    Raises FileNotFoundError where those of the run are needed and gone.
    """
    if options["images"] is not None:
        folder = Path(options["images"])
        if not folder.exists():
            raise FileNotFoundError(absent(folder))
        return load_learner(model).labelled_images(folder)
    settings = run_folder.settings_of(options["model"])
    if not settings:
        return None
    try:
        data = build.data_of(TrainConfig(**settings))
    except FileNotFoundError as error:
        if is_needed:
            raise FileNotFoundError(
                f"the images of the run are gone ({error}); --images names a folder of others"
            ) from error
        print(f"the images of the run are gone, so that nothing is compared: {error}")
        return None
    return load_learner(model).labelled_images(data.valid)
