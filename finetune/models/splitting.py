"""The ways to say where layer groups begin: automatic, child indices, module paths, a function."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from torch import nn

from finetune.wording import did_you_mean

Members: TypeAlias = Iterable[nn.Module | nn.Parameter]
NamedMembers: TypeAlias = Sequence[tuple[str, Members]]
SplitFunction: TypeAlias = Callable[[nn.Module], Sequence[Members]]
Split: TypeAlias = Sequence[int] | Sequence[str] | SplitFunction | None

_HOW = (
    "Say where groups begin with split=: child indices of a Sequential (split=[5, 8]), module "
    "paths (split=['layer3', 'fc']), or a function model -> list of lists of modules"
)


def split_model(model: nn.Module, split: Split = None) -> NamedMembers:
    """Names and members of the layer groups, first layers first.

    split: None for a `Sequential(backbone, head)`; indices of a Sequential's children or module
    paths at which new groups start (k of them make k + 1 groups); or a function that returns the
    modules or parameters of each group. Raises ValueError when the model can't be split that way.

    >>> model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(9)))
    >>> [name for name, _ in split_model(model, [5, 8])]
    ['0-4', '5-7', '8']
    """
    if split is None:
        return _backbone_and_head(model)
    if callable(split):
        members = [list(group) for group in split(model)]
        if not members:
            raise ValueError(f"the split function gives no group. {_HOW}")
        return list(zip(_default_names(len(members)), members, strict=True))
    points = list(split)
    if points and all(isinstance(point, int) for point in points):
        return _at_indices(model, [point for point in points if isinstance(point, int)])
    if points and all(isinstance(point, str) for point in points):
        return _at_paths(model, [point for point in points if isinstance(point, str)])
    raise ValueError(f"split={split!r} is not understood. {_HOW}")


def _default_names(count: int) -> list[str]:
    if count == 2:
        return ["backbone", "head"]
    return [f"body_{i + 1}" for i in range(count - 1)] + ["head"]


def _backbone_and_head(model: nn.Module) -> NamedMembers:
    children = list(model.named_children())
    if not isinstance(model, nn.Sequential) or len(children) != 2:
        what = f"{type(model).__name__} with {len(children)} children"
        raise ValueError(
            f"Only Sequential(backbone, head) is split by itself; this model is a {what}. {_HOW}"
        )
    (first, backbone), (second, head) = children
    names = ["backbone", "head"] if (first, second) == ("0", "1") else [first, second]
    return list(zip(names, ([backbone], [head]), strict=True))


def _at_indices(model: nn.Module, starts: list[int]) -> NamedMembers:
    if not isinstance(model, nn.Sequential):
        raise ValueError(
            f"split={starts} counts the children of a Sequential, but the model is a "
            f"{type(model).__name__}. {_HOW}"
        )
    count = len(model)
    if starts != sorted(set(starts)) or not all(0 < start < count for start in starts):
        raise ValueError(
            f"split={starts} needs increasing indices between 1 and {count - 1}, "
            f"since the model has {count} children"
        )
    bounds = list(zip([0, *starts], [*starts, count], strict=True))
    names = [str(a) if b - a == 1 else f"{a}-{b - 1}" for a, b in bounds]
    return [(name, list(model)[a:b]) for name, (a, b) in zip(names, bounds, strict=True)]


def _at_paths(model: nn.Module, starts: list[str]) -> NamedMembers:
    paths = [path for path, _ in model.named_modules() if path]
    for start in starts:
        if start not in paths:
            hint = did_you_mean(start, paths, count=3)
            raise ValueError(f"split names module {start!r}, which the model does not have; {hint}")
    groups: list[list[nn.Module | nn.Parameter]] = [[]]
    remaining = list(starts)
    for path, module in model.named_modules():
        if remaining and path == remaining[0]:
            groups.append([])
            remaining.pop(0)
        leaf = not list(module.children())
        groups[-1].extend([module] if leaf else module.parameters(recurse=False))
    if remaining:
        raise ValueError(
            f"split={starts} must name modules in the order of the model; "
            f"{remaining[0]!r} comes before {starts[starts.index(remaining[0]) - 1]!r}"
        )
    named = list(zip(["start", *starts], groups, strict=True))
    return named if groups[0] else named[1:]


def body_halves(model: nn.Module) -> list[Members]:
    """Three groups of `Sequential(backbone, head)`: two halves of the backbone, and the head.

    A ResNet-like backbone (layer1 .. layer4) is cut behind its second stage, any other in the
    middle of its blocks, as timm's `group_matcher` or else the nesting of its containers has them.
    """
    (_, members), (_, head) = _backbone_and_head(model)
    backbone = next(iter(members))
    assert isinstance(backbone, nn.Module)
    blocks = _blocks(backbone)
    if len(blocks) < 2:
        raise ValueError(f"the backbone {type(backbone).__name__} has no two blocks. {_HOW}")
    cut = len(blocks) // 2
    if all(hasattr(backbone, f"layer{i}") for i in (1, 2, 3, 4)):
        late = {id(p) for i in (3, 4) for p in getattr(backbone, f"layer{i}").parameters()}
        cut = next(i for i, block in enumerate(blocks) if any(id(p) in late for p in block))
    halves = (blocks[:cut], blocks[cut:])
    return [*([p for block in half for p in block] for half in halves), head]


def _blocks(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """The backbone's parameters, block by block, in order of depth."""
    matcher = getattr(backbone, "group_matcher", None)
    if callable(matcher):
        from timm.models import group_parameters

        layer_of = group_parameters(backbone, matcher(coarse=False), reverse=True)
    else:
        layer_of = _layers_by_containers(backbone)
    by_layer: dict[int, list[nn.Parameter]] = {}
    for name, parameter in backbone.named_parameters():
        by_layer.setdefault(layer_of[name], []).append(parameter)
    return [by_layer[layer] for layer in sorted(by_layer)]


def _layers_by_containers(backbone: nn.Module) -> dict[str, int]:
    """Parameter name -> number of its block, where containers are opened and blocks are not."""
    prefixes: list[str] = []

    def visit(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            child_path = f"{path}.{name}" if path else name
            if isinstance(child, nn.Sequential | nn.ModuleList):
                visit(child, child_path)
            else:
                prefixes.append(child_path)

    visit(backbone, "")
    layer_of = {}
    for name, _ in backbone.named_parameters():
        owner = [i for i, p in enumerate(prefixes) if re.match(re.escape(p) + r"(\.|$)", name)]
        layer_of[name] = owner[0] if owner else 0
    return layer_of
