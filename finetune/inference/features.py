"""Pooled backbone features of every example: what the head sees."""

import copy
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune.data.loaders import EpochLoader
from finetune.inference.reading import Source
from finetune.randomness import isolated
from finetune.training.evaluation import run_through
from finetune.training.runtime.modules import eval_mode
from finetune.training.setup import Setup

BACKBONE = "backbone"


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """values: float32 [N, F]. targets: first dimension N. items: N paths, or numbers."""

    values: Tensor
    targets: Tensor
    items: tuple[str | int, ...]

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Features({len(self):,} examples, {self.values.shape[1]:,} features)"


def backbone_of(model: nn.Module, otherwise: str = "") -> nn.Module:
    """Raises ValueError for a model that has none under this name. otherwise: another way out."""
    found = dict(model.named_children()).get(BACKBONE)
    if found is None:
        raise ValueError(
            f"{type(model).__name__} has no submodule {BACKBONE!r} to take features of; name it "
            f"so: nn.Sequential(OrderedDict(backbone=..., head=...)){otherwise}"
        )
    return found


def compute_features(
    setup: Setup, source: Source, weights: dict[str, Tensor] | None = None
) -> Features:
    """weights: parameters and buffers by their names in the model, in place of the present ones.

    Raises ValueError for a model without a backbone, or one that gives no [B, F].
    """
    backbone = backbone_of(setup.model)
    if weights:
        backbone = copy.deepcopy(backbone)
        start = f"{BACKBONE}."
        own = {name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)}
        backbone.load_state_dict(own, strict=False)  # what is not in it stays
    values, targets = _run(replace(setup, model=backbone), source.loader)
    return Features(values, targets, tuple(source.items(len(values))))


def _run(setup: Setup, loader: EpochLoader) -> tuple[Tensor, Tensor]:
    found: list[tuple[Tensor, Any]] = []
    with isolated(), eval_mode(setup.model), closing(run_through(setup, loader)) as batches:
        for batch, outputs in batches:
            if not isinstance(outputs, Tensor) or outputs.ndim != 2:
                shape = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs)
                raise ValueError(f"the backbone gives {shape}, not pooled features [B, F]")
            found.append((outputs.cpu(), batch.targets.cpu()))
    values, targets = zip(*found, strict=True)
    return torch.cat(values), torch.cat(targets)
