"""`finetune lr-find`: a learning rate for the head, measured."""

from pathlib import Path
from typing import Any

from finetune.cli import build
from finetune.cli.parser import CommandParser
from finetune.cli.train import config_from
from finetune.config import TrainConfig

_SUFFIXES = (".png", ".svg", ".pdf")


def parser() -> CommandParser:
    made = CommandParser(
        "lr-find",
        "Measures a learning rate on copies of the model and saves a figure of the curve.\n"
        "Takes the settings of finetune train; those of epochs and rates are of no account.",
        [
            "finetune lr-find photos/ --model convnext_tiny",
            "finetune lr-find photos/ --config configs/strong.yaml --curve curve.png --json",
            "finetune lr-find photos/ --model resnet18 --group all",
        ],
    )
    made.option("curve", str, "lr_find.png", help="file for the figure: .png, .svg or .pdf")
    made.option("steps", int, 100, help="batches, at rates from low to high")
    made.option("group", str, "head", help="the layer group whose rate it is, or all")
    made.switch("json", help="results as JSON on standard output, all else on standard error")
    made.add_settings(TrainConfig)
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Suggestions and the curve; the figure is in a file."""
    curve, steps, group = (options.pop(name) for name in ("curve", "steps", "group"))
    if Path(curve).suffix.lower() not in _SUFFIXES:
        raise ValueError(f"curve='{curve}' must end in .png, .svg or .pdf")
    config = config_from(options)
    learner = build.learner_of(config, build.data_of(config))
    print(learner.data)
    found = learner.lr_find(group=None if group == "all" else group, steps=steps)
    Path(curve).parent.mkdir(parents=True, exist_ok=True)
    found.plot().savefig(curve)
    for name, rate in found.suggestions.items():
        print(f"  {name:<8} {rate:.2g}")
    print(f"suggestion: --base-lr {found.suggestion:.2g}; the curve is in {curve}")
    return {
        "suggestion": found.suggestion,
        "suggestions": dict(found.suggestions),
        "group": group,
        "curve": curve,
        "lrs": list(found.lrs),
        "losses": list(found.losses),
    }, 0
