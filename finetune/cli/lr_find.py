"""`finetune lr-find`: a learning rate for the head, measured."""

from pathlib import Path
from typing import Any

from finetune import arguments, distributed
from finetune.cli import build
from finetune.cli.mistakes import check_suffix
from finetune.cli.parser import CommandParser
from finetune.cli.train import config_from
from finetune.config import TrainConfig

_SUFFIXES = (".png", ".svg", ".pdf")


def parser() -> CommandParser:
    command = CommandParser(
        "lr-find",
        "Measures a learning rate on copies of the model and saves a figure of the curve.\n"
        "Takes a config file of finetune train; its epochs and learning rates change nothing.",
        [
            "finetune lr-find photos/ --model convnext_tiny",
            "finetune lr-find photos/ --config configs/strong.yaml --curve curve.png --json",
            "finetune lr-find photos/ --model resnet18 --group all",
        ],
    )
    command.option("curve", str, "lr_find.png", help="file for the figure: .png, .svg or .pdf")
    command.option("steps", int, 100, help="number of batches, each with a higher rate")
    command.option("group", str, "head", help="the layer group whose rate is measured, or all")
    command.switch("json", help="results as JSON on standard output, all else on standard error")
    command.add_settings(TrainConfig, unused=TrainConfig.__annotations__)
    return command


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Measures the curve, saves its figure, and returns suggestions and curve for --json."""
    curve_file = options.pop("curve")
    steps = options.pop("steps")
    group = options.pop("group")
    check_suffix("curve", curve_file, _SUFFIXES)
    arguments.whole_number("steps", steps, at_least=20)
    config = config_from(options)
    learner = build.learner_of(config, build.data_of(config))
    print(learner.data)
    measured_group = None if group == "all" else group
    curve = learner.lr_find(group=measured_group, steps=steps)
    if distributed.is_first():
        Path(curve_file).parent.mkdir(parents=True, exist_ok=True)
        curve.plot().savefig(curve_file)
    for name, learning_rate in curve.suggestions.items():
        print(f"  {name:<8} {learning_rate:.2g}")
    print(f"suggestion: --base-lr {curve.suggestion:.2g}; the curve is in {curve_file}")
    results = {
        "suggestion": curve.suggestion,
        "suggestions": dict(curve.suggestions),
        "group": group,
        "curve": curve_file,
        "lrs": list(curve.lrs),
        "losses": list(curve.losses),
    }
    return results, 0
