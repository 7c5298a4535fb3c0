"""What became of a model's parameters since its layer groups were made: gone, renamed, new."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from finetune.models.layer_group import LayerGroup
from finetune.models.partition import can_train
from finetune.models.splitting import shortened


@dataclass(frozen=True, slots=True)
class ModelChange:
    """How the parameters of a model differ from those that its layer groups have.

    renamed: name before -> name now, of those that stayed, most of them under the same name.
    gone: names of those that the model no longer has. adopted: name -> number of the group in whose
    place it is, of those that are new.
    """

    renamed: Mapping[str, str]
    gone: frozenset[str]
    adopted: Mapping[str, int]

    @property
    def is_empty(self) -> bool:
        all_have_their_names = all(before == now for before, now in self.renamed.items())
        return all_have_their_names and not self.gone and not self.adopted


def find_change(
    model: nn.Module,
    groups: Sequence[LayerGroup],
    of_loss: Mapping[str, nn.Parameter],
) -> ModelChange:
    """Compares the parameters of the model with those of its groups, by identity.

    of_loss: the parameters of the loss by name; if there are any, the last group is theirs.
    Raises ValueError, with the names, for a new parameter that trains and has no clear place.
    """
    # by identity: a name may be another parameter's by now
    name_now = {id(p): name for name, p in model.named_parameters()}
    name_now |= {id(p): name for name, p in of_loss.items()}
    renamed: dict[str, str] = {}
    gone: dict[str, int] = {}  # name -> number of its group
    present: dict[str, int] = {}
    known: set[int] = set()
    for number, group in enumerate(groups):
        for name, parameter in group.parameters.items():
            known.add(id(parameter))
            if id(parameter) in name_now:
                renamed[name] = name_now[id(parameter)]
                present[renamed[name]] = number
            else:
                gone[name] = number

    adopted: dict[str, int] = {}
    for name, parameter in of_loss.items():
        if id(parameter) not in known:
            adopted[name] = len(groups) - 1
    new: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in known and can_train(parameter):
            new[name] = parameter
    if new:  # places take a pass over the model, and there is rarely something new
        adopted |= _adopted_by_place(new, _Places(model, present, gone))
    return ModelChange(renamed, frozenset(gone), adopted)


def _adopted_by_place(new: Mapping[str, nn.Parameter], places: "_Places") -> dict[str, int]:
    """The number of the group in whose place each new parameter is, of those that have a place.

    Raises ValueError for a parameter that trains and has none.
    """
    adopted: dict[str, int] = {}
    without_place: list[str] = []
    for name, parameter in new.items():
        number_of_group = places.group_at(name)
        if number_of_group is not None:
            adopted[name] = number_of_group
        elif parameter.requires_grad:
            without_place.append(name)
    if without_place:
        raise ValueError(
            f"the model has {len(without_place)} new parameters whose layer group can't be told "
            f"from where they are: {shortened(without_place)}; put them into a module that "
            "lies in one group, set requires_grad_(False) for what is not to train, or make a new "
            "Learner with split="
        )
    return adopted


class _Places:
    """In which group's place a new parameter is.

    present, gone: the group of each parameter that is there still, and of those that are not.
    """

    def __init__(
        self, model: nn.Module, present: Mapping[str, int], gone: Mapping[str, int]
    ) -> None:
        self._modules = dict(model.named_modules())
        self._present = present
        self._gone = gone
        self._names_now = [name for name, _ in model.named_parameters()]

    def group_at(self, name: str) -> int | None:
        """The number of the group that had all parameters in the innermost module around `name`.

        Where that module has several groups, a child of a `Sequential` belongs to the group before
        and behind it, and one at an end to its only neighbour. None: its place is not clear.
        """
        path = name.rpartition(".")[0]
        while True:
            groups = self._groups_inside(path)
            if len(groups) == 1:
                return groups.pop()
            # a module with several groups has no one place, nor has what is around it
            if groups:
                return self._group_of_neighbours(name, path)
            if not path:
                return None
            path = path.rpartition(".")[0]

    def _groups_inside(self, path: str) -> set[int]:
        """The groups of what is and of what was in the module at this path."""
        groups = set()
        for names in (self._present, self._gone):
            for name, group in names.items():
                if not path or name.startswith(f"{path}."):
                    groups.add(group)
        return groups

    def _group_of_neighbours(self, name: str, path: str) -> int | None:
        if not isinstance(self._modules.get(path), nn.Sequential):
            return None  # only its children are certain to run in their order
        prefix = f"{path}." if path else ""
        inside = [name_now for name_now in self._names_now if name_now.startswith(prefix)]
        position = inside.index(name)
        before = [name_now for name_now in inside[:position] if name_now in self._present]
        behind = [name_now for name_now in inside[position:] if name_now in self._present]
        nearest = [*before[-1:], *behind[:1]]  # at an end there is one only
        groups = {self._present[name_now] for name_now in nearest}
        return groups.pop() if len(groups) == 1 else None
