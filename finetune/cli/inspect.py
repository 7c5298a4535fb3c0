"""`finetune inspect`: what is in a folder, a file, or behind the name of a backbone."""

import csv
import json
from pathlib import Path
from typing import Any

import torch

from finetune import export
from finetune.cli import run_folder
from finetune.cli.parser import CommandParser
from finetune.cli.train import parser as train_parser
from finetune.data.image_loaders import ImageDataLoaders
from finetune.export.formats import DESCRIPTION
from finetune.models.backbones import check_name, input_size_of
from finetune.models.classifier import Architecture
from finetune.models.layer_groups import LayerGroups
from finetune.models.listing import without_weights
from finetune.models.splitting import Split
from finetune.training import checkpoint

SPLIT = int | list[int] | list[str] | dict[str, str] | str | None


def parser() -> CommandParser:
    made = CommandParser(
        "inspect",
        "Says what is in a run folder, an exported model, a checkpoint, a config file, a table\n"
        "or a folder of images, or which layer groups a backbone has.",
        [
            "finetune inspect runs/photos",
            "finetune inspect photos/",
            "finetune inspect photos/ --train train --valid val",
            "finetune inspect convnext_tiny --split stages",
            "finetune inspect configs/strong.yaml",
        ],
    )
    made.add_argument("what", help="a folder, a file or the name of a backbone")
    made.option("split", SPLIT, "halves", help="where the groups of a backbone begin")
    made.option("classes", int, 10, help="how many the head of a backbone is for")
    made.option("train", str | None, help="folder of a given split, below that of the images")
    made.option("valid", str | None, help="folder of a given split, below that of the images")
    made.switch("json", help="the same as JSON on standard output")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    path = Path(options["what"])
    if not path.exists():
        return _backbone(options["what"], options["split"], options["classes"]), 0
    if path.is_dir():
        if (path / run_folder.CONFIG).is_file():
            return _run_folder(path), 0
        if (path / DESCRIPTION).is_file():
            return _model(path), 0
        return _images(path, options["train"], options["valid"]), 0
    if path.suffix in (".yaml", ".yml"):
        return _config(path), 0
    if path.suffix == ".csv":
        return _table(path), 0
    return _checkpoint(path), 0


def _backbone(name: str, split: Split, classes: int) -> dict[str, Any]:
    try:
        check_name(name)
    except ValueError as error:
        raise ValueError(f"{name!r} is no file or folder here, and {error}") from None
    with without_weights():
        model = Architecture(name, classes, input_size_of(name)).build(weights=None)
    groups = LayerGroups.from_model(model, split)
    print(groups)
    listed = [
        {"name": group.name, "parameters": group.parameter_count, "norm": group.norm}
        for group in groups
    ]
    total = sum(group.parameter_count for group in groups)
    print(f"\n{total:,} parameters with a head for {classes} classes")
    return {"kind": "backbone", "name": name, "groups": listed, "parameters": total}


def _model(path: Path) -> dict[str, Any]:
    description = export.read_description(path)
    shown = {
        "backbone": description.architecture.backbone,
        "classes": list(description.classes),
        "preprocessing": description.preprocessing.to_dict(),
        "versions": dict(description.versions),
    }
    _print(f"exported model {path}", shown)
    return {"kind": "model", **shown}


def _run_folder(path: Path) -> dict[str, Any]:
    config = run_folder.read_config(path)
    file = path / run_folder.METRICS
    ended = file.is_file()
    results = json.loads(file.read_text(encoding="utf-8")) if ended else {}
    shown = {
        "model": config.get("model"),
        "data": config.get("csv") or config.get("data"),
        "state": "ended" if ended else "not ended; the same finetune train continues it",
        **results,
    }
    _print(f"run {path}", shown)
    return {"kind": "run", **shown, "config": config}


def _config(path: Path) -> dict[str, Any]:
    made = train_parser()
    settings = made.parse(["--config", str(path)])
    shown = {name: value for name, value in settings.items() if name in made.setting_names}
    _print(f"settings {path}", shown)
    return {"kind": "config", **shown}


def _table(path: Path) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.reader(stream)
        shown = {"columns": next(rows, []), "rows": sum(1 for _ in rows)}
    _print(f"table {path}", shown)
    print(f"  finetune train --csv {path} takes the first column for images, the second for labels")
    return {"kind": "table", **shown}


def _checkpoint(path: Path) -> dict[str, Any]:
    content = checkpoint.read(path)
    run = content["run"] or {}
    phases = [f"{phase['name']}: {phase['epochs']} epochs" for phase in run.get("plan", [])]
    shown = {
        "plan": phases,
        "state": run.get("ended") or f"phase {run['phase'] + 1}, epoch {run['epoch'] + 1}"
        if run
        else "saved without a run",
        "groups": list(content["groups"]),
        "parameters": sum(v.numel() for v in content["model"].values() if torch.is_tensor(v)),
    }
    _print(f"checkpoint {path}", shown)
    return {"kind": "checkpoint", **shown}


def _images(path: Path, train: str | None, valid: str | None) -> dict[str, Any]:
    found = ImageDataLoaders.from_folder(path, train=train, valid=valid, batch_size=1).summary()
    print(found)
    return {
        "kind": "images",
        "classes": {row.name: row.train + row.valid for row in found.classes},
        "imbalance": found.imbalance,
        "widths": found.widths,
        "heights": found.heights,
        "formats": found.formats,
        "unreadable": [str(error) for error in found.unreadable],
        "duplicates": len(found.duplicates),
        "left_out": found.left_out,
    }


def _print(title: str, shown: dict[str, Any]) -> None:
    print(title)
    width = max(map(len, shown))
    for name, value in shown.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key}: {own}" for key, own in value.items())
        elif isinstance(value, list | tuple):
            text = ", ".join(map(str, value))
        else:
            text = "null" if value is None else str(value)
        print(f"  {name:<{width}}  {text}")
