"""`finetune train`: makes a run folder of images and settings."""

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from finetune import arguments, distributed, export
from finetune.cli import answers, build, failures, report, run_folder
from finetune.cli.as_json import as_json
from finetune.cli.parser import CommandParser
from finetune.config import TrainConfig
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.notices import FILES_COMPARED
from finetune.data.summary.summary import DataSummary
from finetune.files.replacing import write_text
from finetune.interpret.page import Drawing
from finetune.learner import Learner
from finetune.training.events import EpochEnd
from finetune.wording import warn


def parser() -> CommandParser:
    made = CommandParser(
        "train",
        "Fine-tunes a pretrained backbone on a folder with one folder of images a class.\n"
        "The run folder holds the settings, a report, the exported model and a checkpoint;\n"
        "the same command continues an interrupted run.",
        [
            "finetune train photos/ --model convnext_tiny --epochs 5 --output runs/photos",
            "finetune train photos/ --probe --output runs/probe",
            "finetune train photos/ --config configs/strong.yaml --batch-size 32",
            "finetune train photos/ --model resnet18 --weights resnet18.safetensors",
            "finetune train --config runs/photos/config.yaml --output runs/again",
            "finetune train photos/ --print-config > my.yaml",
        ],
    )
    made.switch("json", help="results as JSON on standard output, all else on standard error")
    made.add_settings(TrainConfig)
    return made


def config_from(options: dict[str, Any]) -> TrainConfig:
    """The settings of a command line; a folder that is typed wins over a config file's `data`."""
    folder = options.pop("folder")
    if folder:
        options = {**options, "data": folder}
    return run_folder.resolved(TrainConfig(**options))


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Trains in the folder `output`; continues the unfinished run in it, if there is one."""
    config = config_from(options)
    build.check(config)
    output = arguments.path("output", config.output)
    # of several processes the first one writes; should it refuse, the others wait for it in vain,
    # until torchrun ends them
    is_writer = distributed.is_first()
    with run_folder.claimed(output, config) if is_writer else nullcontext():
        return _train(config, output), 0


def _train(config: TrainConfig, output: Path) -> dict[str, Any]:
    """Trains what is left to train, and writes what is missing; returns the answer."""
    loaders = build.data_of(config)
    summary = loaders.summary()
    # of fewer files it has been said when the data were made
    if summary.leaks and sum(summary.images) > FILES_COMPARED:
        warn(
            f"{len(summary.leaks)} images of validation are in training, too, so that its figures "
            f"flatter the model; first: {summary.leaks[0]}"
        )
    learner = build.learner_of(config, loaders)
    data = learner.data  # the loaders, with the image size of the backbone
    assert isinstance(data, ImageDataLoaders)
    answers.check(learner, config)  # what can't be fitted is an error now, not after hours
    planned = build.planned_rates(learner, config)
    print(f"{data}\n\n{learner.layer_groups.table(planned).text(notes=True)}\n")
    if distributed.is_first():
        run_folder.write_config(output, config)
    try:
        build.fit(learner, config, output / run_folder.CHECKPOINT, output / run_folder.BEST)
    except BaseException:
        if distributed.is_first():
            report.keep_unfinished(learner, output)
        raise
    figures: dict[str, Drawing] = {}
    if distributed.is_first():
        run_folder.write_history(output, learner.history)
        figures = report.draw(learner, output)
    epochs = list(learner.history.epochs)
    results = _results(learner, config, output)
    if not distributed.is_first():
        return {}
    return _finish(learner, summary, config, output, epochs, results, figures)


def _results(learner: Learner, config: TrainConfig, output: Path) -> dict[str, float]:
    """What validation gives for the weights of the run, which the learner then has."""
    results = dict(learner.history.epochs[-1].valid)
    if config.save_best and distributed.of_first((output / run_folder.BEST).is_file):
        if distributed.is_first():
            learner.load(output / run_folder.BEST)  # its history ends there
        # the first process may have a disk of its own
        distributed.share_weights(learner.model)
        results = learner.validate()
    answers.fit(learner, config)
    if config.adjust_priors is not None:
        results = learner.validate()
    return results


def _finish(
    learner: Learner,
    summary: DataSummary,
    config: TrainConfig,
    output: Path,
    epochs: list[EpochEnd],
    results: dict[str, float],
    figures: dict[str, Drawing],
) -> dict[str, Any]:
    """Writes the model, the figures and the report of a run that has ended; returns the answer.

    metrics.json is written last: a run folder that has it is finished.
    """
    data = learner.data
    assert isinstance(data, ImageDataLoaders)
    learner.export(output / run_folder.MODEL, overwrite=True)
    table = learner.predictions()
    figures |= failures.draw(table, output)
    kept_epoch = len(learner.history.epochs) - 1
    outcome = report.Outcome(results, epochs, kept_epoch, table, figures)
    report.write(learner, data, summary, config, outcome, output)
    _export_graphs(learner, config, output / run_folder.MODEL)
    answer = {
        "validation": results,
        "standard_errors": data.task.metric_errors(results, len(data.valid_examples)),
        "training_seconds": round(sum(row.seconds for row in epochs), 1),
        "images": {"training": len(data.train_examples), "validation": len(data.valid_examples)},
        "classes": list(data.classes),
    }
    write_text(output / run_folder.METRICS, as_json(answer) + "\n")
    values = []
    for name, value in results.items():
        values.append(f"{name} {data.task.metric_text(name, value, len(data.valid_examples))}")
    print(f"\nvalidation: {', '.join(values)}")
    print(f"model, report.html, figures and checkpoint are in {output}/")
    print(f"  finetune predict {shlex.quote(str(output))} IMAGE_OR_FOLDER ...")
    model, page = output / run_folder.MODEL, output / run_folder.REPORT
    return {"output": str(output), **answer, "model": str(model), "report": str(page)}


def _export_graphs(learner: Learner, config: TrainConfig, folder: Path) -> None:
    """Exports the other formats one by one.

    A format that fails is a warning: the trained model is there, even if it can't be a graph.
    """
    done = ["safetensors"]
    for name in export.check_formats(config.formats):
        if name == "safetensors":
            continue
        try:
            learner.export(folder, [*done, name], overwrite=True)
        except (RuntimeError, ValueError, OSError) as error:
            warn(f"the model was not exported as {name}: {error}")
        else:
            done.append(name)
