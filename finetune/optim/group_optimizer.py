"""GroupOptimizer: layer groups x a torch optimizer class -> a torch optimizer with one step."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from finetune.models.layer_groups import LayerGroup, LayerGroups

OptimizerFactory: TypeAlias = Callable[..., Optimizer]

adamw: OptimizerFactory = partial(
    torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01
)
"""The default: decoupled weight decay (Loshchilov and Hutter 2017), fastai's betas and eps."""


class GroupOptimizer:
    """A torch optimizer over layer groups whose membership and order never change.

    The hyper-parameters of step t are the groups' `values` at that moment: nothing else is
    consulted, and no hidden multiplier exists. Freezing only drops gradients, so the state of a
    frozen parameter is there again when it is unfrozen. Fused kernels are used where torch has
    them for the parameters' device, else torch's own choice.

    groups: the layer groups. factory: a torch optimizer class, or a `functools.partial` of one.
    weight_decay: replaces the factory's own; parameters in `no_decay` always have 0.

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
        factory: OptimizerFactory = adamw,
        *,
        weight_decay: float | None = None,
    ) -> None:
        if weight_decay is not None and weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
        self.groups, self.factory = groups, factory
        self._names: list[str] = []
        param_groups: list[dict[str, Any]] = []
        self._owner: list[tuple[int, bool]] = []  # torch's param group -> layer group, decays
        for i, group in enumerate(groups):
            for decays in (True, False):
                named = {
                    n: p for n, p in group.parameters.items() if (n in group.no_decay) != decays
                }
                if named:
                    param_groups.append({"params": list(named.values())})
                    self._names += named
                    self._owner.append((i, decays))
                    if not decays:
                        param_groups[-1]["weight_decay"] = 0.0
        self.torch_optimizer = _build(factory, param_groups)
        self._momentum_key = next(
            (k for k in ("betas", "momentum") if k in self.torch_optimizer.defaults), None
        )
        if weight_decay is not None and "weight_decay" not in self.torch_optimizer.defaults:
            name = type(self.torch_optimizer).__name__
            raise ValueError(f"{name} has no weight_decay; leave weight_decay={weight_decay} out")
        if "weight_decay" in self.torch_optimizer.defaults and weight_decay is None:
            weight_decay = self.torch_optimizer.defaults["weight_decay"]
        for group, _, torch_group in self._rows():
            group.values["lr"] = float(torch_group["lr"])
            if self._momentum_key is not None:
                group.values["momentum"] = self._momentum(torch_group)
            if weight_decay is not None:
                group.values["weight_decay"] = float(weight_decay)

    @property
    def has_momentum(self) -> bool:
        """Whether there is a momentum (or beta1) for a schedule to move."""
        return self._momentum_key is not None

    @property
    def default_momentum(self) -> float | None:
        """The momentum that the optimizer was made with, None if it has none."""
        return self._momentum(self.torch_optimizer.defaults) if self.has_momentum else None

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.torch_optimizer.param_groups

    def _rows(self) -> list[tuple[LayerGroup, bool, dict[str, Any]]]:
        owned = zip(self._owner, self.param_groups, strict=True)
        return [(self.groups[i], decays, torch_group) for (i, decays), torch_group in owned]

    def _momentum(self, torch_group: dict[str, Any]) -> float:
        value = torch_group[str(self._momentum_key)]
        return float(value[0] if isinstance(value, tuple) else value)

    def apply_values(self) -> None:
        """Copies the groups' values into the torch optimizer; `step` does it before stepping."""
        for group, decays, torch_group in self._rows():
            torch_group["lr"] = group.values["lr"]
            if self._momentum_key == "betas":
                torch_group["betas"] = (group.values["momentum"], *torch_group["betas"][1:])
            elif self._momentum_key == "momentum":
                torch_group["momentum"] = group.values["momentum"]
                self._make_momentum_buffers(torch_group)
            if decays and "weight_decay" in group.values:
                torch_group["weight_decay"] = group.values["weight_decay"]

    def _make_momentum_buffers(self, torch_group: dict[str, Any]) -> None:
        """RMSprop makes them at its first step only, and fails if momentum comes later."""
        if not isinstance(self.torch_optimizer, torch.optim.RMSprop) or not torch_group["momentum"]:
            return
        for parameter in torch_group["params"]:
            state = self.torch_optimizer.state.get(parameter)
            if state and "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)

    def step(self, scaler: torch.amp.GradScaler | None = None) -> None:
        """One update of every parameter that has a gradient."""
        self.apply_values()
        if scaler is None:
            self.torch_optimizer.step()
        else:
            scaler.step(self.torch_optimizer)

    def zero_grad(self) -> None:
        """Drops the gradients; torch's own method takes as long for its profiler's marks alone."""
        for group in self.groups:
            for parameter in group.parameters.values():
                parameter.grad = None

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state by parameter name; hyper-parameters are in the groups' values."""
        state = self.torch_optimizer.state
        parameters = self._parameters()
        return {n: dict(state[p]) for n, p in parameters.items() if p in state}

    def load_state_dict(self, saved: dict[str, dict[str, Any]]) -> None:
        """Takes back what `state_dict` gave, by name, so that it survives a change of order.

        Raises ValueError when a name is unknown or a tensor's shape does not fit.
        """
        parameters = self._parameters()
        unknown = sorted(set(saved) - set(parameters))
        if unknown:
            raise ValueError(f"optimizer state of parameters that are not here: {unknown[:5]}")
        position = {name: i for i, name in enumerate(self._names)}
        for name, entries in saved.items():
            for key, value in entries.items():
                if (
                    isinstance(value, Tensor)
                    and value.dim()
                    and not _fits(value.shape, parameters[name].shape)
                ):
                    raise ValueError(
                        f"optimizer state {key} of {name!r} has shape {tuple(value.shape)}, "
                        f"the parameter {tuple(parameters[name].shape)}"
                    )
        whole = self.torch_optimizer.state_dict()
        whole["state"] = {position[name]: dict(entries) for name, entries in saved.items()}
        self.torch_optimizer.load_state_dict(whole)

    def _parameters(self) -> dict[str, Tensor]:
        flat = [p for group in self.param_groups for p in group["params"]]
        return dict(zip(self._names, flat, strict=True))


def _fits(state: torch.Size, parameter: torch.Size) -> bool:
    """The parameter's shape, or 1 along some of its dimensions, as Adafactor has it."""
    return len(state) == len(parameter) and all(
        a in (1, b) for a, b in zip(state, parameter, strict=True)
    )


def _build(factory: OptimizerFactory, param_groups: list[dict[str, Any]]) -> Optimizer:
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
