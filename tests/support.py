"""What the tests share: tiny data and models, synthetic photos, fastai's golden figures."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import finetune
from finetune import Callback, DataLoaders, Learner, Stop
from finetune.training.events import StepEnd
from finetune.training.phase import Phase, Plan
from finetune.training.settings import StepSettings
from finetune.training.setup import Setup

SHARED = Path(__file__).resolve().parents[2] / "shared"
CLOTHING = SHARED / "data" / "clothing"
GOLDEN = Path(__file__).resolve().parent / "golden"

needs_clothing = pytest.mark.skipif(not CLOTHING.is_dir(), reason=f"no photos at {CLOTHING}")

FILES_ALONE = f"""
import sys, types
finetune = types.ModuleType("finetune")
finetune.__path__ = [{str(Path(finetune.__file__).parent)!r}]
sys.modules["finetune"] = finetune
"""
"""The begin of a script that uses `finetune.files`, without the seconds of importing the rest."""

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}


def golden_figures(file_name: str) -> dict[str, Any]:
    """What fastai does, as golden/README.md describes."""
    return json.loads((GOLDEN / file_name).read_text(encoding="utf-8"))


def tiny_pairs(count: int = 32, features: int = 4, seed: int = 0) -> TensorDataset:
    """Points and whether their sum is positive."""
    points = torch.randn(count, features, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(points, (points.sum(1) > 0).long())


def tiny_data(count: int = 32, batch_size: int = 4, seed: int = 0) -> DataLoaders:
    """count // batch_size batches an epoch."""
    pairs = tiny_pairs(count)
    train = DataLoader(pairs, batch_size, shuffle=True, drop_last=True)
    return DataLoaders(train, DataLoader(pairs, 16), seed=seed, classes=["no", "yes"])


def tiny_model(groups: int = 2, *, dropout: float = 0.2, seed: int = 0) -> nn.Sequential:
    """`groups` blocks: all but the last have a BatchNorm and a Dropout layer."""
    torch.manual_seed(seed)
    blocks = [
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(dropout))
        for _ in range(groups - 1)
    ]
    return nn.Sequential(*blocks, nn.Linear(4, 2))


def tiny_learner(
    groups: int = 2, *, data: DataLoaders | None = None, dropout: float = 0.2, **options: object
) -> Learner:
    """A learner on the tiny data with one layer group per block, quiet, on the CPU."""
    arguments: dict = {
        "loss": nn.functional.cross_entropy,
        "split": list(range(1, groups)) if groups > 1 else lambda model: [[model]],
        "progress": False,
        "device": "cpu",
        **options,
    }
    return Learner(data or tiny_data(), tiny_model(groups, dropout=dropout), **arguments)


def setup_of(learner: Learner, **changes: Any) -> Setup:
    """What a learner is made of, with the tiny loss and no metrics, for the parts below it."""
    parts: dict[str, Any] = {
        "model": learner.model,
        "data": learner.data,
        "loss": nn.functional.cross_entropy,
        "metrics": {},
        "optimizer": learner.optimizer,
        "runtime": learner.runtime,
        "settings": StepSettings(),
        "scaler": learner.runtime.gradient_scaler(),
        **changes,
    }
    return Setup(**parts)


class StopAt(Callback):
    """Stops after so many steps, counted over all phases of this fit."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step_end(self, event: StepEnd) -> Stop | None:
        self.left -= 1
        return Stop("that is enough") if self.left == 0 else None


def same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def copy_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def write_photos(
    folder: Path,
    *,
    per_class: int = 8,
    size: tuple[int, int] = (48, 40),
    classes: tuple[str, ...] = tuple(COLOURS),
    name: Callable[[int], str] = lambda i: f"{i:03d}.jpg",
) -> Path:
    """Noisy images in one colour a class, `folder/<class>/000.jpg`, ..."""
    noise = np.random.default_rng(0)
    for label in classes:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            pixels = noise.normal(COLOURS[label], 40, (size[1], size[0], 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / name(i))
    return folder


def plan_values(
    plan: Plan, steps_per_epoch: int
) -> Iterator[tuple[Phase, dict[str, tuple[float, ...]]]]:
    """The hyper-parameters of every step of a plan, without running it."""
    for phase in plan:
        for epoch in range(phase.epochs):
            for step in range(steps_per_epoch):
                yield phase, phase.at(epoch, step, steps_per_epoch)


def same(a: Any, b: Any) -> bool:
    """Bit for bit, all the way down."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    # the same NaN is the same
    return bool(a == b) or a is b
