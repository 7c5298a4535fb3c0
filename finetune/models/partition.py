"""Checks that groups of modules or parameters partition a model, by identity."""

from collections.abc import Iterator

from torch import nn

from finetune.models.splitting import Members, NamedMembers


def partition_parameters(
    model: nn.Module, members: NamedMembers
) -> dict[str, dict[str, nn.Parameter]]:
    """Group name -> its trainable parameters by qualified name, checked by identity."""
    names = {id(p): name for name, p in model.named_parameters()}
    owner: dict[int, str] = {}  # parameter identity -> group
    claimed: dict[tuple[int, str] | int, str] = {}  # (module, attribute) or bare parameter -> group
    partition: dict[str, dict[str, nn.Parameter]] = {}
    for group, group_members in members:
        if group in partition:
            raise ValueError(f"two layer groups are called {group!r}")
        partition[group] = {}
        for slot, parameter in _slots(group_members):
            name = names.get(id(parameter))
            if name is None:
                raise ValueError(f"group {group!r} holds a parameter that is not in the model")
            if slot in claimed:
                raise ValueError(
                    f"parameter {name!r} is in two groups, {claimed[slot]!r} and {group!r}"
                )
            claimed[slot] = group
            # a tied weight comes by two slots and belongs to the first group that has it
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


def _slots(
    members: Members,
) -> Iterator[tuple[tuple[int, str] | int, nn.Parameter]]:
    for member in members:
        if isinstance(member, nn.Parameter):
            yield id(member), member
        elif isinstance(member, nn.Module):
            for module in member.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    yield (id(module), name), parameter
        else:
            raise TypeError(f"a layer group holds modules or parameters, got {type(member)}")


def modules_of_groups(
    model: nn.Module, partition: list[dict[str, nn.Parameter]]
) -> list[list[nn.Module]]:
    """The modules wholly in each group; one without parameters goes with its predecessor."""
    group_of = {id(p): i for i, parameters in enumerate(partition) for p in parameters.values()}
    modules: list[list[nn.Module]] = [[] for _ in partition]
    seen: set[int] = set()
    previous = 0

    def visit(module: nn.Module) -> None:
        nonlocal previous
        inside = {group_of[id(p)] for p in module.parameters() if id(p) in group_of}
        if len(inside) > 1:
            for child in module.children():
                visit(child)
            return
        previous = inside.pop() if inside else previous
        for part in module.modules():
            if id(part) not in seen:
                seen.add(id(part))
                modules[previous].append(part)

    visit(model)
    return modules
