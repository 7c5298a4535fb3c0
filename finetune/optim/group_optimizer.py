"""GroupOptimizer: layer groups x torch optimizers, whose membership never changes, as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from finetune.models.group_values import PerGroup, checked_values
from finetune.models.layer_groups import LayerGroups
from finetune.optim.factories import OptimizerFactory, adamw
from finetune.optim.membership import make_rows

_KERNELS = ("fused", "foreach", "capturable", "differentiable")  # another device has others

OptimizerChoice: TypeAlias = PerGroup[OptimizerFactory]
"""One factory for all groups, or one per group in any way of `LayerGroups.per_group`."""


class GroupOptimizer:
    """Torch optimizers over layer groups; their membership and order never change.

    The hyper-parameters of step t are the groups' `values` at that moment: nothing else is
    consulted, and no hidden multiplier exists. Every number that an optimizer has per group is one
    of them, by torch's name; its betas are "momentum", "beta2", ... Freezing only drops gradients,
    so the state of a frozen parameter is there again when it is unfrozen.

    groups: the layer groups. factory: a torch optimizer class, a `functools.partial` of one or
    `Matrices`, or one of them per group: `{"head": torch.optim.AdamW, "*": torch.optim.SGD}`.
    weight_decay: replaces the factory's own, one value or one per group; parameters in `no_decay`
    always have 0. Raises ValueError for a hyper-parameter that the optimizer does not have.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> optimizer = GroupOptimizer(LayerGroups.from_model(model), torch.optim.SGD)
    >>> optimizer.groups.set_values("lr", [1e-4, 1e-2])
    >>> loss = model(torch.ones(1, 4)).sum()
    >>> loss.backward()
    >>> optimizer.step()
    >>> [group["lr"] for group in optimizer.param_groups]
    [0.0001, 0.0001, 0.01, 0.01]
    """

    def __init__(
        self,
        groups: LayerGroups,
        factory: OptimizerChoice = adamw,
        *,
        weight_decay: PerGroup[float] | None = None,
    ) -> None:
        self.groups, self.factory = groups, factory
        self._rows = make_rows(groups, groups.per_group(factory, "optimizer"))
        self.torch_optimizers = tuple({id(r.optimizer): r.optimizer for r in self._rows}.values())
        self._together = _Together(self.torch_optimizers)  # one, as a scaler tells them by identity
        self._set_initial_values()
        if weight_decay is not None:
            self._set_weight_decay(weight_decay)

    def _set_initial_values(self) -> None:
        for group in self.groups:
            group.values.clear()
        # a group's first optimizer, that of what decays, is the one that counts
        for row in sorted(self._rows, key=lambda row: not row.decays):
            name = type(row.optimizer).__name__
            if "lr" not in row.optimizer.defaults:
                raise ValueError(
                    f"{name} has no lr for each group; scale its updates instead: "
                    f"optimizer=functools.partial(ScaledUpdates, optimizer={name})"
                )
            for key, value in row.own_values.items():
                row.group.values.setdefault(key, value)
        for row in self._rows:
            row.applied.update({key: row.group.values[key] for key in row.keys})
        for group in self.groups:
            used = (type(row.optimizer).__name__ for row in self._rows if row.group is group)
            group.optimizer = ", ".join(dict.fromkeys(used))
            group.base = dict(group.values)

    def _set_weight_decay(self, given: PerGroup[float]) -> None:
        values = self.groups.per_group(given, "weight decay")
        decays = checked_values(values, "weight_decay", shown=given)
        for group, value in zip(self.groups, decays, strict=True):
            if "weight_decay" in group.values:
                group.values["weight_decay"] = group.base["weight_decay"] = value
            elif value:
                raise ValueError(
                    f"{group.optimizer} has no weight_decay; leave weight_decay={value} out"
                )

    @property
    def has_momentum(self) -> bool:
        """Whether there is a momentum (or beta1) for a schedule to move."""
        return any({"momentum", "betas"} & one.defaults.keys() for one in self.torch_optimizers)

    @property
    def base_momentum(self) -> tuple[float, ...] | None:
        """The momentum that each group's optimizer has, None if none has any."""
        return self.groups.values_of("momentum") if self.has_momentum else None

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [row.param_group for row in self._rows]

    def apply_values(self) -> None:
        """Copies the groups' values into the torch optimizers; `step` does it before stepping."""
        for row in self._rows:
            row.apply_values()

    def step(self, scaler: torch.amp.GradScaler | None = None) -> None:
        """One update of every parameter that has a gradient."""
        self.apply_values()
        if scaler is None:
            for optimizer in self.torch_optimizers:
                optimizer.step()
        else:
            scaler.step(self._as_one())

    def unscale(self, scaler: torch.amp.GradScaler) -> None:
        """Gradients as they are without the scaler."""
        scaler.unscale_(self._as_one())

    def _as_one(self) -> Any:
        """For a scaler, which must skip the step of all where one gradient is not finite."""
        return self._together if len(self.torch_optimizers) > 1 else self.torch_optimizers[0]

    def zero_grad(self) -> None:
        """Drops the gradients; torch's own method takes as long for its profiler's marks alone."""
        for group in self.groups:
            for parameter in group.parameters.values():
                parameter.grad = None

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state by parameter name; hyper-parameters are in the groups' values."""
        return {
            name: dict(row.optimizer.state[parameter])
            for row in self._rows
            for name, parameter in row.parameters.items()
            if parameter in row.optimizer.state
        }

    def settings(self) -> list[dict[str, Any]]:
        """The plain entries of torch's param groups: some optimizers count in them."""
        plain = (int, float, str, tuple, type(None))
        return [
            {k: v for k, v in group.items() if isinstance(v, plain) and k not in _KERNELS}
            for group in self.param_groups
        ]

    def load_settings(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Takes back what `settings` gave."""
        for group, own in zip(self.param_groups, saved, strict=True):
            group.update(own)

    def load_state_dict(self, saved: dict[str, dict[str, Any]]) -> None:
        """Takes back what `state_dict` gave, by name, so that it survives a change of order.

        Raises ValueError when a name is unknown or a tensor's shape does not fit.
        """
        parameters = {name: p for row in self._rows for name, p in row.parameters.items()}
        unknown = sorted(set(saved) - set(parameters))
        if unknown:
            raise ValueError(f"optimizer state of parameters that are not here: {unknown[:5]}")
        for name, entries in saved.items():
            for key, value in entries.items():
                if isinstance(value, Tensor) and not _fits(value.shape, parameters[name].shape):
                    raise ValueError(
                        f"optimizer state {key} of {name!r} has shape {tuple(value.shape)}, "
                        f"the parameter {tuple(parameters[name].shape)}"
                    )
        for optimizer in self.torch_optimizers:
            names = [name for r in self._rows if r.optimizer is optimizer for name in r.names]
            whole = optimizer.state_dict()
            whole["state"] = {i: dict(saved[n]) for i, n in enumerate(names) if n in saved}
            optimizer.load_state_dict(whole)


@dataclass(frozen=True, slots=True)
class _Together:
    """Several optimizers, for a gradient scaler."""

    optimizers: tuple[Optimizer, ...]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def _fits(state: torch.Size, parameter: torch.Size) -> bool:
    """The parameter's shape, or with 1 or another of its sizes; of another rank it may be any."""
    return len(state) != len(parameter) or {*state} <= {1, *parameter}
