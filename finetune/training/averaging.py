"""Average: an exponential moving average of the weights, which takes their place between fits."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from finetune import turns
from finetune.distributed.sharding import local, sharded_like
from finetune.models.model_change import ModelChange
from finetune.models.normalisation import has_running_statistics


class Average:
    """Averages the weights that train: `average += (1 - d) * (weights - average)` at every update.

    d is `min(decay, (1 + t) / (10 + t))`, so that the first weights are soon forgotten; t is the
    number of updates since something new began to train, such as the layers that a phase unfroze.
    Running statistics that move are averaged likewise, as they belong to the weights; all other
    buffers are the model's own. decay: None averages nothing and costs nothing.

    While a fit runs, the model has the trained weights, and the average takes their place for
    validation only. Before and after a fit (finished, stopped, interrupted, loaded from a file) the
    model has the average, and the trained weights are kept here for as long as the run can be
    resumed.
    """

    def __init__(self, decay: float | None = None) -> None:
        self.decay = decay
        self.updates = 0
        # the average; or the trained weights, while the model has the average
        self._aside: dict[str, Tensor] = {}
        self._model_has_average = False
        # as lists, because an update takes all tensors in one call
        self._aside_tensors: list[Tensor] = []
        self._model_tensors: list[Tensor] = []

    def follow(self, model: nn.Module) -> None:
        """Begins a phase: the average of what trains from now on begins with its present value.

        The average of what is frozen from now on is dropped, because the model must keep the
        weights that the other layers train on.
        """
        if self.decay is None:
            return
        training = training_tensors(model)
        if training.keys() - self._aside.keys():
            self.updates = 0  # or else what is new would stay near its first value for long
        averages = {}
        for name, tensor in training.items():
            if name in self._aside:
                averages[name] = self._aside[name]
            else:
                averages[name] = tensor.detach().clone()
        self._aside = averages
        self._aside_tensors = list(map(local, averages.values()))
        self._model_tensors = list(map(local, training.values()))

    def update(self) -> None:
        """Moves the average towards the weights, after an update of them."""
        if self.decay is None:
            return
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(self._aside_tensors, self._model_tensors, self.updates)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Gives the model the average inside the block, and afterwards exactly what it had."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @contextmanager
    def aside(self, model: nn.Module) -> Iterator[None]:
        """Gives the model the trained weights inside the block, and afterwards the average."""
        if self._model_has_average:
            self._model_tensors = list(map(local, _tensors_named(model, self._aside)))
            self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        if not self._model_tensors:
            return
        aside = list(map(local, self._aside.values()))
        with turns.alone():
            before = [tensor.clone() for tensor in self._model_tensors]
            torch._foreach_copy_(self._model_tensors, aside)
            torch._foreach_copy_(aside, before)
        self._model_has_average = not self._model_has_average

    def follow_change(self, change: ModelChange) -> None:
        """Forgets the weights that the model no longer has, and renames the others."""
        for name in change.gone:
            self._aside.pop(name, None)
        self._aside = {change.renamed.get(name, name): t for name, t in self._aside.items()}

    def forget(self) -> None:
        """Ends a run that can't be resumed: the model keeps what it has."""
        self._aside = {}
        self._aside_tensors = []
        self._model_tensors = []
        self.updates = 0
        self._model_has_average = False

    def state_dict(self) -> dict[str, Any] | None:
        """None where nothing is averaged."""
        if self.decay is None:
            return None
        return {
            "decay": self.decay,
            "updates": self.updates,
            "in_place": self._model_has_average,
            "kept": dict(self._aside),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any] | None, model: nn.Module) -> "Average":
        """The average that `state_dict` described; afterwards the model has the average.

        state: None where nothing was averaged. model: with the weights that it had when the state
        was made.
        """
        if state is None:
            return cls()
        average = cls(state["decay"])
        average.updates = state["updates"]
        average._model_has_average = state["in_place"]
        saved = state["kept"]
        tensors = _tensors_named(model, saved)
        average._model_tensors = list(map(local, tensors))
        for (name, value), tensor in zip(saved.items(), tensors, strict=True):
            # on the model's device and in its memory format
            average._aside[name] = torch.empty_like(tensor).copy_(sharded_like(value, tensor))
        if not average._model_has_average:
            average._exchange()
        return average


def training_tensors(model: nn.Module) -> dict[str, Tensor]:
    """By name, the parameters that train and the running statistics that move with them."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors[name] = parameter
    for path, module in model.named_modules():
        if module.training and has_running_statistics(module):
            for name, buffer in module.named_buffers(path, recurse=False):
                if name.endswith(("running_mean", "running_var")):
                    tensors[name] = buffer
    return tensors


def _tensors_named(model: nn.Module, names: Mapping[str, Tensor]) -> list[Tensor]:
    """The model's parameters and buffers with these names, in their order."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [tensors[name] for name in names]
