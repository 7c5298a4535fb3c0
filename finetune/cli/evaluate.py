"""`finetune evaluate`: metrics of a trained model on labelled images."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune import arguments
from finetune.cli import build, run_folder
from finetune.cli.mistakes import absent, check_suffix
from finetune.cli.parser import CommandParser
from finetune.config import TrainConfig
from finetune.data.examples import Examples
from finetune.data.notices import shared_files
from finetune.data.sources.datasets import in_classes
from finetune.data.sources.lists import from_pairs
from finetune.data.sources.parquet import ParquetLayout, are_parquet, from_parquet
from finetune.data.sources.presence import check_present
from finetune.data.sources.shard_index import LabelRule
from finetune.data.sources.shards import ShardLayout, from_shards, shard_paths
from finetune.data.sources.tables import Layout, read_csv
from finetune.inference.predictor import LoaderLike, Predictor
from finetune.inference.reading import check_known
from finetune.interpret.prediction_table import PredictionTable
from finetune.interpret.predictions import Predictions
from finetune.vision import load_learner

_CONFUSIONS_LISTED = 10
WRITERS = {".csv": PredictionTable.to_csv, ".jsonl": PredictionTable.to_jsonl}
"""How a table of predictions is written, by the ending of the file."""


def parser() -> CommandParser:
    made = CommandParser(
        "evaluate",
        "Metrics of a run folder or an exported model on a folder with one folder of images\n"
        "a class, on a table of images and labels, or on tar or Parquet files of both. Classes\n"
        "may be missing, none may be new.",
        [
            "finetune evaluate runs/photos test/",
            "finetune evaluate runs/photos/model test/ --metrics [accuracy,auroc] --json",
            "finetune evaluate runs/photos test.csv --data photos/ --output predictions.csv",
            "finetune evaluate runs/photos 'shards/test-{0000..0003}.tar'",
        ],
    )
    made.add_argument("model", help=run_folder.MODEL_IN_WORDS)
    made.add_argument(
        "images",
        help="folder with one folder of images a class, a .csv file, or a path, a pattern or an "
        "address of .tar or .parquet files",
    )
    made.option("metrics", list[str] | str | None, help="names; null is what suits the task")
    made.option("data", str | None, help="what a table's paths are relative to; null is its folder")
    made.option(
        "image_column",
        str | None,
        help="of the table, or of Parquet files; null is the run's, or is found",
    )
    made.option(
        "label_column",
        list[str] | str | None,
        help="of the table, or of Parquet files; null is the run's, or is found; of a regression "
        "of a table the model's targets",
    )
    made.option("label_delimiter", str | None, help="between labels; null is the run's, or a space")
    made.option("output", str | None, help="file for a table of all predictions: .csv or .jsonl")
    made.option("batch_size", int, 64, help="images at a time")
    made.option("device", str, "cpu", help="cuda, mps or cpu")
    made.switch("json", help="results as JSON on standard output, all else on standard error")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Prints metrics and a report by class; returns them with the exit code."""
    arguments.whole_number("batch_size", options["batch_size"], at_least=1)
    output = options["output"]
    if output is not None:
        check_suffix("output", output, WRITERS)
    model = run_folder.model_in(options["model"])
    images = options["images"]
    if not _are_shards(images) and not Path(images).exists():
        raise FileNotFoundError(absent(Path(images)))
    predictor = load_learner(model, device=options["device"])
    source = _source(images, predictor, options)
    outputs = predictor.outputs(source, batch_size=options["batch_size"])
    results = predictor.evaluate(outputs, metrics=options["metrics"])
    print(f"{len(outputs)} images")
    items = source.items if isinstance(source, Examples) else outputs.items
    trained_on = _count_trained_on(options["model"], items)
    if trained_on:
        print(f"{trained_on} of them were in the training of this run: they flatter the model")
    for name, value in results.items():
        print(f"  {name:<18} {predictor.task.metric_text(name, value, len(outputs))}")
    table = predictor.predictions(outputs)
    report = table.report()
    print(f"\n{report}")
    if output is not None:
        write = WRITERS[Path(output).suffix.lower()]
        write(table, output)
        print(f"\npredictions: {output}")
    answer: dict[str, Any] = {
        "images": len(outputs),
        "images_trained_on": trained_on,
        "metrics": results,
        "standard_errors": predictor.task.metric_errors(results, len(outputs)),
        predictor.task.names_are: [row._asdict() for row in report.rows],
    }
    if isinstance(table, Predictions):
        confusions = table.most_confused()[:_CONFUSIONS_LISTED]
        answer["most_confused"] = [confusion._asdict() for confusion in confusions]
    return answer, 0


def _count_trained_on(model: str, items: Sequence[Any]) -> int:
    """How many images were in the training of a run, as far as its settings still tell which."""
    settings = run_folder.settings_of(model)
    if not settings:
        return 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd in the data was said in training
            train = build.data_of(TrainConfig(**settings)).train_examples
    except (OSError, ValueError, TypeError):  # they have moved, or changed
        return 0
    files = [item for item in items if not isinstance(item, int)]
    return len({file for _, file in shared_files(train.items, files)})


def _source(images: str, predictor: Predictor, options: dict[str, Any]) -> LoaderLike:
    """What to evaluate on: a folder of classes, or the examples of a table or of shards."""
    if images.endswith(".csv"):
        return _from_table(Path(images), predictor, options)
    if options["data"] is not None:
        raise ValueError("data= says what the paths of a table are relative to; leave it out here")
    if _are_shards(images):
        return _from_shards(images, predictor, options)
    return Path(images)


def _are_shards(images: str) -> bool:
    return images.lower().endswith(".tar") or are_parquet(images)


def _from_shards(pattern: str, predictor: Predictor, options: dict[str, Any]) -> Examples:
    """The examples of tar or Parquet files, in the model's classes."""
    classes = predictor.classes or ()
    paths = shard_paths("images", pattern)
    if are_parquet(pattern):
        columns = _columns_of_run(options)
        label_column = columns.get("label_column")
        if isinstance(label_column, list):
            raise ValueError(f"label_column= of Parquet files is one column, got {label_column}")
        parquet_layout = ParquetLayout(
            columns.get("image_column"), label_column, task=predictor.task
        )
        return from_parquet(paths, parquet_layout, classes_of_training=classes)
    layout = ShardLayout(LabelRule(), task=predictor.task).found_in(paths)
    if layout.classes is None or not predictor.task.exclusive:
        # indices without names are those of the model
        return from_shards(paths, replace(layout, classes=classes), of_training=True)
    return in_classes(from_shards(paths, layout), classes)


def _columns_of_run(options: dict[str, Any]) -> dict[str, Any]:
    """The names of columns, and the delimiter, that the options give, or else the run has."""
    columns: dict[str, Any] = {}
    settings = run_folder.settings_of(options["model"])
    for name in ("image_column", "label_column", "label_delimiter"):
        if options[name] is not None:
            columns[name] = options[name]
        elif settings.get(name) is not None:
            columns[name] = settings[name]
    return columns


def _from_table(file: Path, predictor: Predictor, options: dict[str, Any]) -> Examples:
    """The examples of a table; columns that the options leave open are those of the run's table."""
    task = predictor.task
    classes = predictor.classes or ()
    layout = _table_layout(predictor, options)
    folder = file.parent
    if options["data"] is not None:
        folder = Path(options["data"])
    rows = read_csv(file, folder, layout)
    check_present(rows.items, folder, repr(str(file)))
    check_known(file, task.class_names_in(rows.labels), classes)
    return from_pairs(rows.items, rows.labels, classes, task)


def _table_layout(predictor: Predictor, options: dict[str, Any]) -> Layout:
    columns = {"label_delimiter": " ", **_columns_of_run(options)}
    label_column = columns.get("label_column")
    if predictor.task.names_are == "targets":
        label_column = _checked_targets(options["label_column"], predictor.classes or ())
    delimiter = columns["label_delimiter"]
    return Layout(columns.get("image_column"), label_column, None, predictor.task, delimiter)


def _checked_targets(names: list[str] | str | None, targets: tuple[str, ...]) -> list[str]:
    """The columns of a regression's targets.

    names: as the user typed them; None takes the targets of the model. They must be in the model's
    order, since a column in another's place would be measured as that target.
    """
    columns = list(targets)
    if isinstance(names, str):
        columns = [names]
    elif names:
        columns = list(names)
    if columns != list(targets):
        raise ValueError(
            f"label_column= must name the model's targets in their order, {', '.join(targets)}; "
            f"got {', '.join(columns)}"
        )
    return columns
