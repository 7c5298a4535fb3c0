"""Average: an exponential moving average of the weights, which takes their place between fits."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from finetune.models.normalisation import has_running_statistics


class Average:
    """The average of what trains: `average += (1 - d) * (weights - average)` after every update.

    d is `min(decay, (1 + t) / (10 + t))`, so that the first weights are soon forgotten; t is the
    number of updates since something new began to train, a phase's unfrozen layers say. Running
    statistics that move are averaged likewise, as they belong to the weights; all other buffers are
    the model's own. decay: None averages nothing and costs nothing.

    While a fit runs, the model has the weights that train, and the average is in its place for
    validation only. Before and after (finished, stopped, interrupted, loaded from a file) the model
    has the average, and the others are kept here for as long as the run can be resumed.
    """

    def __init__(self, decay: float | None = None) -> None:
        self.decay, self.updates = decay, 0
        self._kept: dict[str, Tensor] = {}  # the average, or what trains while that is in place
        self._in_place = False
        self._averages: list[Tensor] = []
        self._live: list[Tensor] = []

    def follow(self, model: nn.Module) -> None:
        """For each phase: the average of what trains from now on begins with its present value.

        What is frozen from now on is dropped, so that the model keeps what the others train on.
        """
        if self.decay is None:
            return
        live = _moving(model)
        if live.keys() - self._kept.keys():
            self.updates = 0  # or else what is new would stay at its first value for long
        self._kept = {
            name: self._kept[name] if name in self._kept else tensor.detach().clone()
            for name, tensor in live.items()
        }
        self._averages, self._live = list(self._kept.values()), list(live.values())

    def update(self) -> None:
        """After an update of the weights; all of them in one call."""
        if self.decay is None:
            return
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(self._averages, self._live, self.updates)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the average inside, and afterwards exactly what it had."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @contextmanager
    def aside(self, model: nn.Module) -> Iterator[None]:
        """The model has the weights that train inside, and afterwards the average."""
        if self._in_place:
            self._live = _named(model, self._kept)
            self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        if self._live:
            averages = list(self._kept.values())
            before = [tensor.clone() for tensor in self._live]
            torch._foreach_copy_(self._live, averages)
            torch._foreach_copy_(averages, before)
            self._in_place = not self._in_place

    def forget(self) -> None:
        """At the end of a run that can't be resumed: the model keeps what it has."""
        self._kept, self._averages, self._live = {}, [], []
        self.updates, self._in_place = 0, False

    def state_dict(self) -> dict[str, Any] | None:
        """None where nothing is averaged."""
        if self.decay is None:
            return None
        return {
            "decay": self.decay,
            "updates": self.updates,
            "in_place": self._in_place,
            "kept": dict(self._kept),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any] | None, model: nn.Module) -> "Average":
        """From what `state_dict` gave, which may be None; the model gets the average.

        model: with the weights that it had then.
        """
        if state is None:
            return cls()
        average = cls(state["decay"])
        average.updates, average._in_place = state["updates"], state["in_place"]
        average._live = _named(model, state["kept"])
        kept = zip(state["kept"].items(), average._live, strict=True)
        average._kept = {name: torch.empty_like(t).copy_(own) for (name, own), t in kept}
        if not average._in_place:
            average._exchange()
        return average


def _moving(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that train, and running statistics that move with them."""
    found: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for path, module in model.named_modules():
        if module.training and has_running_statistics(module):
            own = module.named_buffers(path, recurse=False)
            found.update((n, b) for n, b in own if n.endswith(("running_mean", "running_var")))
    return found


def _named(model: nn.Module, names: Mapping[str, Tensor]) -> list[Tensor]:
    own: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [own[name] for name in names]
