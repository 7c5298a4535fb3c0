"""LayerGroups: an ordered partition of a model's parameters, first layers first, head last.

The one handle for everything that differs along the depth of a network: freezing, learning
rates, weight decay, normalisation policy, optimizer membership, tables and checkpoints.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, overload

from torch import nn

from finetune import arguments
from finetune.models import group_values
from finetune.models.backbone_set import member_paths
from finetune.models.group_table import PlannedRates, group_table
from finetune.models.group_values import LearningRates, PerGroup
from finetune.models.layer_group import LayerGroup
from finetune.models.loss_group import (
    create_loss_group,
    loss_parameters,
    module_of,
    undecayed_of_loss,
)
from finetune.models.model_change import ModelChange, find_change
from finetune.models.normalisation import (
    NormPolicy,
    default_policy,
    named_policies,
    normalisation_parameters,
)
from finetune.models.partition import modules_of_groups, partition_parameters
from finetune.models.splitting import NamedMembers, Split, split_model
from finetune.models.weight_decay import undecayed_parameters
from finetune.tables import Table
from finetune.wording import did_you_mean

T = TypeVar("T")


class LayerGroups(Sequence[LayerGroup]):
    """The layer groups of a model: a partition of its trainable parameters by identity.

    Parameters with `requires_grad=False` (a fixed position embedding, say) are frozen by hand: they
    are in a group, and never train. Tied weights belong to the first group that has them. Raises
    ValueError, with the parameters' names, when a trainable parameter is in no group or in two, or
    a group has none.

    model: the model. members: names and modules or parameters of the groups, see `split_model`.
    norm: as in `from_model`.

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
        self.model = arguments.instance("model", model, nn.Module)
        arguments.sequence("members", members, "pairs of a name and modules")
        partition = partition_parameters(model, members)
        modules_by_group = modules_of_groups(model, list(partition.values()), members)
        norm_policies = named_policies(norm, list(partition))
        last_name = list(partition)[-1]
        self._groups: list[LayerGroup] = []
        for (name, parameters), modules in zip(partition.items(), modules_by_group, strict=True):
            norm_policy = norm_policies.get(name)
            if norm_policy is None:
                norm_policy = default_policy(modules, last=name == last_name)
            self._groups.append(LayerGroup(name, parameters, modules, norm_policy))
        self.loss_module: nn.Module | None = None
        self.loss_group: LayerGroup | None = None
        self._held_in_eval: set[nn.Module] = set()  # by the user
        self._put_in_eval: set[nn.Module] = set()  # by `set_training_modes`
        self._read_model()
        self._notice_what_is_set_by_hand()

    def add_loss(self, loss: Any) -> None:
        """Trains the parameters of a loss, if it has any, in a group of their own, "loss".

        It has the hyper-parameters of the last group, and is never frozen. It does not count as
        one of the layer groups: no rate is said for it.
        """
        self.loss_module = module_of(loss)
        self.loss_group = create_loss_group(self.loss_module, self.model)

    @property
    def trained_groups(self) -> list[LayerGroup]:
        """The layer groups, and that of the loss if it has parameters."""
        if self.loss_group is None:
            return list(self._groups)
        return [*self._groups, self.loss_group]

    def _read_model(self) -> None:
        """Notes what the layers say of their parameters, and which modules span several groups."""
        norm_parameters = normalisation_parameters(self.model)
        no_decay = norm_parameters | undecayed_parameters(self.model)
        for group in self._groups:
            group.no_decay = no_decay & group.parameters.keys()
            group.norm_parameters = norm_parameters & group.parameters.keys()
        if self.loss_group is not None and self.loss_module is not None:
            undecayed = undecayed_of_loss(self.loss_module)
            self.loss_group.no_decay = undecayed & self.loss_group.parameters.keys()
        in_groups = {id(module) for group in self._groups for module in group.modules}
        self._modules_of_no_group = [
            module for module in self.model.modules() if id(module) not in in_groups
        ]

    def follow_model(self) -> ModelChange:
        """Takes over what the user has changed in the model since; it is called before each fit.

        Parameters that the model no longer has leave their group. New ones join the group in whose
        place they are. What was frozen by `requires_grad_(False)` or put into `eval()` by hand is
        noted, and stays so.
        Raises ValueError, and changes nothing, for a new parameter whose group can't be told, and
        for a group that would lose its last parameter.
        """
        of_loss = loss_parameters(self.loss_module, self.model) if self.loss_group else {}
        change = find_change(self.model, self.trained_groups, of_loss)
        if not change.is_empty:
            self._apply(change)
        self._notice_what_is_set_by_hand()
        return change

    def _apply(self, change: ModelChange) -> None:
        by_group = self._parameters_after(change)
        # where a module without parameters belongs, the group that had it knows
        members = [(group.name, list(group.modules)) for group in self._groups]
        modules_by_group = modules_of_groups(self.model, by_group[: len(self)], members)
        for group, parameters_of_group in zip(self.trained_groups, by_group, strict=True):
            group.rename(change.renamed)
            group.parameters = parameters_of_group
        for group, modules in zip(self._groups, modules_by_group, strict=True):
            group.modules = modules
        self._read_model()
        for group in self._groups:
            group.set_frozen(group.frozen)  # what is new, too

    def _parameters_after(self, change: ModelChange) -> list[dict[str, nn.Parameter]]:
        """The parameters of each group by their names now: those that stayed, then the new ones.

        Raises ValueError for a group that would have none.
        """
        parameters = dict(self.model.named_parameters())
        parameters |= loss_parameters(self.loss_module, self.model)
        by_group: list[dict[str, nn.Parameter]] = []
        for number, group in enumerate(self.trained_groups):
            names = [change.renamed[name] for name in group.parameters if name in change.renamed]
            names += [name for name, adopter in change.adopted.items() if adopter == number]
            if not names:
                raise ValueError(
                    f"layer group {group.name!r} has no parameter left in the model; "
                    "make a new Learner for the changed model"
                )
            by_group.append({name: parameters[name] for name in names})
        return by_group

    def _notice_what_is_set_by_hand(self) -> None:
        for group in self._groups:
            group.notice_flags()
        present = set(self.model.modules())
        self._held_in_eval &= present
        for module in present:
            if module.training:
                self._held_in_eval.discard(module)
            # the whole model in eval mode is what a fit or a prediction leaves behind
            elif self.model.training and module not in self._put_in_eval:
                self._held_in_eval.add(module)

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        split: Split = None,
        *,
        norm: NormPolicy | Mapping[str, NormPolicy] | None = None,
    ) -> "LayerGroups":
        """The layer groups of `model`, split as `split` says, see `split_model`.

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
        frozen_flags = [group.frozen for group in self]
        frozen_come_first = sorted(frozen_flags, reverse=True)
        if frozen_flags != frozen_come_first:
            frozen_names = [group.name for group in self if group.frozen]
            raise ValueError(
                "only leading groups can be frozen; use freeze_to(n) instead of freezing "
                f"{', '.join(frozen_names)} by hand"
            )
        return sum(frozen_flags)

    def freeze_to(self, count: int) -> None:
        """Freezes the first `count` groups and unfreezes the others; negative counts from the end.

        Gradients of frozen parameters are dropped, optimizer state and membership stay.
        """
        last = len(self) - 1
        arguments.whole_number("count", count)
        if not -last <= count <= last:
            raise ValueError(
                f"freeze_to(count) needs 0 <= count <= {last} for {len(self)} groups "
                f"({', '.join(self.names)}), got {arguments.shown(count)}"
            )
        frozen_count = count % len(self)
        for i, group in enumerate(self):
            group.set_frozen(i < frozen_count)

    def set_training_modes(self) -> None:
        """Puts the model into training mode, and then each group as its policy says.

        What the user holds in eval mode stays so: by calling `eval()` on a part of a model in
        training mode, or by a `train()` of their own.
        """
        self.model.train()
        for module in self._modules_of_no_group:
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.training = False
        for group in self:
            group.set_training_modes()
        for module in self._held_in_eval:
            module.training = False
        self._put_in_eval = {module for module in self.model.modules() if not module.training}
        self._put_in_eval -= self._held_in_eval

    def spread(self, lr: LearningRates) -> tuple[float, ...]:
        """Returns one learning rate per group, first layers first.

        lr is one of

        - a number: the same everywhere,
        - `slice(lo, hi)`: geometric from lo to hi,
        - `slice(hi)`: hi for the last group, hi / 10 for the others,
        - `LayerDecay(hi, factor)`: every group has `factor` times the rate of the next one,
        - a sequence: one per group,
        - a mapping: by group name, module path or "*", see `group_values.per_group`.

        Raises ValueError for a rate that is not positive and finite.
        """
        return group_values.spread(self._parameters_by_group, lr)

    def per_group(self, values: PerGroup[T], what: str) -> tuple[T, ...]:
        """Returns one value per group from any way to write it, see `group_values.per_group`."""
        return group_values.per_group(self._parameters_by_group, values, what)

    @property
    def _parameters_by_group(self) -> dict[str, dict[str, nn.Parameter]]:
        return {group.name: group.parameters for group in self}

    def set(self, name: str, values: PerGroup[float]) -> None:
        """Sets a hyper-parameter of the optimizer, such as "weight_decay" or "eps".

        It holds wherever a plan says nothing about it. The optimizer's state is kept. A group whose
        optimizer does not have it is left as it is.
        values: one value or one per group, in any way of `per_group`.
        Raises ValueError for a hyper-parameter that no group's optimizer has, for a value that is
        not possible, and for lr, which is an argument of every fit.
        """
        arguments.text("name", name)
        if name == "lr":
            raise ValueError("every fit has its own learning rates: pass lr to it, by group or not")
        present = self.values_of(name)
        by_group = self.per_group(values, name)
        checked = group_values.checked_values(by_group, name, present, shown=values)
        for group, value in zip(self, checked, strict=True):
            if name in group.base:
                group.values[name] = group.base[name] = value
                group.peaks.pop(name, None)

    def values_of(self, name: str) -> tuple[float, ...]:
        """Returns a hyper-parameter of every group, as it is where a plan says nothing about it.

        It is 0 for a group whose optimizer does not have it. Raises ValueError for one that no
        group has.
        """
        known = dict.fromkeys(key for group in self for key in group.base)
        if name not in known:
            optimizers = ", ".join(dict.fromkeys(group.optimizer for group in self))
            hint = did_you_mean(name, known)
            raise ValueError(f"{optimizers} has no hyper-parameter {name!r}; {hint}")
        return tuple(group.base.get(name, 0.0) for group in self)

    def set_values(self, name: str, values: Sequence[float]) -> None:
        """Puts a hyper-parameter in force, one value per group; it may change at every step.

        A group whose optimizer does not have it is left as it is.
        """
        for group, value in zip(self, values, strict=True):
            has_no_optimizer_yet = not group.base
            if name in group.base or has_no_optimizer_yet:
                group.values[name] = value

    def begin_phase(self, peaks: Mapping[str, Sequence[float]]) -> None:
        """Puts the base values in force again, and notes the peaks of the phase.

        peaks: hyper-parameter -> its largest value in the phase, per group.
        """
        for i, group in enumerate(self):
            group.values.update(group.base)
            group.peaks = {name: values[i] for name, values in peaks.items() if name in group.base}

    def table(self, planned_rates: PlannedRates | None = None) -> Table:
        """A row for each group, see `group_table`. planned_rates: of each phase of a plan."""
        if planned_rates is not None:
            self._check_planned_rates(planned_rates)
        rows = list(self._groups)
        if self.loss_group is not None:
            last = self._groups[-1]
            rows.append(
                replace(
                    self.loss_group,
                    values=last.values,
                    peaks=last.peaks,
                    optimizer=last.optimizer,
                )
            )
            if planned_rates is not None:
                # the parameters of a loss train with the head's rates
                planned_rates = {
                    phase: [*rates, rates[-1]] for phase, rates in planned_rates.items()
                }
        return group_table(rows, member_paths(self.model), planned_rates)

    def _check_planned_rates(self, planned_rates: PlannedRates) -> None:
        """Raises TypeError or ValueError unless there is a rate, or None, for each layer group."""
        arguments.mapping("planned_rates", planned_rates, "phases to rates of the groups")
        for phase, rates in planned_rates.items():
            name = f"planned_rates[{phase!r}]"
            if len(arguments.sequence(name, rates, "a rate for each group")) != len(self):
                raise ValueError(
                    f"{name} must be one rate for each of {', '.join(self.names)}, got "
                    f"{arguments.shown(rates)}"
                )
            for rate in rates:
                if rate is not None:
                    arguments.real_number(name, rate, at_least=0)

    def __str__(self) -> str:
        return self.table().text(notes=True)

    def _repr_html_(self) -> str:
        return self.table().html()
