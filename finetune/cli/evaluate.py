"""`finetune evaluate`: metrics of a trained model on labelled images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.cli import run_folder
from finetune.cli.parser import CommandParser
from finetune.data import examples
from finetune.data.examples import Examples
from finetune.data.table import Layout, read_csv
from finetune.interpret.predictions import Predictions
from finetune.metrics import DEFAULTS, create_metrics
from finetune.plain_text import number
from finetune.predictor import Predictor
from finetune.task import Task, default_loss
from finetune.vision import load_learner


def parser() -> CommandParser:
    made = CommandParser(
        "evaluate",
        "Metrics of a run folder or an exported model on a folder with one folder of images\n"
        "a class, or on a table of images and labels. Classes may be missing, none may be new.",
        [
            "finetune evaluate runs/photos test/",
            "finetune evaluate runs/photos/model test/ --metrics [accuracy,auroc] --json",
            "finetune evaluate runs/photos test.csv --label-delimiter ' '",
        ],
    )
    made.add_argument("model", help="run folder, or folder of an exported model")
    made.add_argument("data", help="folder with one folder of images a class, or a .csv file")
    made.option("metrics", list[str] | str | None, help="names; null is what suits the task")
    made.option("image_column", str | None, help="of the table; null is the first")
    made.option("label_column", list[str] | str | None, help="of the table; null is the second")
    made.option("label_delimiter", str, " ", help="between the labels of an image")
    made.option("output", str | None, help="file for a table of all predictions: .csv")
    made.option("batch_size", int, 64, help="images at a time")
    made.option("device", str, "cpu", help="cuda, mps or cpu")
    made.switch("json", help="results as JSON on standard output, all else on standard error")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    if options["batch_size"] < 1:
        raise ValueError(f"batch_size= must be positive, got {options['batch_size']}")
    predictor = load_learner(run_folder.model_in(options["model"]), device=options["device"])
    found = labelled(Path(options["data"]), predictor, options)
    names = options["metrics"] or list(DEFAULTS[predictor.task])
    names = [names] if isinstance(names, str) else names
    results, outputs, losses = measure(predictor, found, names, options["batch_size"])
    print(f"{len(found)} images")
    for name, value in results.items():
        print(f"  {name:<18} {number(value)}")
    answer: dict[str, Any] = {"images": len(found), "metrics": results}
    if predictor.task == "single_label":
        items = list(map(str, found.items))
        table = Predictions(items, found.classes, found.labels, outputs, losses)
        print(f"\n{table.report()}")
        if options["output"] is not None:
            table.to_csv(options["output"])
            print(f"\npredictions: {options['output']}")
        answer["classes"] = [row._asdict() for row in table.report().rows]
        answer["most_confused"] = [row._asdict() for row in table.most_confused()[:10]]
    return answer, 0


def labelled(source: Path, predictor: Predictor, options: dict[str, Any]) -> Examples:
    """The pictures of a table or of a folder of classes, all of which the model knows."""
    classes, task = predictor.classes, predictor.task
    if source.suffix == ".csv":
        columns = options["image_column"], options["label_column"]
        rows = read_csv(
            source, source.parent, Layout(*columns, None, task, options["label_delimiter"])
        )
        _check_known(source, {n for row in rows.labels for n in _names(row, task)}, classes)
        return examples.from_pairs(rows.items, rows.labels, classes, task)
    if task != "single_label":
        raise ValueError(f"a model for {task} is evaluated on a table of labels, a .csv file")
    if source.is_dir():
        inside = (path for path in source.iterdir() if path.is_dir())
        names = {path.name for path in inside if not path.name.startswith(".")}
        _check_known(source, names, classes)
    return examples.from_folder(source, classes)


def _names(label: Any, task: Task) -> list[str]:
    if task == "regression":
        return []
    return list(label) if task == "multi_label" else [label]


def _check_known(source: Path, names: set[str], classes: tuple[str, ...]) -> None:
    if unknown := sorted(names - set(classes)):
        raise ValueError(
            f"{str(source)!r} has classes that the model does not know: "
            f"{', '.join(map(repr, unknown))}; it knows {', '.join(map(repr, classes))}"
        )


def measure(
    predictor: Predictor, found: Examples, metrics: list[str], batch_size: int
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Loss and metrics, the outputs [N, C] as scores, and each one's loss [N]."""
    task, state = predictor.task, predictor.model.state_dict()
    loss_of = default_loss(task, state["head.scale.std"].cpu() if task == "regression" else None)
    created = create_metrics(metrics, len(predictor.classes), torch.device("cpu"), task)
    losses, parts = [], []
    for start in range(0, len(found), batch_size):
        items = found.items[start : start + batch_size]
        targets = found.labels[start : start + batch_size]
        outputs = scores(predictor.probabilities(items), task)
        losses += [loss_of(one[None], own[None]) for one, own in zip(outputs, targets, strict=True)]
        parts.append(outputs)
        for metric in created.values():
            metric.update(outputs, targets)
    each = torch.stack(losses)
    results = {"loss": float(each.mean()), **{n: float(m.compute()) for n, m in created.items()}}
    return results, torch.cat(parts), each


def scores(probabilities: Tensor, task: Task) -> Tensor:
    """What the model's activation makes these probabilities of; see `activation`."""
    if task == "regression":
        return probabilities
    if task == "multi_label":
        return probabilities.logit(eps=1e-7)
    return probabilities.clamp_min(1e-12).log()
