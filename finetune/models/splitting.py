"""The ways to say where layer groups begin: a word, a number, indices, paths, names, a function."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import TypeAlias

from torch import nn

from finetune.models.blocks import Body, modules_in_order, read_body
from finetune.wording import did_you_mean

Members: TypeAlias = Iterable[nn.Module | nn.Parameter]
NamedMembers: TypeAlias = Sequence[tuple[str, Members]]
SplitFunction: TypeAlias = Callable[[nn.Module], Sequence[Members]]
Split: TypeAlias = (
    str | int | Sequence[int] | Sequence[str] | Mapping[str, str] | SplitFunction | None
)

_WORDS = ("backbone_head", "halves", "stages", "layers")
_LAYERS = (nn.Linear, nn.Conv2d)
_HEADS = ("fc", "head", "heads", "classifier", "classif", "last_linear")
_HOW = (
    "Say where groups begin with split=: 'backbone_head', 'halves', 'stages', 'layers', a number "
    "of groups, child indices of a Sequential (split=[5, 8]), module paths "
    "(split=['layer3', 'fc']), a mapping of paths to group names, or a function model -> list of "
    "lists of modules"
)


def split_model(model: nn.Module, split: Split = None) -> NamedMembers:
    """Names and members of the layer groups, first layers first.

    split: None: backbone and head of `Sequential(backbone, head)`, or else "halves".
    "backbone_head": two groups. "halves": two halves of the blocks, and the head; a ResNet
    (layer1 .. layer4) is cut behind its second stage. "stages": what comes before the first stage
    ("stem"), each stage, the head; a transformer of equal blocks is one stage. "layers": stem, each
    block, head. A number k: k - 1 groups of about equally many blocks, and the head.
    Indices of a Sequential's children, or module paths at which new groups start (k of them make
    k + 1 groups). A mapping of module paths or parameter names to group names, which leaves out
    nothing; the groups are in order of depth. A function that returns the modules or parameters of
    each group. Paths in the backbone of a `Sequential(backbone, head)` may leave out "backbone.".
    The head is the second child of such a Sequential, or else the layers that give the classes.
    Raises ValueError when the model can't be split that way.

    >>> model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(9)))
    >>> [name for name, _ in split_model(model, [5, 8])]
    ['0-4', '5-7', '8']
    >>> model = nn.Sequential(model, nn.Linear(2, 2))
    >>> [name for name, _ in split_model(model, 4)]
    ['body_1', 'body_2', 'body_3', 'head']
    """
    if split is None:
        return _named_children(model) if _is_pair(model) else _by_word(model, "halves")
    if isinstance(split, str):
        return _by_word(model, split)
    if isinstance(split, Integral) and not isinstance(split, bool):
        return _by_count(model, int(split))
    if isinstance(split, Mapping):
        return _by_names(model, split)
    if callable(split):
        alone = nn.Module | nn.Parameter
        members = [[g] if isinstance(g, alone) else list(g) for g in split(model)]
        if not members:
            raise ValueError(f"the split function gives no group. {_HOW}")
        return list(zip(_default_names(len(members)), members, strict=True))
    points = list(split) if isinstance(split, Iterable) else []
    if points and all(isinstance(p, Integral) and not isinstance(p, bool) for p in points):
        return _at_indices(model, [int(p) for p in points if isinstance(p, Integral)])
    if points and all(isinstance(point, str) for point in points):
        return _at_paths(model, [point for point in points if isinstance(point, str)])
    raise ValueError(f"split={split!r} is not understood. {_HOW}")


def _default_names(count: int) -> list[str]:
    if count == 2:
        return ["backbone", "head"]
    return [f"body_{i + 1}" for i in range(count - 1)] + ["head"]


def _is_pair(model: nn.Module) -> bool:
    return isinstance(model, nn.Sequential) and len(list(model.children())) == 2


def _named_children(model: nn.Module) -> NamedMembers:
    (first, backbone), (second, head) = model.named_children()
    names = ["backbone", "head"] if (first, second) == ("0", "1") else [first, second]
    return list(zip(names, ([backbone], [head]), strict=True))


def _body_and_head(model: nn.Module) -> tuple[Body, list[nn.Module]]:
    if _is_pair(model):
        backbone, head = model.children()
        return read_body(backbone), [head]
    layers = classifier_layers(model)
    if not layers:
        what = f"{type(model).__name__} with {len(list(model.children()))} children"
        why = "made without classes" if hasattr(model, "get_classifier") else "an encoder only?"
        raise ValueError(
            "Only Sequential(backbone, head) and a model whose classifier can be told are split by "
            f"themselves; this model is a {what} and has no classifier ({why}): nothing that "
            f"get_classifier() gives, no Linear or Conv2d under {', '.join(_HEADS)}. {_HOW}"
        )
    inside = Counter(id(p) for x in layers for _, p in x.named_parameters(remove_duplicate=False))
    places = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    # a weight that is tied to one in the body belongs there
    return read_body(model, {p for p, n in inside.items() if n == places[p]}), layers


def classifier_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that give the classes, without what is in front of them; empty if there are none.

    They are what timm initialises anew for another number of classes, or else the last layer under
    a child called head or the like.
    """
    modules = dict(model.named_modules())
    if callable(get_classifier := getattr(model, "get_classifier", None)):
        answer = get_classifier()
        heads = list(answer) if isinstance(answer, tuple | nn.ModuleList) else [answer]
        named = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
        heads += [modules.get(name) for name in ([named] if isinstance(named, str) else named)]
    else:
        heads = [child for name, child in model.named_children() if name in _HEADS][-1:]
    inside = {id(m) for head in heads if isinstance(head, nn.Module) for m in head.modules()}
    layers = [m for m in modules.values() if isinstance(m, _LAYERS) and id(m) in inside]
    classes = getattr(model, "num_classes", None)
    return [*([m for m in layers if m.weight.shape[0] == classes] or layers[-1:])]


def _by_word(model: nn.Module, word: str) -> NamedMembers:
    if word not in _WORDS:
        raise ValueError(f"split={word!r} is not understood; {did_you_mean(word, _WORDS)} {_HOW}")
    body, head = _body_and_head(model)
    if word == "halves":
        return _cut(model, body, head, [_middle(body)])
    if word == "backbone_head":
        return _cut(model, body, head, [])
    stem = [("stem", body.stem)] if body.stem else []
    parts = body.stages if word == "stages" else body.blocks
    return [*stem, *((part.path, part.parameters) for part in parts), ("head", head)]


def _by_count(model: nn.Module, count: int) -> NamedMembers:
    if count < 2:
        raise ValueError(f"split={count} needs 2 groups or more, the body's and the head")
    body, head = _body_and_head(model)
    blocks, parts = len(body.blocks), count - 1
    return _cut(model, body, head, [i * blocks // parts for i in range(1, parts)])


def _cut(model: nn.Module, body: Body, head: Members, starts: list[int]) -> NamedMembers:
    """Groups of the body that start at these blocks, the first with the stem; and the head."""
    blocks = body.blocks
    if len(starts) >= max(len(blocks), 1):
        count = f"{len(blocks)} block" + ("s" if len(blocks) != 1 else "")
        raise ValueError(
            f"{len(starts) + 2} groups need {len(starts) + 1} blocks and a head, but the "
            f"{type(model).__name__} has {count}; ask for {len(blocks) + 1} groups or fewer, or "
            "say otherwise where they begin"
        )
    bounds = zip([0, *starts], [*starts, len(blocks)], strict=True)
    groups: list[Members] = [[p for b in blocks[i:j] for p in b.parameters] for i, j in bounds]
    groups[0] = [*body.stem, *groups[0]]
    return list(zip(_default_names(len(groups) + 1), [*groups, head], strict=True))


def _middle(body: Body) -> int:
    """The block with which the second half starts; the stem counts as one."""
    stages = [block.path.partition(".")[0] for block in body.blocks]
    if all(f"layer{i}" in stages for i in (1, 2, 3, 4)):
        return stages.index("layer3")
    stem = bool(body.stem)
    return max(1, (len(body.blocks) + stem) // 2 - stem)


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
    remaining = [_full_path(model, start) for start in starts]
    groups: list[list[nn.Module | nn.Parameter]] = [[]]
    seen: list[str] = []
    for path, module in modules_in_order(model):
        start = f"{remaining[0]}." if remaining else "."
        if f"{path}.".startswith(start) and not any(p.startswith(start) for p in seen):
            groups.append([])
            remaining.pop(0)
        seen.append(f"{path}.")
        leaf = not list(module.children())
        groups[-1].extend([module] if leaf else module.parameters(recurse=False))
    if remaining:
        at = len(starts) - len(remaining)
        raise ValueError(
            f"split={starts} must name modules in the order of the model; "
            f"{starts[at]!r} comes before {starts[at - 1]!r}"
        )
    named = list(zip(["start", *starts], groups, strict=True))
    return named if groups[0] else named[1:]


def _by_names(model: nn.Module, names: Mapping[str, str]) -> NamedMembers:
    group_of = {_full_path(model, path, parameters=True): name for path, name in names.items()}
    for path in group_of:
        inner = next((other for other in group_of if other.startswith(f"{path}.")), None)
        if inner is not None:
            raise ValueError(
                f"split names {path!r} and {inner!r}, which is in it; keep one of them"
            )
    groups: dict[str, list[nn.Module | nn.Parameter]] = {}
    left_out: list[str] = []
    for path, module in modules_in_order(model):
        for name, parameter in module.named_parameters(recurse=False, prefix=path):
            group = next((g for p, g in group_of.items() if f"{name}.".startswith(f"{p}.")), None)
            if group is None:
                left_out.append(name)
                continue
            if group in groups and group != [*groups][-1]:
                behind = f"split puts {name!r} into group {group!r}, behind group {[*groups][-1]!r}"
                raise ValueError(f"{behind}; groups are neighbouring layers, in order of depth")
            groups.setdefault(group, []).append(parameter)
    if left_out:
        listed = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        raise ValueError(f"split leaves out {len(left_out)} parameters: {listed}; name them, too")
    return list(groups.items())


def _full_path(model: nn.Module, path: str, *, parameters: bool = False) -> str:
    """The path as the model has it; "layer3" may stand for "backbone.layer3"."""
    paths = [known for known, _ in model.named_modules() if known]
    paths += [name for name, _ in model.named_parameters()] if parameters else []
    backbone = next(iter(model.named_children()))[0] if _is_pair(model) else ""
    for full in (path, f"{backbone}.{path}"):
        if full in paths:
            return full
    hint = did_you_mean(path, paths, count=3)
    raise ValueError(f"split names module {path!r}, which the model does not have; {hint}")
