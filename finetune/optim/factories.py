"""Optimizer factories: torch optimizer classes or partials of them, and which weights they get."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from finetune import arguments
from finetune.models.layer_group import LayerGroup

OptimizerFactory: TypeAlias = Callable[..., Optimizer]

adamw: OptimizerFactory = partial(
    torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01
)
"""The default: decoupled weight decay (Loshchilov and Hutter 2017), fastai's betas and eps.

>>> optimizer = adamw(torch.nn.Linear(4, 2).parameters())
>>> optimizer.defaults["betas"]
(0.9, 0.99)
"""


@dataclass(frozen=True, slots=True)
class Matrices:
    """One optimizer for the matrices of a group, another for its other parameters.

    Matrices are the parameters of shape [N, M] that decay: the weights of linear layers, but not
    the tables of embeddings that the model's `no_weight_decay()` lists.

    >>> from torch import nn
    >>> from finetune import GroupOptimizer, LayerGroups
    >>> sgd_and_adamw = Matrices(partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    >>> groups = LayerGroups.from_model(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    >>> [type(one).__name__ for one in GroupOptimizer(groups, sgd_and_adamw).torch_optimizers]
    ['SGD', 'AdamW']
    """

    matrices: OptimizerFactory
    others: OptimizerFactory = adamw

    def __post_init__(self) -> None:
        takes = "parameters -> optimizer, such as torch.optim.AdamW"
        arguments.function("matrices", self.matrices, takes)
        arguments.function("others", self.others, takes)

    def __call__(self, *arguments: Any, **settings: Any) -> Optimizer:
        raise TypeError("Matrices makes two optimizers; give it to GroupOptimizer or a Learner")


muon = Matrices(
    partial(
        torch.optim.Muon, lr=1e-3, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
)
"""Muon (Jordan et al. 2024) for matrices, at rates like AdamW's, and AdamW for the rest.

Its authors leave the classifier to AdamW: `optimizer={"head": adamw, "*": muon}`.

>>> from torch import nn
>>> from finetune import GroupOptimizer, LayerGroups
>>> groups = LayerGroups.from_model(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
>>> optimizer = GroupOptimizer(groups, {"head": adamw, "*": muon})
>>> sorted({type(one).__name__ for one in optimizer.torch_optimizers})
['AdamW', 'Muon']
"""


def split_by_factory(
    factory: OptimizerFactory, group: LayerGroup
) -> list[tuple[OptimizerFactory, dict[str, nn.Parameter]]]:
    """Pairs a factory with the parameters that its optimizer updates, by name.

    `Matrices` gives two pairs, which may be empty; any other factory gets the whole group.
    """
    if not isinstance(factory, Matrices):
        return [(factory, group.parameters)]
    matrices: dict[str, nn.Parameter] = {}
    other_parameters: dict[str, nn.Parameter] = {}
    for name, parameter in group.parameters.items():
        if parameter.ndim == 2 and name not in group.no_decay:
            matrices[name] = parameter
        else:
            other_parameters[name] = parameter
    return [(factory.matrices, matrices), (factory.others, other_parameters)]


def build_optimizer(factory: OptimizerFactory, param_groups: list[dict[str, Any]]) -> Optimizer:
    """Calls the factory, with fused kernels where torch has them for the parameters' device.

    Raises ValueError for LBFGS, which has one learning rate for all parameters.
    """
    if _class_of(factory) is torch.optim.LBFGS:
        raise ValueError(
            "optimizer=LBFGS takes no layer groups, which have learning rates of their own, and "
            "no batches, whose losses differ; use AdamW or SGD, such as optimizer=torch.optim.SGD"
        )
    if _may_be_fused(factory):
        try:
            return factory(param_groups, fused=True)
        except RuntimeError:
            pass  # this is how torch says that it has no fused kernel for a device or dtype
    return factory(param_groups)


def _class_of(factory: OptimizerFactory) -> Callable[..., Optimizer]:
    """The factory itself, or what it is a `functools.partial` of."""
    return factory.func if isinstance(factory, partial) else factory


def _may_be_fused(factory: OptimizerFactory) -> bool:
    """Whether the optimizer has fused kernels, and the caller has not chosen other ones."""
    settings: dict[str, Any] = {}
    if isinstance(factory, partial):
        settings = factory.keywords
    # fused SGD can't start the momentum of some parameters of a group later than that of others
    if _class_of(factory) is torch.optim.SGD:
        return False
    if "fused" not in inspect.signature(factory).parameters:
        return False
    return settings.get("fused") is None and not settings.get("foreach")
