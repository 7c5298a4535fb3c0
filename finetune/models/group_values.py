"""Values of hyper-parameters per layer group: the ways to write them, and which are possible."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from finetune import arguments
from finetune.wording import did_you_mean

T = TypeVar("T")
PerGroup: TypeAlias = T | Sequence[T] | Mapping[Any, Any]
"""One value for all groups, a sequence of one per group, or a mapping, see `per_group`."""

_LEARNING_RATES = ("lr", "learning rates")
_MOMENTA = ("momentum", "beta")  # how their names start: momentum, beta2, beta3


@dataclass(frozen=True, slots=True)
class LayerDecay:
    """Layer-wise decay: the last group has `value`, every earlier one `factor` times the next.

    Of n groups, group i has `value * factor ** (n - 1 - i)` (Clark et al. 2020, ELECTRA; Bao et al.
    2021, BEiT). Use it with `split="layers"`.

    >>> LayerDecay(1e-3, 0.5).spread(3)
    [0.00025, 0.0005, 0.001]
    """

    value: float
    factor: float

    def __post_init__(self) -> None:
        arguments.real_number("value", self.value, above=0)
        arguments.real_number("factor", self.factor, above=0, at_most=1)

    def spread(self, count: int) -> list[float]:
        """The values of `count` groups, first layers first."""
        return [self.value * self.factor ** (count - 1 - i) for i in range(count)]


LearningRates: TypeAlias = float | slice | LayerDecay | PerGroup[float]
"""See `LayerGroups.spread`."""


def per_group(groups: Mapping[str, Iterable[str]], values: PerGroup[T], what: str) -> tuple[T, ...]:
    """Returns one value per group, first layers first.

    groups: name of each group -> names of its parameters.
    values: a list or tuple has one value per group. The keys of a mapping are names of groups,
    paths of modules ("backbone" stands for every group inside it), and "*" for whatever no other
    key names. Where several keys fit a group, its own name counts, or else the longest path.
    Mappings may be nested as the modules are: `{"backbone": {"layer4": 1, "*": 2}, "head": 3}`.
    Anything else is the value of every group.
    what: what a value is, for error messages, such as "learning rate".

    Raises ValueError for a sequence of another length, for a key that is no group and no path, for
    a path that covers a part of a group only, and for a group without a value.

    >>> groups = {"body": ["0.conv.weight", "0.norm.weight"], "head": ["1.weight"]}
    >>> per_group(groups, {"0": 1e-4, "head": 1e-2}, "learning rate")
    (0.0001, 0.01)
    """
    values = _without_arrays(values)
    if isinstance(values, Mapping):
        return _by_paths(groups, values, what)
    if isinstance(values, Sequence) and not isinstance(values, str):
        if len(values) != len(groups):
            names = ", ".join(groups)
            raise ValueError(f"got {len(values)} {what}s for {len(groups)} groups ({names})")
        return tuple(values)
    return (values,) * len(groups)


def _by_paths(
    groups: Mapping[str, Iterable[str]], values: Mapping[Any, Any], what: str
) -> tuple[Any, ...]:
    """One value per group from a mapping of names and paths, see `per_group`."""
    value_at = _flatten(values)
    _check_paths(value_at, groups, what)
    values_of_groups = []
    for group, parameters in groups.items():
        path = _path_that_counts(group, list(parameters), value_at, what)
        values_of_groups.append(value_at[path])
    return tuple(values_of_groups)


def spread(groups: Mapping[str, Iterable[str]], lr: LearningRates) -> tuple[float, ...]:
    """One positive learning rate per group; `LayerGroups.spread` lists the ways to write them."""
    rates: PerGroup[float]
    if isinstance(lr, slice):
        rates = _spread_slice(lr, len(groups))
    elif isinstance(lr, LayerDecay):
        rates = lr.spread(len(groups))
    else:
        rates = lr
    return checked_values(per_group(groups, rates, "learning rate"), "learning rates", shown=lr)


def checked_values(
    values: Iterable[Any], name: str, present: Sequence[float] = (), *, shown: object = None
) -> tuple[float, ...]:
    """Checks the values of the hyper-parameter `name` and converts them to plain floats.

    They become plain floats since a plan is compared, and stored in checkpoints: no numpy number
    and no tensor may get into it. All must be finite numbers, and besides

    - a learning rate must be positive,
    - any other hyper-parameter must not be negative,
    - momentum and the betas must not be above 1 either.

    present: the values that the hyper-parameter has now. If one of them is negative, the new ones
    may be so, too: Adafactor's beta2_decay is.
    shown: what the caller wrote, for error messages; by default the values.
    Raises ValueError for a value that is no number or breaks a rule, and where there is none.

    >>> checked_values([1, 0.5], "weight_decay")
    (1.0, 0.5)
    """
    values = list(values)
    if shown is None:
        shown = values
    if not values:
        raise ValueError(f"{name} needs one value per layer group, got none")
    floats = _as_floats(values, name, shown)
    lowest, highest = min(floats), max(floats)
    all_finite = all(map(math.isfinite, floats))

    if name in _LEARNING_RATES:
        # a group that is not to move is frozen, so that it costs no backward pass either
        if not all_finite or lowest <= 0:
            raise ValueError(f"lr: learning rates must be positive and finite, got {shown!r}")
        return floats

    may_be_negative = min(present, default=0) < 0
    is_too_low = lowest < 0 and not may_be_negative
    if not all_finite or is_too_low:
        raise ValueError(f"{name} must be finite and at least 0, got {shown!r}")
    # above 1 a running mean of gradients grows without bound
    if name.startswith(_MOMENTA) and highest > 1:
        raise ValueError(f"{name} must not be above 1, got {shown!r}")
    return floats


def _as_floats(values: Iterable[Any], name: str, shown: object) -> tuple[float, ...]:
    """Converts numbers of any type; raises TypeError for a value that is no number."""
    floats = []
    for value in values:
        is_number = hasattr(value, "__float__") and not isinstance(value, str | bool | type)
        if not is_number:
            raise TypeError(f"{name} must be numbers, got {value!r} in {shown!r}")
        try:
            floats.append(float(value))
        except OverflowError:  # 10**400
            floats.append(math.inf)
    return tuple(floats)


def _without_arrays(values: Any) -> Any:
    """Turns an array or a tensor into a number or a list, and leaves anything else as it is."""
    if hasattr(values, "tolist"):
        return values.tolist()
    return values


def _spread_slice(lr: slice, count: int) -> list[float]:
    """Learning rates of `slice(high)` or `slice(low, high)`, see `LayerGroups.spread`."""
    low, high = lr.start, lr.stop
    if lr.step is not None or high is None:
        raise ValueError(f"lr must be slice(hi) or slice(lo, hi) with positive rates, got {lr}")
    arguments.real_number("the upper rate of lr=slice(lo, hi)", high, above=0)
    if low is not None:
        # the other way round, the first layers would move most
        arguments.real_number("the lower rate of lr=slice(lo, hi)", low, above=0, at_most=high)
    if low is None:
        return [high / 10] * (count - 1) + [float(high)]
    if count == 1:
        return [float(high)]
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]


def _flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Module path -> value, of a nested mapping.

    The path of "*" is that of the mapping in which it stands, which is "" for the outermost.
    """
    value_at: dict[str, Any] = {}
    for key, value in values.items():
        if key == "*":
            path = prefix
        elif prefix:
            path = f"{prefix}.{key}"
        else:
            path = str(key)
        if isinstance(value, Mapping):
            value_at.update(_flatten(value, path))
        else:
            value_at[path] = value
    return value_at


def _check_paths(value_at: Iterable[str], groups: Mapping[str, Iterable[str]], what: str) -> None:
    """Raises ValueError, with the nearest names, for a path that is no group and no module."""
    parameters: list[str] = []
    for names in groups.values():
        parameters.extend(names)
    for path in value_at:
        is_module = any(_covers(path, name) for name in parameters)
        if path in groups or is_module:
            continue
        modules = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
        hint = did_you_mean(path, [*groups, *filter(None, modules)], count=3)
        raise ValueError(f"no layer group and no module is called {path!r} ({what}); {hint}")


def _path_that_counts(
    group: str, parameters: Sequence[str], value_at: Iterable[str], what: str
) -> str:
    """The group's own name if it is among the paths, or else the longest path that covers it.

    Raises ValueError where there is none, and for a path that covers a part of the group only.
    """
    # A group that is named after a module may have something behind it, such as a norm. The paths
    # that cover the group are then those that cover the module.
    names_in_module = [name for name in parameters if f".{group}." in f".{name}"]
    names_to_cover = names_in_module or parameters
    covering = []
    for path in value_at:
        if path == group or all(_covers(path, name) for name in names_to_cover):
            covering.append(path)
        elif any(_covers(path, name) for name in parameters):
            raise ValueError(
                f"{path!r} is a part of layer group {group!r} only, which has one {what}; "
                "begin a group there with split="
            )
    if not covering:
        raise ValueError(f"layer group {group!r} has no {what}; name it, or add '*' for the rest")
    if group in covering:
        return group
    return max(covering, key=len)


def _covers(path: str, parameter: str) -> bool:
    """Whether the path is that of the parameter or of a module around it; "" covers all."""
    return not path or parameter == path or parameter.startswith(f"{path}.")
