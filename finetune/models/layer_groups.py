"""LayerGroups: an ordered partition of a model's parameters, first layers first, head last.

The one handle for everything that differs along the depth of a network: freezing, learning
rates, weight decay, normalisation policy, optimizer membership, tables and checkpoints.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, overload

from torch import nn

from finetune.models import group_values
from finetune.models.group_table import group_table
from finetune.models.group_values import LearningRates, PerGroup
from finetune.models.normalisation import (
    NormPolicy,
    default_policy,
    has_running_statistics,
    named_policies,
    normalisation_parameters,
)
from finetune.models.partition import modules_of_groups, partition_parameters
from finetune.models.splitting import NamedMembers, Split, split_model
from finetune.models.weight_decay import undecayed_parameters
from finetune.wording import did_you_mean

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class LayerGroup:
    """Neighbouring layers that share their hyper-parameters.

    parameters: trainable parameters by qualified name. modules: every module that lies wholly in
    this group. no_decay: names of the parameters that weight decay leaves alone: biases,
    normalisation layers, and what the model's own `no_weight_decay()` lists.
    norm: what the normalisation layers do in training:
    "eval" uses the running statistics and never moves them, their weights train with the group;
    "train" uses batch statistics and trains weight and bias even while the group is frozen;
    "follow" is "train" while the group trains and "eval" while it is frozen.
    values: the hyper-parameters in force, such as lr; `GroupOptimizer` reads them at every step.
    base: those that hold where a plan says nothing. peaks: the largest values in the phase that
    runs or ran last. optimizer: its name.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    modules: list[nn.Module]
    no_decay: frozenset[str]
    norm: NormPolicy
    norm_parameters: frozenset[str]
    frozen: bool = False
    values: dict[str, float] = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    optimizer: str = "-"

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    @property
    def trainable_count(self) -> int:
        return sum(p.numel() for p in self.parameters.values() if p.requires_grad)

    def set_frozen(self, frozen: bool) -> None:
        self.frozen = frozen
        for name, parameter in self.parameters.items():
            trains = not frozen or (self.norm == "train" and name in self.norm_parameters)
            parameter.requires_grad_(trains)
            if not trains:
                parameter.grad = None  # a stale gradient would still be applied by the optimizer

    def set_training_modes(self) -> None:
        """Puts frozen layers and normalisation layers into eval mode as the policy says."""
        for module in self.modules:
            if has_running_statistics(module):
                follows = self.norm == "follow" and not self.frozen
                module.training = self.norm == "train" or follows
            elif self.frozen:
                module.training = False  # no dropout, no stochastic depth below the trained part


class LayerGroups(Sequence[LayerGroup]):
    """The layer groups of a model: a partition of its trainable parameters by identity.

    Parameters that come with `requires_grad=False` (a fixed position embedding, say) stay outside.
    Tied weights belong to the first group that has them. Raises ValueError, with the parameters'
    names, when a parameter is in no group or in two, or a group has none.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> groups = LayerGroups.from_model(model)
    >>> groups.freeze_to(1)
    >>> [(group.name, group.frozen) for group in groups]
    [('backbone', True), ('head', False)]
    >>> groups.spread(slice(1e-4, 1e-2))
    (0.0001, 0.01)
    """

    def __init__(
        self,
        model: nn.Module,
        members: NamedMembers,
        *,
        norm: NormPolicy | Mapping[str, NormPolicy] | None = None,
    ) -> None:
        self.model = model
        partition = partition_parameters(model, members)
        policies = named_policies(norm, list(partition))
        norm_names = normalisation_parameters(model)
        no_decay = norm_names | undecayed_parameters(model)
        modules = modules_of_groups(model, list(partition.values()), members)
        self._groups = [
            LayerGroup(
                name,
                parameters,
                modules[i],
                no_decay & parameters.keys(),
                policies.get(name) or default_policy(modules[i], last=i == len(partition) - 1),
                norm_names & parameters.keys(),
            )
            for i, (name, parameters) in enumerate(partition.items())
        ]
        inside = {id(module) for members_ in modules for module in members_}
        self._spanning = [module for module in model.modules() if id(module) not in inside]

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        split: Split = None,
        *,
        norm: NormPolicy | Mapping[str, NormPolicy] | None = None,
    ) -> "LayerGroups":
        """Splits `model` as `split` says (see `split_model`).

        norm: one policy for all groups but the last, or one by group name; by default "eval"
        where the running statistics hold something learned, as in a pretrained backbone, and
        "follow" where they are still at their initial values, and in the last group.
        """
        return cls(model, split_model(model, split), norm=norm)

    @overload
    def __getitem__(self, index: int) -> LayerGroup: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LayerGroup]: ...
    def __getitem__(self, index: int | slice) -> LayerGroup | Sequence[LayerGroup]:
        return self._groups[index]

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[LayerGroup]:
        return iter(self._groups)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(group.name for group in self)

    @property
    def frozen_count(self) -> int:
        """How many groups, counted from the first, are frozen."""
        flags = [group.frozen for group in self]
        if flags != sorted(flags, reverse=True):
            raise ValueError(
                "only leading groups can be frozen; use freeze_to(n) instead of freezing "
                f"{', '.join(group.name for group in self if group.frozen)} by hand"
            )
        return sum(flags)

    def freeze_to(self, count: int) -> None:
        """Freezes the first `count` groups and unfreezes the others; negative counts from the end.

        Gradients of frozen parameters are dropped, optimizer state and membership stay.
        """
        last = len(self) - 1
        if not isinstance(count, int) or not -last <= count <= last:
            raise ValueError(
                f"freeze_to(n) needs 0 <= n <= {last} for {len(self)} groups "
                f"({', '.join(self.names)}), got {count}"
            )
        for i, group in enumerate(self):
            group.set_frozen(i < count % len(self))

    def set_training_modes(self) -> None:
        """`model.train()`, and then the policy of each group on top of it."""
        self.model.train()
        for module in self._spanning:
            module.training = any(parameter.requires_grad for parameter in module.parameters())
        for group in self:
            group.set_training_modes()

    def spread(self, lr: LearningRates) -> tuple[float, ...]:
        """One learning rate per group, first layers first.

        A number: the same everywhere. `slice(lo, hi)`: geometric from lo to hi. `slice(hi)`: hi for
        the last group, hi / 10 for the others. `LayerDecay(hi, factor)`: every group `factor` times
        the next one. A sequence: one per group. A mapping: by group name, module path or "*", see
        `per_group`. All must be positive.
        """
        return group_values.spread({g.name: g.parameters for g in self}, lr)

    def per_group(self, given: PerGroup[T], what: str) -> tuple[T, ...]:
        """One value per group from any way of saying it, see `group_values.per_group`."""
        return group_values.per_group({g.name: g.parameters for g in self}, given, what)

    def set(self, name: str, given: PerGroup[float]) -> None:
        """Sets a hyper-parameter of the optimizer ("weight_decay", "eps"), see `per_group`.

        It holds wherever a plan says nothing about it; optimizer state is kept. Raises ValueError
        for one that no group's optimizer has, and for lr, which every fit is given.
        """
        if name == "lr":
            raise ValueError("every fit has its own learning rates: pass lr to it, by group or not")
        present, values = self.values_of(name), self.per_group(given, name)
        values = group_values.checked_values(values, name, present, shown=given)
        for group, value in zip(self, values, strict=True):
            if name in group.base:
                group.values[name] = group.base[name] = value
                group.peaks.pop(name, None)

    def values_of(self, name: str) -> tuple[float, ...]:
        """A hyper-parameter of every group, as it is where a plan says nothing about it.

        0 for a group without it; ValueError for one that no group has.
        """
        known = dict.fromkeys(key for group in self for key in group.base)
        if name not in known:
            used = ", ".join(dict.fromkeys(group.optimizer for group in self))
            raise ValueError(f"{used} has no hyper-parameter {name!r}; {did_you_mean(name, known)}")
        return tuple(group.base.get(name, 0.0) for group in self)

    def set_values(self, name: str, values: Sequence[float]) -> None:
        """Puts a hyper-parameter in force, one value per group."""
        for group, value in zip(self, values, strict=True):
            if name in group.base or not group.base:
                group.values[name] = value

    def begin_phase(self, peaks: Mapping[str, Sequence[float]]) -> None:
        """Base values are in force again. peaks: hyper-parameter -> largest value per group."""
        for i, group in enumerate(self):
            group.values.update(group.base)
            group.peaks = {n: values[i] for n, values in peaks.items() if n in group.base}

    def __str__(self) -> str:
        return group_table(self).text(width=200)

    def _repr_html_(self) -> str:
        return group_table(self).html()
