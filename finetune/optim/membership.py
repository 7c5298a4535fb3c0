"""Which of torch's param groups a layer group's parameters are in, and how values get there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from finetune.models.layer_groups import LayerGroup, LayerGroups
from finetune.optim.factories import OptimizerFactory, build, shares

_SHARED = ("lr", "momentum", "weight_decay")
"""What the optimizers of a group have in common; the others keep their own until it is changed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One of torch's param groups: the parameters of a layer group that decay, or do not.

    keys: names of the hyper-parameters that are real numbers -> key in torch's param group, and
    position there, for betas. applied: the group's values that were seen last.
    """

    group: LayerGroup
    decays: bool
    names: list[str]
    optimizer: Optimizer
    index: int  # in the optimizer's param groups, which are other objects after load_state_dict
    keys: dict[str, tuple[str, int | None]]
    applied: dict[str, float] = field(default_factory=dict)

    @property
    def param_group(self) -> dict[str, Any]:
        return self.optimizer.param_groups[self.index]

    @property
    def parameters(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.param_group["params"], strict=True))

    @property
    def own_values(self) -> dict[str, float]:
        own = self.param_group
        return {
            name: float(own[key] if i is None else own[key][i])
            for name, (key, i) in self.keys.items()
        }

    def apply_values(self) -> None:
        """An optimizer may count in its param group, and what it writes there must stay."""
        own = self.param_group
        for name, (key, i) in self.keys.items():
            value = self.group.values[name]
            if name not in _SHARED and value == self.applied.get(name):
                continue
            self.applied[name] = value
            if i is not None:
                own[key] = (*own[key][:i], value, *own[key][i + 1 :])
            elif self.decays or key != "weight_decay":
                own[key] = value
        if own.get("momentum") and isinstance(self.optimizer, torch.optim.RMSprop):
            self._make_momentum_buffers()

    def _make_momentum_buffers(self) -> None:
        """RMSprop makes them at its first step only, and fails if momentum comes later."""
        for parameter in self.param_group["params"]:
            state = self.optimizer.state.get(parameter)
            if state and "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def make_rows(groups: LayerGroups, choices: Sequence[OptimizerFactory]) -> list[Row]:
    """In the order of the groups; a factory makes one optimizer for all groups that chose it."""
    for choice in choices:
        if not callable(choice) or isinstance(choice, Optimizer):
            raise TypeError(
                "optimizer must be a torch optimizer class, a functools.partial of one, or a "
                f"mapping of group names to them, got {choice!r}"
            )
    members = [
        (one, group, decays, {n: p for n, p in share.items() if (n in group.no_decay) != decays})
        for group, choice in zip(groups, choices, strict=True)
        for one, share in shares(choice, group)
        for decays in (True, False)
    ]
    members = [member for member in members if member[-1]]
    optimizers, counts = {}, Counter[int]()
    for factory in {id(member[0]): member[0] for member in members}.values():
        own = [(decays, named) for one, _, decays, named in members if one is factory]
        param_groups = [
            {"params": list(named.values()), **({} if decays else {"weight_decay": 0.0})}
            for decays, named in own
        ]
        optimizers[id(factory)] = build(factory, param_groups)
    rows = []
    for factory, group, decays, named in members:
        optimizer, index = optimizers[id(factory)], counts[id(factory)]
        counts[id(factory)] += 1
        keys = _number_keys(optimizer.defaults)
        rows.append(Row(group, decays, list(named), optimizer, index, keys))
    return rows


def _number_keys(defaults: dict[str, Any]) -> dict[str, tuple[str, int | None]]:
    """Where real numbers are; a count (ns_steps) is none, but an integer that means one is."""
    found: dict[str, tuple[str, int | None]] = {}
    for key, value in defaults.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if (
            key == "lr"
            or (whole and (value == 0 or key in ("eps", "momentum", "weight_decay")))
            or (isinstance(value, Real) and not isinstance(value, int))
        ):
            found[key] = key, None
        elif key == "betas":
            found |= {f"beta{i + 1}" if i else "momentum": (key, i) for i in range(len(value))}
    return found
