"""`finetune serve`: a page and a JSON endpoint that answer for images."""

from typing import Any

from finetune.cli import run_folder
from finetune.cli.parser import CommandParser
from finetune.serving.application import Limits
from finetune.serving.serve import serve
from finetune.web import listening


def parser() -> CommandParser:
    made = CommandParser(
        "serve",
        "Answers for images with a run folder or an exported model: a page to drop images on,\n"
        "with the class, what else it may be, whether the image is unknown, and a heat map; and\n"
        "/predict for programs. It listens to this machine alone, unless --host says otherwise.",
        [
            "finetune serve runs/photos --open",
            "finetune serve runs/photos/model --host 0.0.0.0 --port 80",
            "curl -F images=@photo.jpg http://127.0.0.1:8000/predict",
        ],
    )
    made.add_argument("model", help=run_folder.MODEL_IN_WORDS)
    made.option("host", str, listening.LOOPBACK, help="address to listen at, 0.0.0.0 for all")
    made.option("port", int, 8000, help="port to listen at; 0 takes a free one")
    made.option("megabytes", float, Limits().megabytes, help="largest size of a request")
    made.option("images", int, Limits().images, help="most images of a request")
    made.option("at_once", int, Limits().at_once, help="requests to compute at the same time")
    made.option("device", str, "cpu", help="cuda, mps or cpu")
    made.switch("open", help="open the page in the browser")
    return made


def run(options: dict[str, Any]) -> tuple[None, int]:
    """Listens until Ctrl-C."""
    serve(
        run_folder.model_in(options["model"]),
        host=options["host"],
        port=options["port"],
        limits=Limits(options["megabytes"], options["images"], options["at_once"]),
        device=options["device"],
        open_browser=options["open"],
    )
    return None, 0
