"""Optimizer factories: torch optimizer classes or partials of them, and which weights they get."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from finetune.models.layer_groups import LayerGroup

OptimizerFactory: TypeAlias = Callable[..., Optimizer]

adamw: OptimizerFactory = partial(
    torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01
)
"""The default: decoupled weight decay (Loshchilov and Hutter 2017), fastai's betas and eps."""


@dataclass(frozen=True, slots=True)
class Matrices:
    """One optimizer for the matrices of a group, another for its other parameters.

    Matrices are parameters [N, M] that decay: the weights of linear layers, but no tables of
    embeddings that the model's `no_weight_decay()` lists.
    """

    matrices: OptimizerFactory
    others: OptimizerFactory = adamw

    def __call__(self, *arguments: Any, **settings: Any) -> Optimizer:
        raise TypeError("Matrices makes two optimizers; give it to GroupOptimizer or a Learner")


muon = Matrices(
    partial(
        torch.optim.Muon, lr=1e-3, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
)
"""Muon (Jordan et al. 2024) for matrices, at rates like AdamW's, and AdamW for the rest.

Its authors leave the classifier to AdamW: `optimizer={"head": adamw, "*": muon}`.
"""


def shares(
    factory: OptimizerFactory, group: LayerGroup
) -> list[tuple[OptimizerFactory, dict[str, nn.Parameter]]]:
    """The factory with all parameters of the group, or each of two with its share."""
    if not isinstance(factory, Matrices):
        return [(factory, group.parameters)]
    parts: tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]] = {}, {}
    for name, parameter in group.parameters.items():
        parts[parameter.ndim != 2 or name in group.no_decay][name] = parameter
    return [(factory.matrices, parts[0]), (factory.others, parts[1])]


def build(factory: OptimizerFactory, param_groups: list[dict[str, Any]]) -> Optimizer:
    """With fused kernels where torch has them for the parameters' device, else as torch chooses."""
    arguments = inspect.signature(factory).parameters
    given = factory.keywords if isinstance(factory, partial) else {}
    made = factory.func if isinstance(factory, partial) else factory
    # fused SGD can't start the momentum of some parameters of a group later than that of others
    fusable = "fused" in arguments and made is not torch.optim.SGD
    if fusable and given.get("fused") is None and not given.get("foreach"):
        try:
            return factory(param_groups, fused=True)
        except RuntimeError:  # no fused kernel for this device or dtype: torch says so here
            pass
    return factory(param_groups)
