"""`finetune predict`: the classes of images, to the terminal or a file."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from tqdm.std import tqdm

from finetune import arguments
from finetune.cli import run_folder
from finetune.cli.mistakes import absent, check_suffix
from finetune.cli.parser import CommandParser
from finetune.data.images.opening import image_extensions
from finetune.data.sources.folders import image_files
from finetune.inference.files import write_csv, write_jsonl
from finetune.tasks import FilePrediction
from finetune.tasks.answers import value_in_words
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
    made.add_argument("model", help=run_folder.MODEL_IN_WORDS)
    made.add_argument("images", nargs="+", help="image files and folders")
    made.option("output", str | None, help="file for the results: .csv or .jsonl")
    made.option(
        "adjust_priors",
        Literal["uniform"] | dict[str, float] | None,
        help="shares of the classes that answers are for: uniform, or a mapping; null is the "
        "model's own",
    )
    made.option("batch_size", int, 64, help="images at a time")
    made.option("device", str, "cpu", help="cuda, mps or cpu")
    made.switch("json", help="results as JSON on standard output, all else on standard error")
    return made


def run(options: dict[str, Any]) -> tuple[Any, int]:
    """Predicts, and prints the rows or writes them to a file.

    Returns the rows in the order of the arguments, or how many were written; and the exit code, 1
    if one of the images is unreadable.
    """
    output = options["output"]
    if output is not None:
        check_suffix("output", output, _WRITERS)
    arguments.whole_number("batch_size", options["batch_size"], at_least=1)
    model = run_folder.model_in(options["model"])
    paths = find_images(options["images"])
    predictor = load_learner(model, device=options["device"])
    if options["adjust_priors"] is not None:
        predictor = predictor.with_priors(options["adjust_priors"])
    predictions = predictor.predict_folder(
        paths,
        batch_size=options["batch_size"],
        progress=output is not None,  # rows on the screen would tear a bar
    )
    rows = _with_errors_reported(predictions)
    if output is None:
        return _print_rows(rows, width=max(map(len, paths)))
    return _write_rows(rows, output)


def _print_rows(rows: Iterator[FilePrediction], width: int) -> tuple[list[dict[str, Any]], int]:
    answers = []
    has_errors = False
    for row in rows:
        answers.append(row.to_dict())
        if row.error:
            has_errors = True
        else:
            # at once: a reader of the pipe need not wait for the last image
            print(f"{row.path:<{width}}  {_in_words(row)}", flush=True)
    return answers, int(has_errors)


def _write_rows(rows: Iterator[FilePrediction], output: str) -> tuple[dict[str, Any], int]:
    write = _WRITERS[Path(output).suffix.lower()]
    written = write(rows, output)
    unreadable = ""
    if written.unreadable:
        unreadable = f", {written.unreadable} of them unreadable"
    print(f"{written.images} images{unreadable}: {output}")
    return {"output": output, **written._asdict()}, int(written.unreadable > 0)


def _in_words(row: FilePrediction) -> str:
    """One class with its probability, several classes, or the values of a regression.

    Behind it what else may be true, where the model is calibrated for that.
    """
    unknown = ", unknown" if row.is_unknown else ""
    if row.probability is not None:
        alternatives = [name for name in row.set or () if name != row.label]
        behind = f" (or {', '.join(alternatives)})" if alternatives else ""
        return f"{row.probability:6.1%}  {row.label}{behind}{unknown}"
    if row.label is not None:
        return f"{row.label or '-'}{unknown}"
    texts = []
    for name, value in row.probabilities.items():
        interval = None if row.interval is None else row.interval[name]
        texts.append(f"{name} {value_in_words(value, interval)}")
    return ", ".join(texts) + unknown


def find_images(names: Sequence[str]) -> list[str]:
    """The paths of images: files as they are named, folders as all images in and below, sorted.

    A missing file with the extension of an image is in the list, and gets a row with an error.
    Raises FileNotFoundError for any other missing path.
    """
    paths: list[str] = []
    for name in names:
        path = Path(name)
        if not path.exists() and path.suffix.lower() not in image_extensions():
            raise FileNotFoundError(absent(name))
        if path.is_dir():
            paths += image_files(path)
        else:
            paths.append(name)
    return paths


def _with_errors_reported(rows: Iterator[FilePrediction]) -> Iterator[FilePrediction]:
    """The same rows; the error of each that has one goes to standard error."""
    for row in rows:
        if row.error:
            # tqdm's own print puts the line above the progress bar, if there is one
            tqdm.write(f"finetune predict: error: {row.path}: {row.error}", file=sys.stderr)
        yield row
