"""`finetune compare`: which backbone suits the images."""

from dataclasses import asdict
from typing import Any

from finetune import arguments
from finetune.cli import build
from finetune.cli.parser import CommandParser
from finetune.cli.train import config_from
from finetune.comparison import Comparison, compare
from finetune.config import LearnerConfig, TrainConfig


def parser() -> CommandParser:
    command = CommandParser(
        "compare",
        "Runs backbones over the training images of FOLDER once, without training, and scores the\n"
        "best linear layer on what each gives, by cross-validation. Takes the settings of data of\n"
        "finetune train; a pattern stands for all backbones with weights that match it.",
        [
            "finetune compare photos/ resnet50 convnext_tiny vit_small_patch14_dinov2",
            'finetune compare photos/ "efficientnet_b*" --seconds 600 --json',
            "finetune compare photos/ resnet18 resnet50 --csv labels.csv",
        ],
    )
    command.option("seconds", float | None, help="no backbone is begun after so many seconds")
    command.switch("json", help="results as JSON on standard output, all else on standard error")
    of_model = set(LearnerConfig.__annotations__) - {"weights", "precision", "device"}
    command.add_settings(TrainConfig, unused=of_model | set(TrainConfig.__annotations__))
    command.add_argument("backbones", nargs="+", help="names or patterns, see finetune models")
    return command


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Prints the table and a recommendation; returns them with the exit code."""
    names = options.pop("backbones")
    seconds = options.pop("seconds")
    if seconds is not None:
        arguments.real_number("seconds", seconds, above=0)
    config = config_from(options)
    if isinstance(config.weights, list):
        raise ValueError("weights= of several backbones are told by name here: {name: file, ...}")
    comparison = compare(
        build.data_of(config),
        names,
        seconds=seconds,
        weights=config.weights,
        device=config.device,
        precision=config.precision,
    )
    print(f"\n{comparison}")
    return _answer(comparison), 0


def _answer(comparison: Comparison) -> dict[str, Any]:
    return {
        "metric": comparison.metric,
        "recommended": comparison.recommended.name,
        "candidates": [{"name": row.name, **asdict(row)} for row in comparison.candidates],
        "not_tried": list(comparison.not_tried),
    }
