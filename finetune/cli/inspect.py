"""`finetune inspect`: what is in a folder, a file, or behind the name of a backbone."""

import csv
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from finetune import export
from finetune.cli import build, run_folder
from finetune.cli.parser import CommandParser
from finetune.cli.train import parser as train_parser
from finetune.data.image_loaders import ImageDataLoaders
from finetune.export import hub
from finetune.export.formats import DESCRIPTION
from finetune.models.classifier import Architecture
from finetune.models.layer_groups import LayerGroups
from finetune.models.listing import without_weights
from finetune.models.splitting import Split
from finetune.training import checkpoint
from finetune.training.content import check as check_content

SPLIT = int | list[int] | list[str] | dict[str, str] | str | None


def parser() -> CommandParser:
    command = CommandParser(
        "inspect",
        "Says what is in a run folder, an exported model, a checkpoint, a config file, a table\n"
        "or a folder of images, or which layer groups a backbone has.",
        [
            "finetune inspect runs/photos",
            "finetune inspect photos/",
            "finetune inspect photos/ --train train --valid val",
            "finetune inspect convnext_tiny --split stages",
            "finetune inspect convnext_tiny,vit_small_patch14_dinov2",
            "finetune inspect configs/strong.yaml",
        ],
    )
    command.add_argument("what", help="a folder, a file or the name of a backbone, or several")
    command.option("split", SPLIT, "halves", help="where the layer groups of a backbone begin")
    command.option("classes", int, 10, help="number of classes for the head of a backbone")
    command.option("train", str | None, help="folder of the training images, below WHAT")
    command.option("valid", str | None, help="folder of the validation images, below WHAT")
    command.switch("json", help="the same as JSON on standard output")
    return command


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Prints what there is, and returns it as data for --json."""
    path = Path(options["what"])
    if hub.is_on_hub(path):
        return _inspect_model(run_folder.model_in(path)), 0
    if not path.exists():
        return _inspect_backbone(options["what"], options["split"], options["classes"]), 0
    if path.is_dir():
        return _inspect_folder(path, options["train"], options["valid"]), 0
    if path.suffix in (".yaml", ".yml"):
        return _inspect_config(path), 0
    if path.suffix == ".csv":
        return _inspect_table(path), 0
    return _inspect_checkpoint(path), 0


def _inspect_backbone(name: str, split: Split, classes: int) -> dict[str, Any]:
    names = build.backbones_of(name)
    try:
        architecture = Architecture.create(names, classes)
    except ValueError as error:
        raise ValueError(f"{name!r} is no file or folder here, and {error}") from None
    with without_weights():
        model = architecture.build(weights=None)
    groups = LayerGroups.from_model(model, split)
    print(groups)
    listed_groups = [
        {"name": group.name, "parameters": group.parameter_count, "norm": group.norm}
        for group in groups
    ]
    parameter_count = sum(group.parameter_count for group in groups)
    print(f"\n{parameter_count:,} parameters with a head for {classes} classes")
    return {
        "kind": "backbone",
        "name": name,
        "groups": listed_groups,
        "parameters": parameter_count,
    }


def _inspect_folder(path: Path, train: str | None, valid: str | None) -> dict[str, Any]:
    if (path / run_folder.CONFIG).is_file():
        return _inspect_run(path)
    if (path / DESCRIPTION).is_file():
        return _inspect_model(path)
    return _inspect_images(path, train, valid)


def _inspect_run(path: Path) -> dict[str, Any]:
    config = run_folder.read_config(path)
    facts = {
        "model": config.get("model"),
        "data": config.get("csv") or config.get("shards") or config.get("data"),
        "state": "not ended; the same finetune train continues it",
    }
    # the metrics are written last
    metrics_file = path / run_folder.METRICS
    if metrics_file.is_file():
        facts["state"] = "ended"
        facts.update(json.loads(metrics_file.read_text(encoding="utf-8")))
    _print_facts(f"run {path}", facts)
    return {"kind": "run", **facts, "config": config}


def _inspect_model(path: Path) -> dict[str, Any]:
    description = export.read_description(path)
    facts = {
        "backbone": description.architecture.backbone,
        "classes": list(description.classes),
        "preprocessing": description.preprocessing.to_dict(),
        "versions": dict(description.versions),
    }
    _print_facts(f"exported model {path}", facts)
    return {"kind": "model", **facts}


def _inspect_images(path: Path, train: str | None, valid: str | None) -> dict[str, Any]:
    data = ImageDataLoaders.from_folder(path, train=train, valid=valid, batch_size=1)
    summary = data.summary()
    print(summary)
    return {
        "kind": "images",
        "classes": {row.name: row.train + row.valid for row in summary.classes},
        "imbalance": summary.imbalance,
        "widths": summary.widths,
        "heights": summary.heights,
        "formats": summary.formats,
        "unreadable": [str(error) for error in summary.unreadable],
        "duplicates": len(summary.duplicates),
        "left_out": summary.left_out,
    }


def _inspect_config(path: Path) -> dict[str, Any]:
    """The settings with which finetune train would run, defaults included."""
    train_command = train_parser()
    values = train_command.parse(["--config", str(path)])
    settings = {name: values[name] for name in train_command.setting_names}
    _print_facts(f"settings {path}", settings)
    return {"kind": "config", **settings}


def _inspect_table(path: Path) -> dict[str, Any]:
    # utf-8-sig: what spreadsheets save begins with a byte order mark
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.reader(stream)
        header = next(rows, [])
        row_count = sum(1 for _ in rows)
    facts = {"columns": header, "rows": row_count}
    _print_facts(f"table {path}", facts)
    command = f"finetune train --csv {shlex.quote(str(path))}"
    print(f"  {command} finds the columns of images and labels")
    return {"kind": "table", **facts}


def _inspect_checkpoint(path: Path) -> dict[str, Any]:
    content = checkpoint.read(path)
    check_content(content, path)
    run_state = content["run"] or {}
    phases = run_state.get("plan", [])
    tensors = [value for value in content["model"].values() if torch.is_tensor(value)]
    facts = {
        "plan": [f"{phase['name']}: {phase['epochs']} epochs" for phase in phases],
        "state": _progress(run_state),
        "groups": list(content["groups"]),
        "parameters": sum(tensor.numel() for tensor in tensors),
    }
    _print_facts(f"checkpoint {path}", facts)
    return {"kind": "checkpoint", **facts}


def _progress(run_state: Mapping[str, Any]) -> str:
    """How far the run of a checkpoint had come; phases and epochs count from 1."""
    if not run_state:
        return "saved without a run"
    if run_state.get("ended"):
        return str(run_state["ended"])
    return f"phase {run_state['phase'] + 1}, epoch {run_state['epoch'] + 1}"


def _print_facts(title: str, facts: Mapping[str, Any]) -> None:
    print(title)
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"  {name:<{width}}  {_in_one_line(value)}")


def _in_one_line(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return str(value)
