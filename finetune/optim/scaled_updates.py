"""ScaledUpdates: a learning rate per group for an optimizer that has none."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from finetune import arguments
from finetune.optim.factories import OptimizerFactory


class ScaledUpdates(Optimizer):
    """Another optimizer, whose updates are multiplied by the `lr` of each param group.

    The update is scaled, `w + lr * (w_new - w)`, weight decay included, and not the gradient: Adam
    and its kind divide by the size of past gradients, so that a factor on the gradient nearly
    cancels. For an optimizer that has a learning rate per group, that rate is the better way.

    optimizer: a factory of the inner optimizer, called as `optimizer(params)`. Its learning rate
    and the `lr` of the groups multiply.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> half = ScaledUpdates([weight], lambda params: torch.optim.SGD(params, lr=0.1), lr=0.5)
    >>> weight.grad = torch.ones(1)
    >>> half.step()
    >>> round(weight.item(), 6)
    0.95
    """

    def __init__(self, params: Iterable[Any], optimizer: OptimizerFactory, lr: float = 1.0) -> None:
        arguments.function("optimizer", optimizer, "params -> optimizer")
        arguments.real_number("lr", lr, at_least=0)
        if not isinstance(params, Iterable) or isinstance(params, str):
            shown = arguments.shown(params)
            raise TypeError(f"params must be parameters or param groups, got {shown}")
        param_groups: list[dict[str, Any]] = []
        for group in params:
            options = group if isinstance(group, dict) else {"params": [group]}
            param_groups.append({"lr": lr, **options})
        if not param_groups:
            raise ValueError("params is empty; pass model.parameters()")
        super().__init__(param_groups, {"lr": lr})
        self.inner = optimizer([{"params": group["params"]} for group in self.param_groups])
        self._share_hyper_parameters()
        self._settings_seen = [dict(group) for group in self.param_groups]
        self.state = self.inner.state

    def _share_hyper_parameters(self) -> None:
        """Makes the inner optimizer's other hyper-parameters those of our param groups, too."""
        defaults = dict(self.inner.defaults)
        defaults.pop("lr", None)
        self.defaults.update(defaults)
        for group, inner_group in zip(self.param_groups, self.inner.param_groups, strict=True):
            for key, default in defaults.items():
                # what the caller says of a param group goes before the inner optimizer's default
                if key in group:
                    inner_group[key] = group[key]
                else:
                    group[key] = default

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of the inner optimizer, scaled. Parameters without a gradient stay.

        closure: for an inner optimizer that needs one.
        """
        moving = []
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            weights_before = [parameter.clone() for parameter in parameters]
            if parameters:  # torch's foreach functions refuse empty lists
                moving.append((group, parameters, weights_before))
        self._hand_settings_to_inner()
        if closure is None:
            self.inner.step()
        else:
            self.inner.step(closure)
        self._take_settings_from_inner()
        for group, parameters, weights_before in moving:
            scaled = torch._foreach_lerp(weights_before, parameters, group["lr"])
            torch._foreach_copy_(parameters, scaled)

    def _hand_settings_to_inner(self) -> None:
        """Hands on what was changed in our param groups since the last step."""
        for group, inner_group, seen in self._groups_with_inner():
            for key, value in _settings(group).items():
                if value != seen.get(key):
                    inner_group[key] = value

    def _take_settings_from_inner(self) -> None:
        """Copies what an optimizer (Prodigy, say) estimates and keeps in its param groups."""
        for group, inner_group, seen in self._groups_with_inner():
            group.update(_settings(inner_group))
            seen.update(_settings(group))

    def _groups_with_inner(self) -> Iterable[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
        """Each param group with the inner optimizer's, and our settings as they were last seen."""
        return zip(self.param_groups, self.inner.param_groups, self._settings_seen, strict=True)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": self.inner.state_dict()["state"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state_dict)
        self.inner.load_state_dict({**self.inner.state_dict(), "state": state_dict["state"]})
        self.state = self.inner.state

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "inner": self.inner,
            "_settings_seen": self._settings_seen,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.state = self.inner.state


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """What two optimizers have in common: all but the parameters and the learning rate."""
    return {key: value for key, value in group.items() if key not in ("params", "lr")}
