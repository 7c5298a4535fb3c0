"""`finetune models`: the backbones there are."""

from typing import Any

from finetune.cli.parser import CommandParser
from finetune.models import listing
from finetune.models.listing import BackboneInfo
from finetune.wording import counted, did_you_mean

COUNTED = 100
"""Longer lists come without parameters, unless asked for: each takes a tenth of a second."""


def parser() -> CommandParser:
    command = CommandParser(
        "models",
        "Lists the backbones whose names match, with millions of parameters (without a\n"
        "classifier) and the side of the images they were trained with, in pixels.",
        [
            'finetune models "convnext*"',
            "finetune models resnet --pretrained",
            'finetune models "torchvision/*"',
            'finetune models "vit_small*" --json',
        ],
    )
    command.add_argument(
        "pattern", nargs="?", default="*", help="a shell pattern, or a part of the name"
    )
    command.switch("pretrained", help="those with weights only, each under its tag")
    command.switch("count", help=f"parameters of more than {COUNTED} models, too")
    command.switch("json", help="the list as JSON on standard output")
    return command


def run(options: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Prints a line for each backbone, and returns its columns as data for --json."""
    pattern = options["pattern"]
    names = listing.backbone_names(pattern, pretrained=options["pretrained"])
    if not names:
        hint = did_you_mean(pattern.strip("*"), listing.backbone_names(), count=3)
        raise ValueError(f"no backbone matches {pattern!r}; {hint}")
    is_counted = options["count"] or len(names) <= COUNTED
    name_width = max(len(name) for name in names)
    parameters_header = "  parameters" if is_counted else ""
    print(f"{'backbone':<{name_width}}{parameters_header}  pixels  weights")
    backbones = []
    for name in names:
        info = listing.describe(name, count=is_counted)
        # row by row, no table: with --count the last row is known minutes after the first
        print(_row(info, name_width, is_counted), flush=True)
        backbones.append(info._asdict())
    hint = "" if is_counted else "; --count or a narrower pattern shows parameters"
    print(f"{counted(len(names), 'backbone')}{hint}")
    return backbones, 0


def _row(info: BackboneInfo, name_width: int, is_counted: bool) -> str:
    cells = [f"{info.name:<{name_width}}"]
    if is_counted:
        cells.append(f"{_millions(info.parameters)} M")
    cells.append(f"{info.image_size:6}")
    cells.append("yes" if info.pretrained else "no")
    return "  ".join(cells)


def _millions(parameters: int | None) -> str:
    if parameters is None:
        return f"{'?':>9}"
    return f"{parameters / 1e6:9.2f}"
