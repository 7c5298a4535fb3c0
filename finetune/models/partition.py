"""Checks that groups of modules or parameters partition a model, by identity."""

from collections import Counter
from collections.abc import Iterator

from torch import nn

from finetune.models.splitting import Members, NamedMembers


def partition_parameters(
    model: nn.Module, members: NamedMembers
) -> dict[str, dict[str, nn.Parameter]]:
    """Group name -> its trainable parameters by qualified name, checked by identity."""
    names = {id(p): name for name, p in model.named_parameters()}
    # a tied weight has several places in the model, and each may be claimed once
    places = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    claims: dict[int, list[str]] = {}  # parameter identity -> groups, one for each claim
    owner: dict[int, str] = {}  # parameter identity -> group
    partition: dict[str, dict[str, nn.Parameter]] = {}
    for group, group_members in members:
        if group in partition:
            raise ValueError(f"two layer groups are called {group!r}")
        partition[group] = {}
        for parameter in _parameters_of(group_members):
            name = names.get(id(parameter))
            if name is None:
                raise ValueError(f"group {group!r} holds a parameter that is not in the model")
            claimants = claims.setdefault(id(parameter), [])
            claimants.append(group)
            if len(claimants) > places[id(parameter)]:
                raise ValueError(
                    f"parameter {name!r} is in two groups, {claimants[0]!r} and {group!r}"
                )
            # a tied weight belongs to the first group that has it
            if parameter.requires_grad and owner.setdefault(id(parameter), group) == group:
                partition[group][name] = parameter
    orphans = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in owner]
    if orphans:
        listed = ", ".join(orphans[:5]) + (", ..." if len(orphans) > 5 else "")
        raise ValueError(f"{len(orphans)} parameters are in no layer group: {listed}")
    empty = [group for group, parameters in partition.items() if not parameters]
    if empty or not partition:
        raise ValueError(
            f"layer group {', '.join(map(repr, empty))} has no trainable parameter; if you set "
            "requires_grad=False yourself, leave freezing to the learner"
        )
    return partition


def _parameters_of(members: Members) -> Iterator[nn.Parameter]:
    """Each parameter as often as it has a place in the members."""
    for member in members:
        if isinstance(member, nn.Parameter):
            yield member
        elif isinstance(member, nn.Module):
            for _, parameter in member.named_parameters(remove_duplicate=False):
                yield parameter
        else:
            raise TypeError(f"a layer group holds modules or parameters, got {type(member)}")


def modules_of_groups(
    model: nn.Module,
    partition: list[dict[str, nn.Parameter]],
    members: NamedMembers = (),
) -> list[list[nn.Module]]:
    """The modules wholly in each group.

    One without parameters is where `members` has it, or else goes with its predecessor.
    """
    group_of = {id(p): i for i, parameters in enumerate(partition) for p in parameters.values()}
    modules: list[list[nn.Module]] = [[] for _ in partition]
    seen: set[int] = set()
    previous = 0
    claimed = {
        id(module): i
        for i, (_, group_members) in enumerate(members)
        for member in group_members
        if isinstance(member, nn.Module)
        for module in member.modules()
    }

    def visit(module: nn.Module) -> None:
        nonlocal previous
        inside = {group_of[id(p)] for p in module.parameters() if id(p) in group_of}
        if len(inside) > 1:
            for child in module.children():
                visit(child)
            return
        previous = inside.pop() if inside else claimed.get(id(module), previous)
        for part in module.modules():
            if id(part) not in seen:
                seen.add(id(part))
                modules[previous].append(part)

    visit(model)
    return modules
