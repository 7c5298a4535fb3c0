"""The ways to say one value per layer group: alike, in order, by name or path, as a structure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from finetune.wording import did_you_mean

T = TypeVar("T")
PerGroup: TypeAlias = T | Sequence[T] | Mapping[Any, Any]
"""One value for all groups, a sequence of one per group, or a mapping, see `per_group`."""


@dataclass(frozen=True, slots=True)
class LayerDecay:
    """Layer-wise decay: the last group has `value`, each one below `factor` times the next one's.

    Of n groups, group i has `value * factor ** (n - 1 - i)` (Clark et al. 2020, ELECTRA; Bao et al.
    2021, BEiT). Use it with `split="layers"`.

    >>> LayerDecay(1e-3, 0.5).spread(3)
    [0.00025, 0.0005, 0.001]
    """

    value: float
    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1:
            raise ValueError(f"the factor of LayerDecay needs 0 < factor <= 1, got {self.factor}")

    def spread(self, count: int) -> list[float]:
        return [self.value * self.factor ** (count - 1 - i) for i in range(count)]


LearningRates: TypeAlias = float | slice | LayerDecay | PerGroup[float]
"""See `LayerGroups.spread`."""


def per_group(groups: Mapping[str, Iterable[str]], given: PerGroup[T], what: str) -> tuple[T, ...]:
    """One value per group, first layers first.

    groups: name -> names of its parameters. given: a list or tuple has one value per group. The
    keys of a mapping are names of groups, paths of modules ("backbone" for every group inside of
    it), and "*" for the rest; the more exact one counts. Mappings may be nested as the modules are:
    `{"backbone": {"layer4": 1, "*": 2}, "head": 3}`. Anything else is every group's value.
    what: "learning rate", say, for errors. Raises ValueError for a key that is no group and no
    path, or a path that ends inside a group, and for groups without a value.

    >>> groups = {"body": ["0.conv.weight", "0.norm.weight"], "head": ["1.weight"]}
    >>> per_group(groups, {"0": 1e-4, "head": 1e-2}, "learning rate")
    (0.0001, 0.01)
    """
    given = _plain(given)
    if isinstance(given, Mapping):
        by_path = dict(_flat(given))
        _check_keys(by_path, groups, what)
        return tuple(_value(by_path, name, list(inside), what) for name, inside in groups.items())
    if isinstance(given, Sequence) and not isinstance(given, str):
        if len(given) != len(groups):
            listed = ", ".join(groups)
            raise ValueError(f"got {len(given)} {what}s for {len(groups)} groups ({listed})")
        return tuple(given)
    return (given,) * len(groups)


def _flat(given: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Path -> value; "*" is the path of what it stands in, "" for all."""
    for key, value in given.items():
        path = prefix if key == "*" else f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, path)
        else:
            yield path, value


def _covers(path: str, parameter: str) -> bool:
    return not path or parameter == path or parameter.startswith(f"{path}.")


def _check_keys(by_path: Mapping[str, Any], groups: Mapping[str, Iterable[str]], what: str) -> None:
    parameters = [name for inside in groups.values() for name in inside]
    for path in by_path:
        if path not in groups and not any(_covers(path, name) for name in parameters):
            modules = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
            hint = did_you_mean(path, [*groups, *filter(None, modules)], count=3)
            raise ValueError(f"no layer group and no module is called {path!r} ({what}); {hint}")


def _value(by_path: Mapping[str, T], group: str, parameters: Sequence[str], what: str) -> T:
    """The group's name, or else the longest path that covers it; no longer one may cut it."""
    # a group that is named after a module, with a norm behind it, say, is where that module is
    main = [name for name in parameters if f".{group}." in f".{name}"] or parameters
    covering = [path for path in by_path if all(_covers(path, name) for name in main)]
    best = group if group in by_path else max(covering, key=len, default=None)
    for path in by_path:
        inside = [_covers(path, name) for name in parameters]
        if path != best and path not in covering and any(inside) and not all(inside):
            raise ValueError(
                f"{path!r} is a part of layer group {group!r} only, which has one {what}; "
                "begin a group there with split="
            )
    if best is None:
        raise ValueError(f"layer group {group!r} has no {what}; name it, or add '*' for the rest")
    return by_path[best]


def spread(groups: Mapping[str, Iterable[str]], lr: LearningRates) -> tuple[float, ...]:
    """Learning rates, see `LayerGroups.spread`."""
    given: PerGroup[float] = _plain(lr)
    if isinstance(lr, slice):
        given = _spread_slice(lr, len(groups))
    elif isinstance(lr, LayerDecay):
        given = lr.spread(len(groups))
    rates = per_group(groups, given, "learning rate")
    return numbers(rates, "learning rates", shown=lr)


def numbers(
    values: Iterable[Any], name: str, present: Sequence[float] = (), *, shown: object = None
) -> tuple[float, ...]:
    """As plain floats: no numpy number gets into a plan.

    present: values of the same hyper-parameter; it may be negative if they are. Raises ValueError
    for what is no number, not finite, or no possible value. shown: in the message.
    """
    values = list(values)
    shown = values if shown is None else shown
    for value in values:
        if isinstance(value, str) or not hasattr(value, "__float__"):
            raise ValueError(f"{name} must be numbers, got {value!r} in {shown!r}")
    floats = tuple(float(value) for value in values)
    if name in ("lr", "learning rates"):
        if not all(value > 0 and math.isfinite(value) for value in floats):
            raise ValueError(f"learning rates must be positive and finite, got {shown!r}")
    elif not all(math.isfinite(v) and (v >= 0 or min(present, default=0) < 0) for v in floats):
        raise ValueError(f"{name} must not be negative, and finite, got {shown!r}")
    elif name.startswith(("momentum", "beta")) and max(floats) > 1:
        raise ValueError(f"{name} must not be above 1, got {shown!r}")
    return floats


def _plain(given: Any) -> Any:
    """Arrays and tensors as numbers and lists."""
    return given.tolist() if hasattr(given, "tolist") else given


def _spread_slice(lr: slice, count: int) -> list[float]:
    low, high = lr.start, lr.stop
    if lr.step is not None or high is None or not high > 0 or (low is not None and not low > 0):
        raise ValueError(
            f"learning rates need slice(hi) or slice(lo, hi) with positive rates: {lr}"
        )
    if low is None:
        return [high / 10] * (count - 1) + [float(high)]
    if count == 1:
        return [float(high)]
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]
