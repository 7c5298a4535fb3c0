"""The `finetune` command: train, predict, demo."""

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from finetune import commands
from finetune.config import TrainConfig
from finetune.wording import did_you_mean

_EXPECTED = (ValueError, OSError, RuntimeError, ArithmeticError, ImportError)


class _Parser(ArgumentParser):
    """Answers a mistake in one line, with the nearest name."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        text = " ".join(str(message).split())
        unknown = re.search(r"unrecognized arguments: (\S+)|does not accept option '(\S+)'", text)
        if unknown:
            name = (unknown[1] or unknown[2]).lstrip("-").partition("=")[0]
            names = list(TrainConfig.__dataclass_fields__)
            text += f"; {did_you_mean(name, names)}"
        print(f"finetune: error: {text} (see finetune --help)", file=sys.stderr)
        sys.exit(2)


def _parser() -> _Parser:
    parser = _Parser(prog="finetune", description="From a folder of images to a classifier.")
    subcommands = parser.add_subcommands(required=True, metavar="COMMAND")

    train = _Parser(
        description="Fine-tunes a pretrained backbone on a folder with one folder of images a "
        "class. Example: finetune train photos/ --model convnext_tiny --epochs 5 "
        "--output runs/photos. The same command continues an interrupted run."
    )
    train.add_argument("--config", action="config", help="YAML file with any of these settings")
    train.add_argument("folder", nargs="?", help="the images; the same as --data")
    train.add_class_arguments(TrainConfig, as_group=False)
    subcommands.add_subcommand("train", train, help="train a classifier on a folder of images")

    predict = _Parser(
        description="Predicts the classes of images with an exported model. "
        "Example: finetune predict runs/photos/model image1.jpg image2.png"
    )
    predict.add_argument("model", help="folder of an exported model")
    predict.add_argument("images", nargs="+", help="image files")
    subcommands.add_subcommand("predict", predict, help="predict the classes of images")

    demo = _Parser(description="Trains on bundled digits with packaged weights, without a network.")
    demo.add_argument("--output", default="finetune-demo", help="folder for model and pictures")
    subcommands.add_subcommand("demo", demo, help="see it work in about a minute, offline")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 could not, 2 wrong usage, 130 interrupted."""
    parsed: Namespace = _parser().parse_args(arguments)
    command: str = parsed.subcommand
    options: dict[str, Any] = parsed[command].as_dict()
    try:
        if command == "train":
            options.pop("config")
            folder = options.pop("folder")
            commands.train(TrainConfig(**{**options, "data": folder or options["data"]}))
        elif command == "predict":
            return commands.predict(options["model"], options["images"])
        else:
            from finetune import demo

            demo.run(options["output"])
    except KeyboardInterrupt:
        print("interrupted; the same command continues a training run", file=sys.stderr)
        return 130
    except _EXPECTED as error:
        print(f"finetune: error: {error}", file=sys.stderr)
        return 1
    return 0
