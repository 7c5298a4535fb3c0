"""Asks fastai every question of the golden files again and writes down its answers.

    pip install fastai==2.8.12
    python tests/golden/refresh.py
    git diff tests/golden

A golden file is a list of questions (a call, a curve, a value), each with the answers that fastai
gave. To add a case, write its question into the file and run this script. Every answer is read from
an object of fastai after fastai has set it; nothing is computed here that fastai could compute.
"""

import json
import math
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastai
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import minimum, slide, steep, valley
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import Adam
from fastai.torch_core import norm_types, params
from torch import nn

FOLDER = Path(__file__).resolve().parent
BATCHES_PER_EPOCH = 7
BATCH_SIZE = 4
SUGGESTION_RULES = (valley, slide, minimum, steep)

Case = dict[str, Any]


def tiny_learner(group_count: int, folder: str) -> Learner:
    """A learner with one parameter group per block; all but the last have a BatchNorm layer."""
    torch.manual_seed(0)
    points = torch.randn(BATCHES_PER_EPOCH * BATCH_SIZE, 3)
    labels = (points[:, 0] > 0).long()
    examples = list(zip(points, labels, strict=True))
    train = DataLoader(examples, bs=BATCH_SIZE, shuffle=True, drop_last=True, num_workers=0)
    valid = DataLoader(examples, bs=BATCH_SIZE, num_workers=0)

    blocks = []
    for _ in range(group_count - 1):
        blocks.append(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU()))
    blocks.append(nn.Sequential(nn.Linear(3, 2)))

    return Learner(
        DataLoaders(train, valid, device="cpu"),
        nn.Sequential(*blocks),
        loss_func=nn.CrossEntropyLoss(),
        splitter=lambda model: [params(block) for block in model],
        path=folder,
    )


def as_argument(value: Any) -> Any:
    """A JSON value as an argument: {"slice": [start, stop]} is a slice."""
    if isinstance(value, dict):
        start, stop = value["slice"]
        return slice(start, stop)
    return value


class StepRecorder(Callback):
    """Reads the optimizer before each training step, when the scheduler has set its values."""

    order = 100  # after fastai's own callbacks
    run_valid = False

    def __init__(self) -> None:
        self.fit_count = 0
        self.trainable_by_fit: list[list[str]] = []
        self.columns: dict[str, list[Any]] = {
            name: [] for name in ("fit", "epoch", "batch", "lr", "mom", "frozen")
        }

    def before_fit(self) -> None:
        self.fit_count += 1
        trainable = [name for name, p in self.model.named_parameters() if p.requires_grad]
        self.trainable_by_fit.append(trainable)

    def before_step(self) -> None:
        self.columns["fit"].append(self.fit_count - 1)
        self.columns["epoch"].append(self.epoch)
        self.columns["batch"].append(self.iter)
        self.columns["lr"].append([float(values["lr"]) for values in self.opt.hypers])
        self.columns["mom"].append([float(values["mom"]) for values in self.opt.hypers])
        self.columns["frozen"].append(self._frozen_groups())

    def _frozen_groups(self) -> list[bool]:
        """Per group: whether no parameter takes gradients, those of norm layers aside."""
        norm_parameters = set()
        for module in self.model.modules():
            if isinstance(module, norm_types):
                norm_parameters.update(id(parameter) for parameter in module.parameters())

        frozen = []
        for group in self.opt.param_lists:
            weights = [p for p in group if id(p) not in norm_parameters]
            frozen.append(not any(p.requires_grad for p in weights))
        return frozen


def trajectory_of(case: Case) -> Case:
    """What the optimizer holds at each training step of one call."""
    call = case["call"]
    arguments = [as_argument(value) for value in call["args"]]
    options = {name: as_argument(value) for name, value in call["kwargs"].items()}
    recorder = StepRecorder()
    with tempfile.TemporaryDirectory() as folder:
        learner = tiny_learner(case["groups"], folder)
        with learner.no_bar(), learner.no_logging():
            getattr(learner, call["method"])(*arguments, cbs=recorder, **options)
    return {"trainable_by_fit": recorder.trainable_by_fit, **recorder.columns}


def suggestions_of(curve: Case) -> Case:
    """What fastai suggests for a curve.

    `Learner.lr_find` hands its rules float32 tensors without the first `num_it // 10` and the last
    five points, cut before the first NaN; `check_slicing` proves it.
    """
    num_it = curve["num_it"]
    losses = [math.nan if loss is None else loss for loss in curve["losses"]]
    judged_rates = torch.tensor(curve["lrs"][num_it // 10 : -5])
    judged_losses = torch.tensor(losses[num_it // 10 : -5])
    nan_positions = judged_losses.isnan().nonzero().flatten()
    if len(nan_positions):
        judged_rates = judged_rates[: nan_positions[0]]
        judged_losses = judged_losses[: nan_positions[0]]

    suggestions = {}
    for rule in SUGGESTION_RULES:
        rate, _ = rule(judged_rates, judged_losses, num_it)
        suggestions[rule.__name__] = float(rate)
    return {"suggestions": suggestions}


def check_slicing() -> None:
    """`suggestions_of` must reproduce what a real `lr_find` says about its own record."""
    with tempfile.TemporaryDirectory() as folder:
        learner = tiny_learner(3, folder)
        with learner.no_bar():
            answers = learner.lr_find(show_plot=False, suggest_funcs=SUGGESTION_RULES)
    curve = {
        "num_it": 100,
        "lrs": [float(rate) for rate in learner.recorder.lrs],
        "losses": [float(loss) for loss in learner.recorder.losses],
    }
    suggestions = suggestions_of(curve)["suggestions"]
    expected = {name: float(rate) for name, rate in answers._asdict().items()}
    assert suggestions == expected, (suggestions, expected)


def rates_of(case: Case) -> Case:
    """The rate of each of `groups` parameter groups when `value` is set as learning rate."""
    groups = [[nn.Parameter(torch.zeros(1))] for _ in range(case["groups"])]
    optimizer = Adam(groups, lr=0.1)
    optimizer.set_hyper("lr", as_argument(case["value"]))
    return {"lr": [float(values["lr"]) for values in optimizer.hypers]}


def refresh(file_name: str, list_name: str, answer: Callable[[Case], Case]) -> None:
    """Answers every case of a file's list again, in place."""
    path = FOLDER / file_name
    content = json.loads(path.read_text())
    torch_version = torch.__version__.split("+")[0]
    content["made_by"] = {"fastai": fastai.__version__, "torch": torch_version}
    content[list_name] = [{**case, **answer(case)} for case in content[list_name]]
    text = json.dumps(content, allow_nan=False)
    path.write_text(text.replace('}, {"', '},\n{"') + "\n")  # one case a line


def main() -> None:
    warnings.filterwarnings("ignore")  # fastai's own deprecations
    check_slicing()
    refresh("fine_tune_trajectory.json", "cases", trajectory_of)
    refresh("lr_suggestions.json", "curves", suggestions_of)
    refresh("spread.json", "cases", rates_of)


if __name__ == "__main__":
    main()
