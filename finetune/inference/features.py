"""Pooled backbone features of every example: what the head sees."""

import copy
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finetune.data.loaders import InputPipeline
from finetune.distributed.sharding import is_sharded
from finetune.inference.outputs import reading
from finetune.inference.reading import Source
from finetune.nested import main_output, main_target
from finetune.tasks.checks import dtype_and_shape
from finetune.training.evaluation import run_through
from finetune.training.runtime.runtime import Runtime

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


def backbone_of(model: nn.Module, other_way: str = "") -> nn.Module:
    """The submodule "backbone". other_way: what else a user may do, for the error.

    Raises ValueError for a model that has none under this name.
    """
    backbone = dict(model.named_children()).get(BACKBONE)
    if backbone is None:
        raise ValueError(
            f"{type(model).__name__} has no submodule {BACKBONE!r} to take features of; name it "
            f"so: nn.Sequential(OrderedDict(backbone=..., head=...)){other_way}"
        )
    if is_sharded(model):
        raise ValueError(
            "a part of a sharded model can't run by itself; export the model, and ask "
            "load_learner(folder) in one process"
        )
    return backbone


def compute_features(
    model: nn.Module,
    source: Source,
    pipeline: InputPipeline,
    runtime: Runtime,
    *,
    weights: Mapping[str, Tensor] | None = None,
) -> Features:
    """model: in eval mode. weights: by their names in the model, in place of the present ones.

    Raises ValueError for a model without a backbone, or one whose backbone gives no [B, F].
    """
    backbone = backbone_of(model)
    if weights:
        backbone = copy.deepcopy(backbone)
        prefix = f"{BACKBONE}."
        backbone_weights = {
            name.removeprefix(prefix): tensor
            for name, tensor in weights.items()
            if name.startswith(prefix)
        }
        backbone.load_state_dict(backbone_weights, strict=False)  # what is not in it stays
    values: list[Tensor] = []
    targets: list[Tensor] = []
    batches = run_through(backbone, source.loader, pipeline, runtime)
    with reading(source.loader), closing(batches):
        for batch, outputs in batches:
            features = main_output(outputs)
            if not isinstance(features, Tensor) or features.ndim != 2:
                raise ValueError(
                    f"the backbone gives {dtype_and_shape(features)}, not pooled features [B, F]"
                )
            values.append(features.cpu())
            targets.append(main_target(batch.targets).cpu())
    items = source.items(sum(map(len, values)))
    return Features(torch.cat(values), torch.cat(targets), tuple(items))
