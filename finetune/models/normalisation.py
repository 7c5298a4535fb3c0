"""What normalisation layers do in training: an explicit policy for each layer group.

BatchNorm normalises with the statistics of the batch and moves its running statistics ("train"), or
it normalises with the running statistics and leaves them alone ("eval"). See `LayerGroup.norm`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from finetune import arguments

NormPolicy: TypeAlias = Literal["eval", "train", "follow"]
NORM_POLICIES: tuple[NormPolicy, ...] = ("eval", "train", "follow")


def has_running_statistics(module: nn.Module) -> bool:
    """Whether the module keeps running statistics, as BatchNorm and its relatives do."""
    mean, variance = _running_statistics(module)
    return isinstance(mean, Tensor) or isinstance(variance, Tensor)


def default_policy(modules: Sequence[nn.Module], *, last: bool) -> NormPolicy:
    """The policy of a group for which the user named none.

    It is "eval" where running statistics hold something learned, as in a pretrained backbone: a few
    small batches would spoil them. It is "follow" where they still have their initial values, and
    in the last group, which is the new head.
    modules: those of the group. last: whether the group is the last one.
    """
    if last:
        return "follow"
    if any(_has_learned_statistics(module) for module in modules):
        return "eval"
    return "follow"


def named_policies(
    norm: NormPolicy | Mapping[str, NormPolicy] | None, names: Sequence[str]
) -> dict[str, NormPolicy]:
    """Group name -> policy, of the groups for which the user named one.

    norm: one policy for all groups but the last (or for the only one), or policies by group name,
    or None. names: of all groups. Raises ValueError for an unknown policy or group.
    """
    if norm is None:
        return {}
    if isinstance(norm, Mapping):
        policies = dict(norm)
    else:
        all_but_last = names[:-1] or names
        policies = dict.fromkeys(all_but_last, norm)
    for name, policy in policies.items():
        if name not in names:
            raise ValueError(f"norm names group {name!r}; the groups are {', '.join(names)}")
        arguments.choice("norm", policy, NORM_POLICIES)
    return policies


def normalisation_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of normalisation layers, which torch and timm call so."""
    names: set[str] = set()
    for path, module in model.named_modules():
        is_called_so = "norm" in type(module).__name__.lower()
        # a block such as PreNormAttention is called so, too, but has layers inside
        has_layers_inside = any(list(child.parameters()) for child in module.children())
        if is_called_so and not has_layers_inside:
            names.update(name for name, _ in module.named_parameters(prefix=path, recurse=False))
    return frozenset(names)


def _running_statistics(module: nn.Module) -> tuple[object, object]:
    """Running mean and variance; None, or something else, for a module that keeps none."""
    return getattr(module, "running_mean", None), getattr(module, "running_var", None)


def _has_learned_statistics(module: nn.Module) -> bool:
    """Whether running statistics differ from the initial ones, mean 0 and variance 1."""
    mean, variance = _running_statistics(module)
    return _differs(mean, 0.0) or _differs(variance, 1.0)


def _differs(statistic: object, initial: float) -> bool:
    if not isinstance(statistic, Tensor) or statistic.is_meta:  # there are no values to compare
        return False
    return bool(torch.any(statistic != initial))
