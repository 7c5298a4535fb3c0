"""`finetune predict`: the classes of images, to the terminal or a file."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm.std import tqdm

from finetune.cli import run_folder
from finetune.cli.mistakes import absent
from finetune.cli.parser import CommandParser
from finetune.data.images.decode import EXTENSIONS
from finetune.data.sources.folders import image_files
from finetune.inference.files import write_csv, write_jsonl
from finetune.tasks import FilePrediction
from finetune.vision import load_learner

_WRITERS = {".csv": write_csv, ".jsonl": write_jsonl}


def parser() -> CommandParser:
    made = CommandParser(
        "predict",
        "Predicts the classes of images, or of all images in and below folders, with a run\n"
        "folder or an exported model. Exit code 1 if one of them could not be read.",
        [
            "finetune predict runs/photos image1.jpg image2.png",
            "finetune predict runs/photos new/ --output predictions.csv",
            "finetune predict runs/photos/model new/ --output predictions.jsonl --device cuda",
        ],
    )
    made.add_argument("model", help="run folder, or folder of an exported model")
    made.add_argument("images", nargs="+", help="image files and folders")
    made.option("output", str | None, help="file for the results: .csv or .jsonl")
    made.option("batch_size", int, 64, help="images at a time")
    made.option("device", str, "cpu", help="cuda, mps or cpu")
    made.switch("json", help="results as JSON on standard output, all else on standard error")
    return made


def run(options: dict[str, Any]) -> tuple[Any, int]:
    """Rows in the order of the arguments, or how many went to a file; 1 if one is unreadable."""
    output = options["output"]
    if output is not None and Path(output).suffix not in _WRITERS:
        raise ValueError(f"output='{output}' must end in .csv or .jsonl")
    model, paths = run_folder.model_in(options["model"]), find_images(options["images"])
    predictor = load_learner(model, device=options["device"])
    rows = _reported(
        predictor.predict_folder(
            paths,
            batch_size=options["batch_size"],
            progress=output is not None,  # a bar and rows would be on the same screen
        )
    )
    if output is None:
        kept, width = [], max(map(len, paths))
        for row in rows:
            kept.append(row._asdict())
            if not row.error:
                print(f"{row.path:<{width}}  {_said(row)}", flush=True)
        return kept, int(any(row["error"] for row in kept))
    written = _WRITERS[Path(output).suffix](rows, output)
    failed = f", {written.unreadable} of them unreadable" if written.unreadable else ""
    print(f"{written.images} images{failed}: {output}")
    return {"output": output, **written._asdict()}, int(written.unreadable > 0)


def _said(row: FilePrediction) -> str:
    """One class with its probability, several classes, or the values of a regression."""
    if row.probability is not None:
        return f"{row.probability:6.1%}  {row.label}"
    if row.label is not None:
        return row.label or "-"
    return ", ".join(f"{name} {value:.4g}" for name, value in row.probabilities.items())


def find_images(given: Sequence[str]) -> list[str]:
    """Files as they are, folders as the images in and below them, in sorted order.

    An image that is not there gets a row with an error. Raises FileNotFoundError for a folder.
    """
    found: list[str] = []
    for name in given:
        path = Path(name)
        if not path.exists() and path.suffix.lower() not in EXTENSIONS:
            raise FileNotFoundError(absent(name))
        found += image_files(path) if path.is_dir() else [name]
    return found


def _reported(rows: Iterator[FilePrediction]) -> Iterator[FilePrediction]:
    for row in rows:
        if row.error:
            # not through the bar, if there is one
            tqdm.write(f"finetune predict: error: {row.path}: {row.error}", file=sys.stderr)
        yield row
