"""`finetune evaluate`: metrics of a trained model on labelled images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.cli import run_folder
from finetune.cli.failures import AnyPredictions
from finetune.cli.mistakes import absent
from finetune.cli.parser import CommandParser
from finetune.data import examples
from finetune.data.examples import Examples
from finetune.data.sources.tables import Layout, read_csv
from finetune.inference.predictor import Predictor
from finetune.interpret.predictions import Predictions
from finetune.interpret.task_predictions import LabelsPredictions, ValuesPredictions
from finetune.metrics import DEFAULTS, create_metrics
from finetune.tasks.task import Task, activation, default_loss
from finetune.vision import load_learner
from finetune.wording import number


def parser() -> CommandParser:
    made = CommandParser(
        "evaluate",
        "Metrics of a run folder or an exported model on a folder with one folder of images\n"
        "a class, or on a table of images and labels. Classes may be missing, none may be new.",
        [
            "finetune evaluate runs/photos test/",
            "finetune evaluate runs/photos/model test/ --metrics [accuracy,auroc] --json",
            "finetune evaluate runs/photos test.csv --data photos/ --output predictions.csv",
        ],
    )
    made.add_argument("model", help="run folder, or folder of an exported model")
    made.add_argument("images", help="folder with one folder of images a class, or a .csv file")
    made.option("metrics", list[str] | str | None, help="names; null is what suits the task")
    made.option("data", str | None, help="what a table's paths are relative to; null is its folder")
    made.option("image_column", str | None, help="of the table; null is the run's, or the first")
    made.option(
        "label_column",
        list[str] | str | None,
        help="of the table; null is the run's, or the second; of a regression the model's targets",
    )
    made.option("label_delimiter", str | None, help="between labels; null is the run's, or a space")
    made.option("output", str | None, help="file for a table of all predictions: .csv")
    made.option("batch_size", int, 64, help="images at a time")
    made.option("device", str, "cpu", help="cuda, mps or cpu")
    made.switch("json", help="results as JSON on standard output, all else on standard error")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    if options["batch_size"] < 1:
        raise ValueError(f"batch_size= must be positive, got {options['batch_size']}")
    model, source = run_folder.model_in(options["model"]), Path(options["images"])
    if not source.exists():
        raise FileNotFoundError(absent(source))
    predictor = load_learner(model, device=options["device"])
    found = labelled(source, predictor, options)
    names = options["metrics"] or list(DEFAULTS[predictor.task])
    names = [names] if isinstance(names, str) else names
    results, outputs, losses = measure(predictor, found, names, options["batch_size"])
    print(f"{len(found)} images")
    for name, value in results.items():
        print(f"  {name:<18} {number(value)}")
    table = table_of(predictor, found, outputs, losses)
    report = table.report()
    print(f"\n{report}")
    if options["output"] is not None:
        table.to_csv(options["output"])
        print(f"\npredictions: {options['output']}")
    each = "targets" if predictor.task == "regression" else "classes"
    answer = {"images": len(found), "metrics": results, each: [r._asdict() for r in report.rows]}
    if isinstance(table, Predictions):
        answer["most_confused"] = [row._asdict() for row in table.most_confused()[:10]]
    return answer, 0


def table_of(
    predictor: Predictor, found: Examples, outputs: Tensor, losses: Tensor
) -> AnyPredictions:
    """outputs, losses: as `measure` gives them."""
    known = list(map(str, found.items)), found.classes, found.labels
    if predictor.task == "single_label":
        return Predictions(*known, outputs, losses)
    shown = activation(outputs, predictor.task)
    if predictor.task == "multi_label":
        return LabelsPredictions(*known, shown, losses, thresholds=predictor.thresholds)
    return ValuesPredictions(*known, shown, losses)


def labelled(source: Path, predictor: Predictor, options: dict[str, Any]) -> Examples:
    """The images of a table or of a folder of classes, all of which the model knows."""
    classes, task = predictor.classes, predictor.task
    if source.suffix == ".csv":
        return _from_table(source, predictor, options)
    if options["data"] is not None:
        raise ValueError("data= says what the paths of a table are relative to; leave it out here")
    if task != "single_label":
        raise ValueError(f"a model for {task} is evaluated on a table of labels, a .csv file")
    if source.is_dir():
        inside = (path for path in source.iterdir() if path.is_dir())
        names = {path.name for path in inside if not path.name.startswith(".")}
        _check_known(source, names, classes)
    return examples.from_folder(source, classes)


def _from_table(file: Path, predictor: Predictor, options: dict[str, Any]) -> Examples:
    """What the options leave open is as in the run's own table."""
    classes, task = predictor.classes, predictor.task
    settings = run_folder.settings_of(options["model"])
    names = ("image_column", "label_column", "label_delimiter")
    own = {n: settings.get(n) if options[n] is None else options[n] for n in names}
    delimiter = " " if own["label_delimiter"] is None else own["label_delimiter"]
    if task == "regression":
        own["label_column"] = _targets(options["label_column"], classes)
    layout = Layout(own["image_column"], own["label_column"], None, task, delimiter)
    folder = file.parent if options["data"] is None else Path(options["data"])
    rows = read_csv(file, folder, layout)
    _check_known(file, {name for row in rows.labels for name in _names(row, task)}, classes)
    return examples.from_pairs(rows.items, rows.labels, classes, task)


def _targets(given: list[str] | str | None, targets: tuple[str, ...]) -> list[str]:
    """The columns of a regression. A column in another's place would be measured as that one."""
    columns = [given] if isinstance(given, str) else list(given or targets)
    if columns != list(targets):
        raise ValueError(
            f"label_column= must name the model's targets in their order, {', '.join(targets)}; "
            f"got {', '.join(columns)}"
        )
    return columns


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
