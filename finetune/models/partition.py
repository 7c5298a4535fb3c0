"""Checks that groups of modules or parameters partition a model, by identity."""

from collections.abc import Iterator, Sequence

from torch import nn

from finetune.models.splitting import Members, NamedMembers, count_places, shortened


def partition_parameters(
    model: nn.Module, members: NamedMembers
) -> dict[str, dict[str, nn.Parameter]]:
    """Returns, for each group's name, its parameters by qualified name.

    Every trainable parameter is in exactly one group. A tied weight is in the first group that has
    it. Parameters with `requires_grad=False` are in the group that is said for them, or in none;
    those that can't train, such as integers, are in none.
    Raises ValueError, with the names, for a parameter in no group, in two, or of another model, for
    a group without parameters, and for two groups of one name. Raises TypeError for a member that
    is no module and no parameter.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    places = count_places(model)
    claimants: dict[int, list[str]] = {}  # parameter identity -> groups, one for each claim
    partition: dict[str, dict[str, nn.Parameter]] = {}
    for group, group_members in members:
        if group in partition:
            raise ValueError(f"two layer groups are called {group!r}")
        partition[group] = {}
        for parameter in _parameters_of(group_members):
            name = names.get(id(parameter))
            if name is None:
                raise ValueError(f"group {group!r} holds a parameter that is not in the model")
            groups_so_far = claimants.setdefault(id(parameter), [])
            groups_so_far.append(group)
            # a tied weight has several places in the model, and each may be claimed once
            if len(groups_so_far) > places[id(parameter)]:
                raise ValueError(
                    f"parameter {name!r} is in two groups, {groups_so_far[0]!r} and {group!r}"
                )
            is_first_group = groups_so_far[0] == group
            if can_train(parameter) and is_first_group:
                partition[group][name] = parameter
    _check_nothing_is_left_out(model, partition)
    _check_none_is_empty(partition)
    return partition


def can_train(parameter: nn.Parameter) -> bool:
    """Whether the parameter could have a gradient, frozen or not: integers could not."""
    return parameter.is_floating_point() or parameter.is_complex()


def _check_nothing_is_left_out(
    model: nn.Module, partition: dict[str, dict[str, nn.Parameter]]
) -> None:
    inside: set[str] = set()
    for parameters in partition.values():
        inside.update(parameters)
    orphans = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in inside:
            orphans.append(name)
    if orphans:
        raise ValueError(f"{len(orphans)} parameters are in no layer group: {shortened(orphans)}")


def _check_none_is_empty(partition: dict[str, dict[str, nn.Parameter]]) -> None:
    empty = [group for group, parameters in partition.items() if not parameters]
    if empty or not partition:
        raise ValueError(
            f"layer group {', '.join(map(repr, empty))} has no parameter that could train; join it "
            "with the group beside it"
        )


def _parameters_of(members: Members) -> Iterator[nn.Parameter]:
    """Yields each parameter as often as it has a place in the members."""
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
    partition: Sequence[dict[str, nn.Parameter]],
    members: NamedMembers = (),
) -> list[list[nn.Module]]:
    """Returns, for each group of the partition, the modules that lie wholly in it.

    A module without parameters is in the group that has it among its `members`, or else in that of
    the module before it. A module that spans several groups is in none.
    """
    group_of_parameter: dict[int, int] = {}
    for group, parameters in enumerate(partition):
        for parameter in parameters.values():
            group_of_parameter[id(parameter)] = group
    group_of_member = _groups_of_member_modules(members)

    modules: list[list[nn.Module]] = [[] for _ in partition]
    seen: set[int] = set()
    current_group = 0
    for outermost, group_inside in _modules_in_one_group(model, group_of_parameter):
        if group_inside is None:
            current_group = group_of_member.get(id(outermost), current_group)
        else:
            current_group = group_inside
        for module in outermost.modules():
            # a module that has several places is in the group of its first one
            if id(module) not in seen:
                seen.add(id(module))
                modules[current_group].append(module)
    return modules


def _groups_of_member_modules(members: NamedMembers) -> dict[int, int]:
    """Identity of each module among and below the members -> the number of its group."""
    group_of_module: dict[int, int] = {}
    for group, (_, group_members) in enumerate(members):
        for member in group_members:
            if isinstance(member, nn.Module):
                group_of_module.update(dict.fromkeys(map(id, member.modules()), group))
    return group_of_module


def _modules_in_one_group(
    module: nn.Module, group_of_parameter: dict[int, int]
) -> Iterator[tuple[nn.Module, int | None]]:
    """Yields the outermost modules that span no two groups, each with its group.

    The group is None where no parameter is in one.
    """
    groups = set()
    for parameter in module.parameters():
        if id(parameter) in group_of_parameter:
            groups.add(group_of_parameter[id(parameter)])
    if len(groups) > 1:
        for child in module.children():
            yield from _modules_in_one_group(child, group_of_parameter)
        return
    group = groups.pop() if groups else None
    yield module, group
