"""What normalisation layers do in training, told by policy instead of by accident."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

NormPolicy: TypeAlias = Literal["eval", "train", "follow"]
NORM_POLICIES: tuple[NormPolicy, ...] = ("eval", "train", "follow")


def has_running_statistics(module: nn.Module) -> bool:
    """Whether the module keeps running statistics, as BatchNorm and its relatives do."""
    return any(
        isinstance(getattr(module, name, None), Tensor) for name in ("running_mean", "running_var")
    )


def default_policy(modules: list[nn.Module], *, last: bool) -> NormPolicy:
    learned = any(has_running_statistics(m) and _statistics_are_learned(m) for m in modules)
    return "eval" if learned and not last else "follow"


def _statistics_are_learned(module: nn.Module) -> bool:
    mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    moved = [mean != 0] if isinstance(mean, Tensor) and not mean.is_meta else []
    moved += [var != 1] if isinstance(var, Tensor) and not var.is_meta else []
    return any(bool(torch.any(m)) for m in moved)


def named_policies(
    norm: NormPolicy | Mapping[str, NormPolicy] | None, names: list[str]
) -> dict[str, NormPolicy]:
    if norm is None:
        return {}
    if isinstance(norm, str) and norm not in NORM_POLICIES:
        raise ValueError(f"norm must be one of {', '.join(NORM_POLICIES)}, got {norm!r}")
    policies = dict(norm) if isinstance(norm, Mapping) else dict.fromkeys(names[:-1] or names, norm)
    for name, policy in policies.items():
        if name not in names:
            raise ValueError(f"norm names group {name!r}; the groups are {', '.join(names)}")
        if policy not in NORM_POLICIES:
            raise ValueError(f"norm must be one of {', '.join(NORM_POLICIES)}, got {policy!r}")
    return policies


def normalisation_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of normalisation layers, told by torch's or timm's naming."""
    return frozenset(
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and not any(list(child.parameters()) for child in module.children())
        for name, _ in module.named_parameters(recurse=False)
    )
