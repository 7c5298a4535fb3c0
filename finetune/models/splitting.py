"""The ways to say where layer groups begin: a word, a number, indices, paths, names, a function."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from typing import TypeAlias, TypeGuard

from torch import nn

from finetune.arguments import shown
from finetune.models.backbone_set import members_of
from finetune.models.blocks import Block, Body, Stage, read_body
from finetune.models.classifier_layers import HEAD_NAMES, classifier_layers
from finetune.models.module_order import modules_in_order
from finetune.wording import counted, did_you_mean

Members: TypeAlias = Iterable[nn.Module | nn.Parameter]
NamedMembers: TypeAlias = Sequence[tuple[str, Members]]
SplitFunction: TypeAlias = Callable[[nn.Module], Sequence[Members]]
Split: TypeAlias = (
    str | int | Sequence[int] | Sequence[str] | Mapping[str, str] | SplitFunction | None
)

_WORDS = ("backbone_head", "halves", "stages", "layers")
_HOW = (
    "Say where groups begin with split=: 'backbone_head', 'halves', 'stages', 'layers', a number "
    "of groups, child indices of a Sequential (split=[5, 8]), module paths "
    "(split=['layer3', 'fc']), a mapping of paths to group names, or a function model -> list of "
    "lists of modules"
)


def split_model(model: nn.Module, split: Split = None) -> NamedMembers:
    """Returns names and members of the layer groups, first layers first.

    split is one of

    - None: backbone and head of `Sequential(backbone, head)`; of any other model, "halves".
    - "backbone_head": two groups.
    - "halves": two halves of the blocks, and the head. A ResNet (layer1 .. layer4) is cut behind
      its second stage.
    - "stages": what comes before the first stage ("stem"), each stage, the head. A transformer of
      equal blocks is one stage.
    - "layers": the stem, each block, the head.
    - A number k: k - 1 groups of about equally many blocks, and the head.
    - Indices of a Sequential's children, or module paths, at which new groups start: k of them make
      k + 1 groups.
    - A mapping of module paths or parameter names to group names. It must leave out nothing, and
      the groups must be in order of depth.
    - A function that returns the modules or parameters of each group.

    Of several backbones side by side, each is split like that, and the groups of equal depth become
    one, body_1 and so on; there are as many as the deepest of them has.

    Paths in the backbone of a `Sequential(backbone, head)` may leave out "backbone.". The head is
    the second child of such a Sequential; of any other model, the layers that give the classes.
    Raises ValueError when the model can't be split that way.

    >>> model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(9)))
    >>> [name for name, _ in split_model(model, [5, 8])]
    ['0-4', '5-7', '8']
    >>> model = nn.Sequential(model, nn.Linear(2, 2))
    >>> [name for name, _ in split_model(model, 4)]
    ['body_1', 'body_2', 'body_3', 'head']
    """
    if split is None:
        return _by_default(model)
    if isinstance(split, str):
        return _by_word(model, split)
    if _is_whole_number(split):
        return _by_count(model, int(split))
    if isinstance(split, Mapping):
        return _by_names(model, split)
    if callable(split):
        return _by_function(model, split)
    return _at_starts(model, split)


def count_places(module: nn.Module) -> Counter[int]:
    """Identity of each parameter -> in how many places it is; in several if it is tied."""
    named = module.named_parameters(remove_duplicate=False)
    return Counter(id(parameter) for _, parameter in named)


def shortened(names: Sequence[str]) -> str:
    """The first five of the names, for messages."""
    dots = ", ..." if len(names) > 5 else ""
    return ", ".join(names[:5]) + dots


# --- what of the model is head, and what body


def is_pair(model: nn.Module) -> bool:
    """Whether the model is a `Sequential(backbone, head)`."""
    return isinstance(model, nn.Sequential) and len(list(model.children())) == 2


def _by_default(model: nn.Module) -> NamedMembers:
    """Backbone and head, under the names of the children; or halves of any other model."""
    if not is_pair(model):
        return _by_word(model, "halves")
    (first_name, backbone), (second_name, head) = model.named_children()
    if (first_name, second_name) == ("0", "1"):  # the children have no names of their own
        first_name, second_name = "backbone", "head"
    return [(first_name, [backbone]), (second_name, [head])]


def _bodies_and_head(model: nn.Module) -> tuple[list[Body], Sequence[nn.Module]]:
    """The blocks of the model without its head, and the modules of the head.

    There is a body for each backbone of a `BackboneSet`, and one for any other model.
    Raises ValueError for a model that has no classifier.
    """
    if is_pair(model):
        backbone, head = model.children()
        return [read_body(member) for member in members_of(backbone).values()], [head]
    layers = classifier_layers(model)
    if not layers:
        raise _no_classifier(model)
    places_in_head: Counter[int] = Counter()
    for layer in layers:
        places_in_head.update(count_places(layer))
    places = count_places(model)
    # a weight that is tied to one in the body has a place outside the head, and belongs to the body
    in_head_only = {p for p, count in places_in_head.items() if count == places[p]}
    return [read_body(model, without=in_head_only)], layers


def _no_classifier(model: nn.Module) -> ValueError:
    """The error for a model that has to be split by the user, with what was looked for."""
    what = f"{type(model).__name__} with {len(list(model.children()))} children"
    why = "made without classes" if hasattr(model, "get_classifier") else "an encoder only?"
    return ValueError(
        "Only Sequential(backbone, head) and a model whose classifier can be told are split by "
        f"themselves; this model is a {what} and has no classifier ({why}): nothing that "
        f"get_classifier() gives, no Linear or Conv2d under {', '.join(HEAD_NAMES)}. {_HOW}"
    )


# --- a word, a number, a function


def _by_word(model: nn.Module, granularity: str) -> NamedMembers:
    """Groups of a named granularity, see `split_model`."""
    if granularity not in _WORDS:
        hint = did_you_mean(granularity, _WORDS)
        raise ValueError(f"split={granularity!r} is not understood; {hint} {_HOW}")
    bodies, head = _bodies_and_head(model)
    if granularity == "halves":
        return _cut(model, bodies, head, [[_middle(body)] for body in bodies])
    if granularity == "backbone_head":
        return _cut(model, bodies, head, [[] for _ in bodies])
    if len(bodies) > 1:
        groups_by_body = []
        for body in bodies:
            groups_by_body.append([members for _, members in _named_blocks(body, granularity)])
        return _with_default_names(_side_by_side(groups_by_body), head)
    return [*_named_blocks(bodies[0], granularity), ("head", head)]


def _named_blocks(body: Body, granularity: str) -> list[tuple[str, Members]]:
    """The stem, and each of the "stages" or of the "layers", under its path."""
    groups: list[tuple[str, Members]] = []
    if body.stem:
        groups.append(("stem", body.stem))
    blocks: Sequence[Stage | Block] = body.stages if granularity == "stages" else body.blocks
    for block in blocks:
        groups.append((block.path, block.parameters))
    return groups


def _by_count(model: nn.Module, count: int) -> NamedMembers:
    """The head, and `count - 1` groups of the body of about equally many blocks."""
    if count < 2:
        raise ValueError(f"split={count} needs 2 groups or more, the body's and the head")
    bodies, head = _bodies_and_head(model)
    _check_enough_blocks(model, bodies, count)
    body_groups = count - 1
    starts_by_body = []
    for body in bodies:
        block_count = len(body.blocks)
        starts_by_body.append([i * block_count // body_groups for i in range(1, body_groups)])
    return _cut(model, bodies, head, starts_by_body)


def _by_function(model: nn.Module, split: SplitFunction) -> NamedMembers:
    """The groups that a user's function returns, each as a list or as a single module."""
    groups: list[Members] = []
    for members in split(model):
        if isinstance(members, nn.Module | nn.Parameter):
            members = [members]
        groups.append(list(members))
    if not groups:
        raise ValueError(f"the split function gives no group. {_HOW}")
    return list(zip(_default_names(len(groups)), groups, strict=True))


def _check_enough_blocks(model: nn.Module, bodies: Sequence[Body], group_count: int) -> None:
    """Raises ValueError unless each body has a block for each group but the head."""
    block_count = min(len(body.blocks) for body in bodies)
    if group_count - 1 > max(block_count, 1):
        which = f"the {type(model).__name__}"
        if len(bodies) > 1:
            which = "the smallest of the backbones"
        raise ValueError(
            f"{shown(group_count)} groups need {shown(group_count - 1)} blocks and a head, but "
            f"{which} has {counted(block_count, 'block')}; ask for "
            f"split={block_count + 1} groups or fewer, or say otherwise where they begin"
        )


def _cut(
    model: nn.Module,
    bodies: Sequence[Body],
    head: Members,
    starts_by_body: Sequence[Sequence[int]],
) -> NamedMembers:
    """Groups that start at these blocks of each body, the first with the stem; and the head."""
    group_count = len(starts_by_body[0]) + 2
    _check_enough_blocks(model, bodies, group_count)
    groups_by_body = []
    for body, starts in zip(bodies, starts_by_body, strict=True):
        groups: list[list[nn.Parameter]] = []
        for start, end in pairwise([0, *starts, len(body.blocks)]):
            members: list[nn.Parameter] = []
            for block in body.blocks[start:end]:
                members.extend(block.parameters)
            groups.append(members)
        groups[0] = [*body.stem, *groups[0]]
        groups_by_body.append(groups)
    return _with_default_names(_side_by_side(groups_by_body), head)


def _side_by_side(groups_by_body: Sequence[Sequence[Members]]) -> list[Members]:
    """The groups of networks that run side by side as one list, by their relative depth.

    There are as many as the deepest network has. The first groups of all networks are in the first
    one, and the last in the last, so that a number of frozen groups and the spread of the rates
    mean for each network what they mean for one alone.
    """
    count = max(map(len, groups_by_body))
    merged: list[list[nn.Module | nn.Parameter]] = [[] for _ in range(count)]
    for groups in groups_by_body:
        steps = max(len(groups) - 1, 1)
        for i, members in enumerate(groups):
            merged[i * (count - 1) // steps].extend(members)
    return list(merged)


def _middle(body: Body) -> int:
    """Index of the block with which the second half starts."""
    stage_of_block = [block.path.partition(".")[0] for block in body.blocks]
    is_resnet = all(f"layer{i}" in stage_of_block for i in (1, 2, 3, 4))
    if is_resnet:
        return stage_of_block.index("layer3")
    # the stem counts as one block of the first half
    stem_count = 1 if body.stem else 0
    in_first_half = (len(body.blocks) + stem_count) // 2 - stem_count
    return max(1, in_first_half)


def _with_default_names(body_groups: Sequence[Members], head: Members) -> NamedMembers:
    return list(zip(_default_names(len(body_groups) + 1), [*body_groups, head], strict=True))


def _default_names(count: int) -> list[str]:
    if count == 2:
        return ["backbone", "head"]
    return [f"body_{i + 1}" for i in range(count - 1)] + ["head"]


# --- indices, paths, names


def _at_starts(model: nn.Module, split: object) -> NamedMembers:
    """Groups that start at indices or at paths, but not at some of both."""
    starts = list(split) if isinstance(split, Iterable) else []
    indices: list[int] = []
    paths: list[str] = []
    for start in starts:
        if isinstance(start, str):
            paths.append(start)
        elif _is_whole_number(start):
            indices.append(int(start))
    if indices and len(indices) == len(starts):
        return _at_indices(model, indices)
    if paths and len(paths) == len(starts):
        return _at_paths(model, paths)
    raise ValueError(f"split={shown(split)} is not understood. {_HOW}")


def _at_indices(model: nn.Module, starts: list[int]) -> NamedMembers:
    """Groups that start at these children of a Sequential, named after their indices."""
    if not isinstance(model, nn.Sequential):
        raise ValueError(
            f"split={starts} counts the children of a Sequential, but the model is a "
            f"{type(model).__name__}. {_HOW}"
        )
    children = list(model)
    count = len(children)
    are_increasing = starts == sorted(set(starts))
    are_inside = min(starts) > 0 and max(starts) < count
    if not (are_increasing and are_inside):
        raise ValueError(
            f"split={starts} needs increasing indices between 1 and {count - 1}, "
            f"since the model has {count} children"
        )
    groups: list[tuple[str, Members]] = []
    for start, end in pairwise([0, *starts, count]):
        name = str(start) if end - start == 1 else f"{start}-{end - 1}"
        groups.append((name, children[start:end]))
    return groups


def _at_paths(model: nn.Module, starts: list[str]) -> NamedMembers:
    """Groups that start at these modules; what is before the first is called "start"."""
    upcoming = [_full_path(model, start) for start in starts]
    groups: list[list[nn.Module | nn.Parameter]] = [[]]
    visited: list[str] = []
    for path, module in modules_in_order(model):
        # a container of stages may be left out in this order: then the first module inside it comes
        if upcoming and _is_inside(path, upcoming[0]):
            # a group does not start in the middle of a module that was entered before
            was_entered = any(_is_inside(earlier, upcoming[0]) for earlier in visited)
            if not was_entered:
                groups.append([])
                upcoming.pop(0)
        visited.append(path)
        is_leaf = not list(module.children())
        groups[-1].extend([module] if is_leaf else module.parameters(recurse=False))
    if upcoming:
        i = len(starts) - len(upcoming)
        raise ValueError(
            f"split={starts} must name modules in the order of the model; "
            f"{starts[i]!r} comes before {starts[i - 1]!r}"
        )
    named = list(zip(["start", *starts], groups, strict=True))
    starts_at_once = not groups[0]
    return named[1:] if starts_at_once else named


def _by_names(model: nn.Module, names: Mapping[str, str]) -> NamedMembers:
    """Groups by the names that a mapping gives to modules or parameters."""
    group_of = {_full_path(model, path, parameters=True): name for path, name in names.items()}
    _check_no_overlap(group_of)
    groups: dict[str, list[nn.Module | nn.Parameter]] = {}
    left_out: list[str] = []
    last_group = ""
    for name, parameter in _parameters_in_order(model):
        paths = [path for path in group_of if _is_inside(name, path)]
        if not paths:
            if parameter.requires_grad:  # what is frozen by hand needs no group
                left_out.append(name)
            continue
        group = group_of[paths[0]]  # the only one, since no path is inside another
        if group in groups and group != last_group:
            raise ValueError(
                f"split puts {name!r} into group {group!r}, behind group {last_group!r}; groups "
                "are neighbouring layers, in order of depth"
            )
        groups.setdefault(group, []).append(parameter)
        last_group = group
    if left_out:
        raise ValueError(
            f"split leaves out {len(left_out)} parameters: {shortened(left_out)}; name them, too"
        )
    return list(groups.items())


def _check_no_overlap(paths: Iterable[str]) -> None:
    """Raises ValueError if one of the paths is inside another."""
    for outer in paths:
        for inner in paths:
            if inner != outer and _is_inside(inner, outer):
                raise ValueError(
                    f"split names {outer!r} and {inner!r}, which is in it; keep one of them"
                )


def _parameters_in_order(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for path, module in modules_in_order(model):
        yield from module.named_parameters(recurse=False, prefix=path)


def _full_path(model: nn.Module, path: str, *, parameters: bool = False) -> str:
    """The path as the model has it; "layer3" may stand for "backbone.layer3".

    parameters: the names of parameters are paths, too. Raises ValueError for an unknown path.
    """
    known_paths = [known for known, _ in model.named_modules() if known]
    if parameters:
        known_paths += [name for name, _ in model.named_parameters()]
    candidates = [path]
    if is_pair(model):
        backbone_name, _ = next(model.named_children())
        candidates.append(f"{backbone_name}.{path}")
    for candidate in candidates:
        if candidate in known_paths:
            return candidate
    hint = did_you_mean(path, known_paths, count=3)
    raise ValueError(f"split names module {path!r}, which the model does not have; {hint}")


def _is_inside(path: str, outer: str) -> bool:
    """Whether `path` is the path `outer` itself or that of something inside it."""
    return path == outer or path.startswith(f"{outer}.")


def _is_whole_number(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)
