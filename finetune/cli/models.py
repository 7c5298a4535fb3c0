"""`finetune models`: the backbones there are."""

from typing import Any

from finetune.cli.parser import CommandParser
from finetune.models import listing
from finetune.wording import did_you_mean

COUNTED = 100
"""Longer lists come without parameters, unless asked for: each takes a tenth of a second."""


def parser() -> CommandParser:
    made = CommandParser(
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
    made.add_argument("pattern", nargs="?", default="*", help="of shells, or a part of the name")
    made.switch("pretrained", help="those with weights only, each under its tag")
    made.switch("count", help=f"parameters of more than {COUNTED} models, too")
    made.switch("json", help="the list as JSON on standard output")
    return made


def run(options: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    pattern = options["pattern"]
    names = listing.backbone_names(pattern, pretrained=options["pretrained"])
    if not names:
        hint = did_you_mean(pattern.strip("*"), listing.backbone_names(), count=3)
        raise ValueError(f"no backbone matches {pattern!r}; {hint}")
    count = options["count"] or len(names) <= COUNTED
    found = []
    width = max(map(len, names))
    print(f"{'backbone':<{width}}{'  parameters' if count else ''}  pixels  weights")
    for name in names:
        info = listing.describe(name, count=count)
        found.append(info._asdict())
        millions = "        ?" if info.parameters is None else f"{info.parameters / 1e6:9.2f}"
        weights = "yes" if info.pretrained else "no"
        shown = f"  {millions} M" if count else ""
        print(f"{name:<{width}}{shown}  {info.image_size:6}  {weights}", flush=True)
    some = "" if count else "; --count or a narrower pattern shows parameters"
    print(f"{len(names)} backbone{'s' if len(names) > 1 else ''}{some}")
    return found, 0
