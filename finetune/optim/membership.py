"""Which of torch's param groups a layer group's parameters are in, and how values get there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from finetune.models.layer_groups import LayerGroup, LayerGroups
from finetune.optim.factories import OptimizerFactory, build, shares


@dataclass(frozen=True, slots=True)
class Row:
    """One of torch's param groups: the parameters of a layer group that decay, or do not."""

    group: LayerGroup
    decays: bool
    names: list[str]
    optimizer: Optimizer
    index: int  # in the optimizer's param groups, which are other objects after load_state_dict
    keys: tuple[str, ...]  # of numbers in the param group, but the betas

    @property
    def param_group(self) -> dict[str, Any]:
        return self.optimizer.param_groups[self.index]

    @property
    def parameters(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.param_group["params"], strict=True))

    def apply_values(self) -> None:
        values, own = self.group.values, self.param_group
        for key in self.keys:
            if self.decays or key != "weight_decay":
                own[key] = values[key]
        if "betas" in own:
            own["betas"] = (
                values["momentum"],
                *(values[f"beta{i + 2}"] for i in range(len(own["betas"]) - 1)),
            )
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


def _number_keys(defaults: dict[str, Any]) -> tuple[str, ...]:
    """Of hyper-parameters that are real numbers; a count (ns_steps) is none, an integer 0 is."""
    return tuple(
        key
        for key, value in defaults.items()
        if isinstance(value, float) or (value == 0 and type(value) is int) or key == "lr"
    )
