"""Membership: which of torch's param groups holds a parameter, and how values get there.

Torch's optimizers have one weight decay per param group, and a layer group has parameters that
decay and parameters that do not (biases, norms). So each layer group becomes up to two of torch's
param groups for every optimizer that it uses.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finetune import arguments
from finetune.models.layer_group import LayerGroup
from finetune.models.layer_groups import LayerGroups
from finetune.optim.factories import OptimizerFactory, build_optimizer, split_by_factory
from finetune.optim.protocols import has_modes

_SHARED = ("lr", "momentum", "weight_decay")
"""Hyper-parameters that all optimizers of a layer group take from the group at every step.

Each optimizer keeps its own value of the others (eps, say) until the group's value is changed.
"""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a hyper-parameter stands in one of torch's param groups.

    key: "lr" or "betas", say. position: in the tuple under that key, None for a plain number.
    """

    key: str
    position: int | None = None

    def read(self, torch_group: dict[str, Any]) -> float:
        value = torch_group[self.key]
        if self.position is not None:
            value = value[self.position]
        return float(value)

    def write(self, torch_group: dict[str, Any], value: float) -> None:
        if self.position is None:
            torch_group[self.key] = value
            return
        values = list(torch_group[self.key])
        values[self.position] = value
        torch_group[self.key] = tuple(values)


@dataclass(frozen=True, slots=True)
class ParamGroup:
    """One of torch's param groups: the parameters of a layer group that decay, or those that don't.

    names: qualified names of the parameters, in torch's order. slots: hyper-parameters by the name
    they have in the layer group's values. owner: name of the group that has the parameters, which
    for those of a loss is not `group`, whose values they have. applied: the layer group's values as
    they were last seen.
    """

    group: LayerGroup
    decays: bool
    names: list[str]
    optimizer: Optimizer
    index: int
    slots: dict[str, Slot]
    owner: str
    applied: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, bool, str]:
        """What it is called after its parameters have changed."""
        return self.owner, self.decays, type(self.optimizer).__name__

    @property
    def torch_group(self) -> dict[str, Any]:
        """Torch's own dict, looked up by index: `load_state_dict` replaces it by another."""
        return self.optimizer.param_groups[self.index]

    @property
    def parameters(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.torch_group["params"], strict=True))

    @property
    def torch_values(self) -> dict[str, float]:
        """The hyper-parameters as torch's optimizer has them."""
        torch_group = self.torch_group
        return {name: slot.read(torch_group) for name, slot in self.slots.items()}

    def apply_values(self) -> None:
        """Copies the layer group's values into torch's param group, where they have changed.

        Some optimizers (Prodigy, schedule-free ones) keep their own estimates under such a key. So
        a value that nobody has changed is not written again.
        """
        torch_group = self.torch_group
        for name, slot in self.slots.items():
            value = self.group.values[name]
            if name not in _SHARED and value == self.applied.get(name):
                continue
            self.applied[name] = value
            if slot.key == "weight_decay" and not self.decays:
                continue
            slot.write(torch_group, value)
        if torch_group.get("momentum") and isinstance(self.optimizer, torch.optim.RMSprop):
            self._make_momentum_buffers()

    def _make_momentum_buffers(self) -> None:
        """RMSprop makes them at its first step only, and fails if momentum comes later."""
        for parameter in self.torch_group["params"]:
            state = self.optimizer.state.get(parameter)
            if state and "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)


@dataclass(frozen=True, slots=True)
class _Share:
    """Parameters, by name, that become one of torch's param groups.

    group: whose hyper-parameters they have. owner: name of the group that they are in.
    """

    factory: OptimizerFactory
    group: LayerGroup
    decays: bool
    parameters: dict[str, nn.Parameter]
    owner: str

    def to_torch(self) -> dict[str, Any]:
        torch_group: dict[str, Any] = {"params": list(self.parameters.values())}
        if not self.decays:
            torch_group["weight_decay"] = 0.0
        return torch_group


def make_param_groups(
    groups: LayerGroups, factories: Sequence[OptimizerFactory]
) -> list[ParamGroup]:
    """Builds the optimizers and returns all their param groups, in the order of the layer groups.

    factories: one per layer group. Layer groups with the same factory share one optimizer.
    Raises TypeError for what is no factory.
    """
    for factory in factories:
        if not callable(factory) or isinstance(factory, Optimizer):
            raise TypeError(
                "optimizer must be a torch optimizer class, a functools.partial of one, or a "
                f"mapping of group names to them, got {arguments.shown(factory)}"
            )
    shares = _shares(groups, factories)
    optimizers = _build_optimizers(shares)
    group_counts = Counter[int]()  # an optimizer numbers its param groups from 0
    param_groups = []
    for share in shares:
        factory_id = id(share.factory)
        optimizer = optimizers[factory_id]
        param_groups.append(
            ParamGroup(
                share.group,
                share.decays,
                names=list(share.parameters),
                optimizer=optimizer,
                index=group_counts[factory_id],
                slots=_slots(optimizer),
                owner=share.owner,
            )
        )
        group_counts[factory_id] += 1
    return param_groups


def _shares(groups: LayerGroups, factories: Sequence[OptimizerFactory]) -> list[_Share]:
    """All parameters, divided by layer group, by factory, and by whether they decay."""
    shares: list[_Share] = []
    for group, factory in zip(groups, factories, strict=True):
        shares.extend(_shares_of(group, factory, values_of=group))
    if groups.loss_group is not None:
        shares.extend(_shares_of(groups.loss_group, factories[-1], values_of=groups[-1]))
    return shares


def _shares_of(
    group: LayerGroup, group_factory: OptimizerFactory, *, values_of: LayerGroup
) -> list[_Share]:
    """The shares of one group. values_of: the group whose hyper-parameters they have."""
    shares = []
    for factory, parameters in split_by_factory(group_factory, group):
        decaying: dict[str, nn.Parameter] = {}
        not_decaying: dict[str, nn.Parameter] = {}
        for name, parameter in parameters.items():
            side = not_decaying if name in group.no_decay else decaying
            side[name] = parameter
        if decaying:
            shares.append(_Share(factory, values_of, True, decaying, group.name))
        if not_decaying:
            shares.append(_Share(factory, values_of, False, not_decaying, group.name))
    return shares


def _build_optimizers(shares: Sequence[_Share]) -> dict[int, Optimizer]:
    """One optimizer for each factory, by the factory's id; factories need not be hashable."""
    factories: dict[int, OptimizerFactory] = {}
    torch_groups: dict[int, list[dict[str, Any]]] = {}
    for share in shares:
        factory_id = id(share.factory)
        factories[factory_id] = share.factory
        torch_groups.setdefault(factory_id, []).append(share.to_torch())
    return {
        factory_id: build_optimizer(factory, torch_groups[factory_id])
        for factory_id, factory in factories.items()
    }


def _slots(optimizer: Optimizer) -> dict[str, Slot]:
    """The hyper-parameters of an optimizer that are real numbers; betas are momentum, beta2, ..."""
    slots: dict[str, Slot] = {}
    # a schedule-free optimizer tells its two kinds of weights by beta1, so no cycle may move it
    first_beta = "beta1" if has_modes(optimizer) else "momentum"
    for key, value in optimizer.defaults.items():
        if _is_real_number(key, value):
            slots[key] = Slot(key)
        elif key == "betas":
            for position in range(len(value)):
                name = first_beta if position == 0 else f"beta{position + 1}"
                slots[name] = Slot(key, position)
    return slots


def _is_real_number(key: str, value: object) -> bool:
    """Whether a default is a real number, written as an integer or not.

    Counts (`ns_steps=5`) and flags are not: a schedule would make fractions of them.
    """
    if key == "lr":
        return True
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return value == 0 or key in ("eps", "momentum", "weight_decay")
    return isinstance(value, Real)
