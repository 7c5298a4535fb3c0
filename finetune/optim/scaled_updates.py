"""ScaledUpdates: a learning rate per group for an optimizer that has none."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from finetune.optim.factories import OptimizerFactory


class ScaledUpdates(Optimizer):
    """Another optimizer, whose updates are multiplied by the `lr` of each param group.

    It is the update that is scaled, `w + lr * (w_new - w)`, decay included, and not the gradient:
    Adam and its kind divide by the size of past gradients, so that a factor on those nearly
    cancels. For an optimizer with a learning rate per group that rate is the better way.

    optimizer: a factory, `optimizer(params)`; its own rate and the factors of the groups multiply.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> half = ScaledUpdates([weight], lambda params: torch.optim.SGD(params, lr=0.1), lr=0.5)
    >>> weight.grad = torch.ones(1)
    >>> half.step()
    >>> round(weight.item(), 6)
    0.95
    """

    def __init__(self, params: Iterable[Any], optimizer: OptimizerFactory, lr: float = 1.0) -> None:
        groups = [g if isinstance(g, dict) else {"params": [g]} for g in params]
        super().__init__([{"lr": lr, **group} for group in groups], {"lr": lr})
        self.inner = optimizer([{"params": group["params"]} for group in self.param_groups])
        extra = {k: v for k, v in self.inner.defaults.items() if k != "lr"}
        for own, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            inner.update({k: v for k, v in own.items() if k in extra})
        self.defaults.update(extra)
        for own in self.param_groups:
            for key, value in extra.items():
                own.setdefault(key, value)
        self._seen = [dict(own) for own in self.param_groups]
        self.state = self.inner.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of the other optimizer, scaled. Parameters without a gradient stay."""
        if closure is not None:
            raise ValueError("ScaledUpdates takes no closure")
        moving = [[p for p in g["params"] if p.grad is not None] for g in self.param_groups]
        before = [[p.clone() for p in parameters] for parameters in moving]
        groups = list(zip(self.param_groups, self.inner.param_groups, self._seen, strict=True))
        for own, inner, seen in groups:
            inner.update({k: v for k, v in _settings(own).items() if v != seen.get(k)})
        self.inner.step()
        for own, inner, seen in groups:  # an optimizer may count in its param group
            own.update(_settings(inner))
            seen.update(_settings(own))
        for own, parameters, old in zip(self.param_groups, moving, before, strict=True):
            if parameters:
                scaled = torch._foreach_lerp(old, parameters, own["lr"])
                torch._foreach_copy_(parameters, scaled)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": self.inner.state_dict()["state"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self.inner.load_state_dict({**self.inner.state_dict(), "state": state_dict["state"]})
        self.state = self.inner.state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "inner": self.inner, "_seen": self._seen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.state = self.inner.state


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "lr")}
