"""`finetune cross-validate`: how good settings are, and how sure that is."""

from pathlib import Path
from typing import Any

from finetune import arguments, distributed
from finetune.cli import build
from finetune.cli.evaluate import WRITERS
from finetune.cli.mistakes import check_suffix
from finetune.cli.parser import CommandParser
from finetune.cli.train import config_from
from finetune.config import TrainConfig
from finetune.cross_validation import cross_validate

_UNUSED = (
    "output", "formats", "adjust_priors", "tune_thresholds", "coverage", "save_best",
    "valid_fraction", "valid_column",
)  # fmt: skip


def parser() -> CommandParser:
    command = CommandParser(
        "cross-validate",
        "Trains once for each fold of the images, and validates on those that were held out:\n"
        "metrics with mean and standard error, and a prediction of every image by a model that\n"
        "did not train on it. Takes the settings of finetune train; those of output, export and\n"
        "a split change nothing, and images for validation take part.",
        [
            "finetune cross-validate photos/ --model convnext_tiny --epochs 1",
            "finetune cross-validate photos/ --folds 10 --predictions rows.csv --json",
            "finetune cross-validate --csv table.csv --groups patient",
        ],
    )
    command.option("folds", int, 5, help="how many parts the images are divided into")
    command.option("predictions", str | None, help="file for all predictions: .csv or .jsonl")
    command.switch("json", help="results as JSON on standard output, all else on standard error")
    command.add_settings(TrainConfig, unused=_UNUSED)
    return command


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Prints the folds and a report by class; returns them with the exit code."""
    folds = arguments.whole_number("folds", options.pop("folds"), at_least=2)
    file = options.pop("predictions")
    if file is not None:
        check_suffix("predictions", file, WRITERS)
    config = config_from(options)
    build.check(config)
    if config.save_best:
        raise ValueError(
            "save_best= chooses an epoch by the images that it is validated on, so that the figure "
            "would be too good; leave it out"
        )
    result = cross_validate(
        build.data_of(config),
        lambda part: build.learner_of(config, part),
        folds=folds,
        fit=lambda learner: build.fit(learner, config),
    )
    report = result.report()
    print(f"\n{result}\n\n{report}")
    if file is not None and distributed.is_first():
        WRITERS[Path(file).suffix.lower()](result.predictions, file)
        print(f"\npredictions: {file}")
    answer = {
        "folds": [dict(fold.metrics) for fold in result.folds],
        "mean": result.mean,
        "standard_errors": result.standard_error,
        "images": len(result.predictions),
        "report": [row._asdict() for row in report.rows],
    }
    return answer, 0
