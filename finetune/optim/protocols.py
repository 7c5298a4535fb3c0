"""What some optimizers ask for beside `step()`: a closure, other weights to evaluate, a base."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from finetune import turns

Closure: TypeAlias = Callable[[], Any]
"""Computes loss and gradients again, with the weights as they are then."""

_BASE = "base_optimizer."


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether a step asks for the gradients at other weights, too, as SAM does (Foret et al.)."""
    inner = getattr(optimizer, "inner", None)
    if isinstance(inner, Optimizer):
        return needs_closure(inner)
    if hasattr(optimizer, "first_step") and hasattr(optimizer, "second_step"):
        return True
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def state_of(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    """The state of a parameter, empty before the first step.

    That of an optimizer inside, such as SAM's, is under "base_optimizer.".
    """
    state = dict(optimizer.state.get(parameter, {}))
    base = _base_of(optimizer)
    if base is not None:
        for key, value in base.state.get(parameter, {}).items():
            state[_BASE + key] = value
    return state


def load_base_states(optimizer: Optimizer, states: Mapping[Tensor, Mapping[str, Any]]) -> None:
    """Gives the optimizer inside its share of what `state_of` returned, by parameter."""
    base = _base_of(optimizer)
    if base is None:
        return
    base.state.clear()
    for parameter, state in states.items():
        of_base = {}
        for key, value in state.items():
            if key.startswith(_BASE):
                of_base[key.removeprefix(_BASE)] = _on_device_of(parameter, key, value)
        if of_base:
            base.state[parameter] = of_base


def without_base(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without that of the optimizer inside."""
    return {key: value for key, value in state.items() if not key.startswith(_BASE)}


def _base_of(optimizer: Optimizer) -> Optimizer | None:
    inner = getattr(optimizer, "inner", None)  # of ScaledUpdates
    if isinstance(inner, Optimizer):
        return _base_of(inner)
    base = getattr(optimizer, "base_optimizer", None)
    has_own_state = isinstance(base, Optimizer) and base.state is not optimizer.state
    return base if has_own_state else None


def _on_device_of(parameter: Tensor, key: str, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if key.endswith("step"):  # torch keeps the count of steps on the host
        return value.clone()
    return value.to(parameter.device, copy=True)


def has_modes(optimizer: Optimizer) -> bool:
    """Whether it evaluates other weights than it trains, as schedule-free optimizers do.

    They have the methods `train()` and `eval()`, which change the weights (Defazio et al. 2024).
    """
    methods = [getattr(optimizer, name, None) for name in ("train", "eval")]
    return all(callable(method) for method in methods)


class EvaluationWeights:
    """Gives the model the weights of evaluation whenever it does not train.

    The switch computes one kind of weights from the other and back, each time with rounding. So
    the weights that train are kept meanwhile, and come back to the bit, unless somebody has changed
    those of evaluation.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers: list[Any] = [o for o in optimizers if has_modes(o)]
        self.is_training = False
        self._aside: list[Tensor] = []  # the weights that train
        self._shown: list[Tensor] = []  # those of evaluation, as they were when they came

    def __bool__(self) -> bool:
        return bool(self._optimizers)

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that are switched."""
        parameters: list[Tensor] = []
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                parameters.extend(group["params"])
        return parameters

    @property
    def aside(self) -> list[Tensor]:
        """The weights that train, in the order of `parameters`; empty while they do."""
        return self._aside

    @contextmanager
    def training(self) -> Iterator[None]:
        """The weights that train inside of the block, those of evaluation afterwards."""
        self._to_training()
        try:
            yield
        finally:
            self.to_evaluation()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The weights of evaluation inside of the block, those that train afterwards."""
        self.to_evaluation()
        try:
            yield
        finally:
            self._to_training()

    def to_evaluation(self) -> None:
        if not self._optimizers or not self.is_training:
            return
        self._aside = [parameter.detach().clone() for parameter in self.parameters]
        with turns.alone():
            for optimizer in self._optimizers:
                optimizer.eval()
        self._shown = [parameter.detach().clone() for parameter in self.parameters]
        self.is_training = False

    def keep_aside(self, weights: Sequence[Tensor]) -> None:
        """Takes the weights that train from a file; the model has those of evaluation."""
        parameters = self.parameters
        self._shown = [parameter.detach().clone() for parameter in parameters]
        self._aside = [w.to(p.device, copy=True) for w, p in zip(weights, parameters, strict=True)]

    @torch.no_grad()
    def _to_training(self) -> None:
        if not self._optimizers or self.is_training:
            return
        parameters = self.parameters
        unchanged = bool(self._aside) and all(map(torch.equal, parameters, self._shown))
        with turns.alone():
            for optimizer in self._optimizers:
                optimizer.train()
            if unchanged:
                torch._foreach_copy_(parameters, self._aside)
        self._aside = []
        self._shown = []
        self.is_training = True
