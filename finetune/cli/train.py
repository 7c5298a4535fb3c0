"""`finetune train`: a run folder out of images and settings."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

from finetune.cli import build, report, run_folder
from finetune.cli.parser import CommandParser
from finetune.config import TrainConfig
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.summary import DataSummary
from finetune.learner import Learner
from finetune.plain_text import number


def parser() -> CommandParser:
    made = CommandParser(
        "train",
        "Fine-tunes a pretrained backbone on a folder with one folder of images a class.\n"
        "The run folder holds the settings, a report, the exported model and a checkpoint;\n"
        "the same command continues an interrupted run.",
        [
            "finetune train photos/ --model convnext_tiny --epochs 5 --output runs/photos",
            "finetune train photos/ --config configs/strong.yaml --batch-size 32",
            "finetune train photos/ --model resnet18 --weights resnet18.safetensors",
            "finetune train --config runs/photos/config.yaml --output runs/again",
            "finetune train photos/ --print-config > my.yaml",
        ],
        usage="finetune train [FOLDER] [--config FILE] [OPTION ...]",
    )
    made.add_argument("folder", nargs="?", help="the images; the same as --data")
    made.add_argument("--config", action="config", help="YAML file with any of these settings")
    made.switch("json", help="results as JSON on standard output, all else on standard error")
    made.add_class_arguments(TrainConfig, as_group=False)
    return made


def config_from(options: dict[str, Any]) -> TrainConfig:
    folder = options.pop("folder")
    return run_folder.resolved(TrainConfig(**{**options, "data": folder or options["data"]}))


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Trains into `config.output`; an unfinished run in that folder is continued."""
    config = config_from(options)
    build.check(config)
    output = Path(config.output)
    run_folder.claim(output, config)
    data = build.data_of(config)
    print(data)
    summary = data.summary()
    if summary.leaks:
        warnings.warn(
            f"{len(summary.leaks)} images of validation are in training, too, so that its figures "
            f"flatter the model; first: {summary.leaks[0]}",
            stacklevel=2,
        )
    learner = build.learner_of(config, data)
    print(f"\n{learner.layer_groups}\n")
    run_folder.write_config(output, config)
    try:
        build.fit(learner, config, output / run_folder.CHECKPOINT, output / run_folder.BEST)
    finally:
        run_folder.write_history(output, learner.history)
    return _finish(learner, data, summary, config, output), 0


def _finish(
    learner: Learner,
    data: ImageDataLoaders,
    summary: DataSummary,
    config: TrainConfig,
    output: Path,
) -> dict[str, Any]:
    """Pictures, report and exported model of a run that has ended."""
    pictures = report.draw(learner, output)
    results = dict(learner.history.epochs[-1].valid)
    seconds = sum(row.seconds for row in learner.history.epochs)
    if config.save_best and (output / run_folder.BEST).is_file():
        learner.load(output / run_folder.BEST)
        results = learner.validate()
    table = learner.predictions() if data.task == "single_label" else None
    if table is not None:
        pictures |= report.draw_failures(table, output)
    report.write(learner, data, summary, config, results, pictures, table, output)
    learner.export(output / run_folder.MODEL, config.formats, overwrite=True)
    answer = {
        "validation": {n: v if math.isfinite(v) else None for n, v in results.items()},
        "training_seconds": round(seconds, 1),
        "images": {"training": len(data.train_examples), "validation": len(data.valid_examples)},
        "classes": list(data.classes),
    }
    text = json.dumps(answer, indent=2, ensure_ascii=False)
    (output / run_folder.METRICS).write_text(text + "\n", encoding="utf-8")
    figures = ", ".join(f"{name} {number(value)}" for name, value in results.items())
    print(f"\nvalidation: {figures}")
    print(f"model, report.html, pictures and checkpoint are in {output}/")
    print(f"  finetune predict {output} IMAGE_OR_FOLDER ...")
    model, page = output / run_folder.MODEL, output / run_folder.REPORT
    return {"output": str(output), **answer, "model": str(model), "report": str(page)}
