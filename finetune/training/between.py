"""Between: takes the best point on the way from a phase's first weights to its last ones."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from finetune import distributed, turns
from finetune.distributed.sharding import local, sharded_like
from finetune.models.layer_groups import LayerGroups
from finetune.models.model_change import ModelChange
from finetune.tasks.ranking import rank
from finetune.training.averaging import training_tensors
from finetune.training.events import PointBetween

FRACTIONS = (0.75, 0.5, 0.25, 0.0)
"""The points that are validated besides the end, which is 1."""


class Between:
    """The weights at the beginning of a phase, and the choice of a point behind them.

    The points are `start + a * (end - start)`, of the parameters that train in the phase, those of
    a loss included, and of the running statistics that move with them. Other buffers are the end's.
    Of the points whose first metric is no worse in validation than at the beginning and at the end,
    the one with the lowest loss is taken, of equal ones the nearest to the end. Choosing by the
    metric alone follows noise: four epochs on digits, chosen by 60 images, judged by 540, it lost
    half a point to the end, where this lost a tenth.
    The beginning is kept in main memory and in checkpoints while the phase runs, one copy of what
    trains; the choice takes another copy and four more validations.

    Source: WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903, whose beginning is a
    zero-shot classifier; here it is the head that was trained alone.
    """

    def __init__(self, start: Mapping[str, Tensor] | None = None) -> None:
        self._start = {} if start is None else dict(start)

    def begin(self, groups: LayerGroups) -> None:
        """Keeps the present weights, unless a phase that goes on has kept its first ones."""
        if self._start:
            return
        training = training_tensors(groups.model)
        for group in groups.trained_groups:
            for name, parameter in group.parameters.items():
                if parameter.requires_grad:
                    training[name] = parameter
        for name, tensor in training.items():
            self._start[name] = _in_main_memory(tensor)

    def choose(
        self,
        groups: LayerGroups,
        end_results: Mapping[str, float],
        validate: Callable[[], dict[str, float]],
    ) -> PointBetween:
        """Gives the model the best point; returns which it is, and the results of all.

        end_results: of `validate` at the present weights, which are those of the end. After an
        error the model has these.
        """
        present = _tensors_of(groups)
        tensors = {name: present[name] for name in self._start}
        end = {name: _in_main_memory(tensor) for name, tensor in tensors.items()}
        compared = {1.0: dict(end_results)}
        best = 1.0
        try:
            for fraction in FRACTIONS:
                self._place(tensors, end, fraction)
                compared[fraction] = validate()
            best = _of_first_process(_best_of(compared))
        finally:
            self._place(tensors, end, best)
        return PointBetween(best, compared)

    @torch.no_grad()
    def _place(self, tensors: Mapping[str, Tensor], end: Mapping[str, Tensor], at: float) -> None:
        with turns.alone():
            for name, tensor in tensors.items():
                start = local(self._start[name])
                local(tensor).copy_(start.lerp(local(end[name]), at))

    def follow_change(self, change: ModelChange) -> None:
        """Forgets the weights that the model no longer has, and renames the others."""
        for name in change.gone:
            self._start.pop(name, None)
        self._start = {change.renamed.get(name, name): t for name, t in self._start.items()}

    def forget(self) -> None:
        """Ends the phase."""
        self._start = {}

    def state_dict(self) -> dict[str, Any]:
        """The first weights by name; empty while no such phase runs."""
        return dict(self._start)

    @classmethod
    def restored(cls, state: Mapping[str, Tensor] | None, groups: LayerGroups) -> "Between":
        """What `state_dict` described; None where no such phase ran."""
        present = _tensors_of(groups)
        start = {}
        for name, tensor in (state or {}).items():
            start[name] = _in_main_memory(sharded_like(tensor, present[name]))
        return cls(start)


def _best_of(compared: Mapping[float, Mapping[str, float]]) -> float:
    """The fraction to take, see `Between`. compared: fraction -> results, of both ends too."""
    metric_of_better_end = max(rank(compared[0.0])[0], rank(compared[1.0])[0])
    best, best_key = 1.0, (-math.inf, 0.0)
    for fraction, results in compared.items():
        metric, loss = rank(results)
        if metric >= metric_of_better_end and (loss, fraction) > best_key:
            best, best_key = fraction, (loss, fraction)
    return best


def _tensors_of(groups: LayerGroups) -> dict[str, Tensor]:
    """The buffers of the model and the parameters of its groups, by name."""
    tensors: dict[str, Tensor] = dict(groups.model.named_buffers())
    for group in groups.trained_groups:
        tensors.update(group.parameters)
    return tensors


def _in_main_memory(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _of_first_process(fraction: float) -> float:
    """The fraction that the first process chose, so that rounding can't part the processes."""
    chosen = torch.tensor(fraction, dtype=torch.float64)
    of_all: list[Tensor] = distributed.gathered(chosen, torch.device("cpu"))
    return of_all[0].item()
