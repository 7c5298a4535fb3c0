"""GroupOptimizer: the torch optimizers of all layer groups, as one object."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from finetune import arguments
from finetune.distributed.sharding import sharded_like
from finetune.models.group_values import PerGroup, checked_values
from finetune.models.layer_group import LayerGroup
from finetune.models.layer_groups import LayerGroups
from finetune.models.model_change import ModelChange
from finetune.optim.factories import OptimizerFactory, adamw
from finetune.optim.membership import make_param_groups
from finetune.optim.protocols import (
    Closure,
    EvaluationWeights,
    load_base_states,
    needs_closure,
    state_of,
    without_base,
)
from finetune.optim.saved_state import check_entries, check_shapes

_KERNELS = ("fused", "foreach", "capturable", "differentiable")
"""Entries of a param group that are not saved: a run may go on where there are other kernels."""

OptimizerChoice: TypeAlias = PerGroup[OptimizerFactory]
"""One factory for all groups, or one per group in any way of `LayerGroups.per_group`."""


class GroupOptimizer:
    """Torch optimizers over layer groups; freezing changes neither their membership nor order.

    The hyper-parameters of step t are the groups' `values` at that moment; nothing else is
    consulted, and there is no hidden multiplier. `values` has every real number that an optimizer
    has per group, by torch's name; its betas are "momentum", "beta2", ... Freezing only drops
    gradients, so the state of a frozen parameter is still there when it is unfrozen.

    groups: the layer groups. factory: a torch optimizer class, a `functools.partial` of one or
    `Matrices`, or one of them per group: `{"head": torch.optim.AdamW, "*": torch.optim.SGD}`.
    weight_decay: replaces the factory's, one value or one per group; parameters in `no_decay`
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
        self.groups = arguments.instance("groups", groups, LayerGroups)
        self.factories: tuple[OptimizerFactory, ...] = groups.per_group(factory, "optimizer")
        self._make_optimizers()
        if weight_decay is not None:
            self._set_weight_decay(weight_decay)

    def _make_optimizers(self) -> None:
        self._param_groups = make_param_groups(self.groups, self.factories)
        optimizers = {id(p.optimizer): p.optimizer for p in self._param_groups}
        self.torch_optimizers = tuple(optimizers.values())
        # made once: a gradient scaler remembers by identity what it has unscaled
        self._for_scaler = _as_one(self.torch_optimizers)
        self.needs_closure = any(map(needs_closure, self.torch_optimizers))
        if self.needs_closure and len(self.torch_optimizers) > 1:
            names = ", ".join(type(optimizer).__name__ for optimizer in self.torch_optimizers)
            raise ValueError(
                "an optimizer that needs a closure, such as SAM, must be the only one, since it "
                f"computes the gradients of all groups again; got {names}"
            )
        self.weights = EvaluationWeights(self.torch_optimizers)
        self._set_initial_values()

    def follow_model(self) -> ModelChange:
        """Takes over what changed in the model, see `LayerGroups.follow_model`.

        Parameters that stayed keep their state, those that are new begin without. The values of the
        groups stay what they are.
        """
        change = self.groups.follow_model()
        if change.is_empty:
            return change
        renamed_state = {}
        for name, entries in self.state_dict().items():  # still under the names of before
            if name in change.renamed:
                renamed_state[change.renamed[name]] = entries
        # to make optimizers gives the groups the values of their factories
        hyper_parameters = [(dict(g.values), dict(g.base), dict(g.peaks)) for g in self.groups]
        param_groups_before = {p.key: p for p in self._param_groups}
        entries_before = {p.key: _plain_entries(p.torch_group) for p in self._param_groups}
        self._make_optimizers()
        for group, (values, base, peaks) in zip(self.groups, hyper_parameters, strict=True):
            group.values, group.base, group.peaks = values, base, peaks
        self.load_state_dict(renamed_state)
        # some optimizers keep estimates there, which are only overwritten by what somebody changes
        for param_group in self._param_groups:
            if param_group.key in param_groups_before:
                param_group.torch_group.update(entries_before[param_group.key])
                param_group.applied.update(param_groups_before[param_group.key].applied)
        return change

    def _set_initial_values(self) -> None:
        """The groups' values become those of their optimizers.

        Where a group has several optimizers, the one of the parameters that decay counts.
        """
        for group in self.groups:
            group.values.clear()
        decaying_first = sorted(self._param_groups, key=lambda p: not p.decays)
        for param_group in decaying_first:
            _check_has_rate(param_group.optimizer)
            for name, value in param_group.torch_values.items():
                param_group.group.values.setdefault(name, value)
        for param_group in self._param_groups:
            for name in param_group.slots:
                param_group.applied[name] = param_group.group.values[name]
        for group in self.groups:
            group.base = dict(group.values)
            group.optimizer = ", ".join(self._optimizer_names(group))

    def _optimizer_names(self, group: LayerGroup) -> list[str]:
        """The classes of the optimizers that a layer group uses, each once."""
        names: list[str] = []
        for param_group in self._param_groups:
            name = type(param_group.optimizer).__name__
            if param_group.group is group and name not in names:
                names.append(name)
        return names

    def _set_weight_decay(self, weight_decay: PerGroup[float]) -> None:
        values = self.groups.per_group(weight_decay, "weight decay")
        decays = checked_values(values, "weight_decay", shown=weight_decay)
        for group, decay in zip(self.groups, decays, strict=True):
            if "weight_decay" in group.values:
                group.values["weight_decay"] = decay
                group.base["weight_decay"] = decay
            elif decay:
                raise ValueError(
                    f"{group.optimizer} has no weight_decay; leave weight_decay={decay} out"
                )

    @property
    def has_momentum(self) -> bool:
        """Whether there is a momentum (or beta1) for a schedule to move."""
        return any("momentum" in param_group.slots for param_group in self._param_groups)

    @property
    def base_momentum(self) -> tuple[float, ...] | None:
        """The momentum that each group's optimizer has, None if no optimizer has one."""
        if not self.has_momentum:
            return None
        return self.groups.values_of("momentum")

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Torch's param groups of all optimizers, in the order of the layer groups."""
        return [param_group.torch_group for param_group in self._param_groups]

    def apply_values(self) -> None:
        """Copies the groups' values into the torch optimizers; `step` does it before stepping."""
        for param_group in self._param_groups:
            param_group.apply_values()

    def step(
        self, scaler: torch.amp.GradScaler | None = None, closure: Closure | None = None
    ) -> None:
        """Updates every parameter that has a gradient, once.

        closure: where `needs_closure`, computes loss and gradients again at the weights that the
        optimizer has put in place by then.
        A scaler skips the step of all optimizers when a gradient of any of them is not finite.
        """
        self.apply_values()
        if scaler is not None:
            scaler.step(self._for_scaler)
            return
        for optimizer in self.torch_optimizers:
            if self.needs_closure:
                optimizer.step(closure)
            else:
                optimizer.step()

    def unscale(self, scaler: torch.amp.GradScaler) -> None:
        """Divides the gradients by the scaler's factor, in place."""
        scaler.unscale_(self._for_scaler)

    def zero_grad(self) -> None:
        """Drops the gradients."""
        # torch's own method takes as long for its profiler's marks alone
        for group in self.groups.trained_groups:
            for parameter in group.parameters.values():
                parameter.grad = None

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The optimizers' state by parameter name; hyper-parameters are in the groups' values."""
        state = {}
        for param_group in self._param_groups:
            for name, parameter in param_group.parameters.items():
                state_of_parameter = state_of(param_group.optimizer, parameter)
                if state_of_parameter:
                    state[name] = state_of_parameter
        return state

    def load_state_dict(self, saved: dict[str, dict[str, Any]]) -> None:
        """Restores what `state_dict` returned, by name: the order of parameters may be another.

        Raises ValueError, and changes nothing, when a name is unknown or a shape does not fit.
        """
        self.check_fits(saved)
        for optimizer in self.torch_optimizers:
            state_by_number = {}  # torch's own state has numbers in the place of names
            state_by_parameter = {}
            for number, (name, parameter) in enumerate(self._parameters_of(optimizer).items()):
                if name in saved:
                    state_by_number[number] = without_base(saved[name])
                    state_by_parameter[parameter] = saved[name]
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state_by_number})
            load_base_states(optimizer, state_by_parameter)

    def mode(self) -> dict[str, Any]:
        """Whether the weights are those of training, and if not, what those are, by name.

        For optimizers that evaluate other weights than they train; empty for any other.
        """
        if not self.weights:
            return {}
        aside = {}
        if self.weights.aside:
            name_of = {parameter: name for name, parameter in self._named_parameters()}
            for parameter, weight in zip(self.weights.parameters, self.weights.aside, strict=True):
                aside[name_of[parameter]] = weight
        return {"is_training": self.weights.is_training, "aside": aside}

    def load_mode(self, saved: Mapping[str, Any]) -> None:
        """Restores what `mode` returned, after the weights; the model gets those of evaluation."""
        if not self.weights or not saved:
            return
        self.weights.is_training = saved["is_training"]
        self.weights.to_evaluation()
        aside = saved["aside"]
        if not aside:
            return
        weight_of = {}
        for name, parameter in self._named_parameters():
            weight_of[parameter] = sharded_like(aside.get(name, parameter), parameter)
        self.weights.keep_aside([weight_of[parameter] for parameter in self.weights.parameters])

    def check_fits(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Raises ValueError for state that is not of these parameters and their optimizers."""
        parameters = dict(self._named_parameters())
        unknown = sorted(saved.keys() - parameters.keys())
        if unknown:
            raise ValueError(f"optimizer state of parameters that are not here: {unknown[:5]}")
        check_shapes(saved, parameters)
        for optimizer in self.torch_optimizers:
            check_entries(optimizer, self._parameters_of(optimizer), saved)

    def settings(self) -> list[dict[str, Any]]:
        """The plain entries of torch's param groups, where some optimizers keep estimates."""
        return [_plain_entries(param_group) for param_group in self.param_groups]

    def load_settings(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Restores what `settings` returned."""
        for param_group, entries in zip(self.param_groups, saved, strict=True):
            param_group.update(entries)

    def _named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter with its name, in the order of the param groups."""
        for param_group in self._param_groups:
            yield from param_group.parameters.items()

    def _parameters_of(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """The parameters of one torch optimizer by name, in its order."""
        parameters: dict[str, Tensor] = {}
        for param_group in self._param_groups:
            if param_group.optimizer is optimizer:
                parameters |= param_group.parameters
        return parameters


@dataclass(frozen=True, slots=True)
class _Together:
    """Several optimizers as one: a gradient scaler steps all of them, or none."""

    optimizers: tuple[Optimizer, ...]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def _check_has_rate(optimizer: Optimizer) -> None:
    if "lr" not in optimizer.defaults:
        name = type(optimizer).__name__
        raise ValueError(
            f"{name} has no lr for each group; pass functools.partial({name}, ..., lr=0.1) if it "
            "takes one, or else scale its updates: "
            f"optimizer=functools.partial(ScaledUpdates, optimizer={name})"
        )


def _as_one(optimizers: tuple[Optimizer, ...]) -> Any:
    """What a gradient scaler takes for an optimizer."""
    if len(optimizers) == 1:
        return optimizers[0]  # itself: a scaler knows how to step torch's fused kernels
    return _Together(optimizers)


def _plain_entries(param_group: Mapping[str, Any]) -> dict[str, Any]:
    entries = {}
    for key, value in param_group.items():
        is_plain = isinstance(value, (int, float, str, tuple, type(None)))
        if is_plain and key not in _KERNELS:
            entries[key] = _without_numpy(value)
    return entries


def _without_numpy(value: Any) -> Any:
    """The numbers as Python's own, which alone a file can hold."""
    if isinstance(value, tuple):
        return tuple(map(_without_numpy, value))
    return value.item() if isinstance(value, np.generic) else value
