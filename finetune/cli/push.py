"""`finetune push`: uploads a trained model to the Hugging Face hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune.cli import run_folder
from finetune.cli.export import add_format_options, write
from finetune.cli.parser import CommandParser
from finetune.export import hub


def parser() -> CommandParser:
    made = CommandParser(
        "push",
        "Uploads the model of a run, or an exported model, to the Hugging Face hub, with a card\n"
        "and no image. Log in before, with `hf auth login`. All other commands then take the\n"
        "model from anywhere, as hf-hub:user/name.",
        [
            "finetune push runs/photos user/name --private",
            "finetune push runs/photos user/name --format [safetensors,onnx] --license mit",
            "finetune predict hf-hub:user/name image.jpg",
        ],
    )
    made.add_argument("model", help=run_folder.MODEL_IN_WORDS)
    made.add_argument("repository", help="user/name; it is made where it is not there")
    add_format_options(made)
    made.switch("private", help="for you alone; else the hub decides, and it is public for people")
    made.option("message", str, "Upload a model", help="message of the commit")
    made.switch("json", help="where it went as JSON on standard output")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Uploads the model and prints its address, which is returned with the exit code."""
    repository = options["repository"]
    hub.check_can_upload(repository)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write(options, folder, repository=repository)
        address = hub.upload(
            folder,
            repository,
            private=True if options["private"] else None,
            message=options["message"],
        )
    print(f"{address}\nfinetune predict {hub.PREFIX}{repository} image.jpg uses it from anywhere")
    return {"address": address}, 0
