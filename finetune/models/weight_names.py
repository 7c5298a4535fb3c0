"""Whose weights the tensors of a file are: prefixes of names, and sizes of position tables."""

import sys
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

_COMPILED = "_orig_mod."
"""What torch.compile() puts into names, wherever the compiled module is."""


def tensors_of(backbone: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights under the names of the backbone, for a model of which it may be a part.

    A prefix that stands before all of its names ("module." of a parallel model, "model.",
    "backbone." of our own exports, or any other) is taken away. Position tables of another image
    size are resampled, where timm can do that. What does not fit is left as it is.
    Raises ValueError if the backbone is there several times, under different prefixes.
    """
    wanted = backbone.state_dict()
    named = {name.replace(_COMPILED, ""): tensor for name, tensor in weights.items()}
    prefix = _prefix_of(wanted, named)
    tensors = {}
    for name, tensor in named.items():
        if name.startswith(prefix):
            tensors[name.removeprefix(prefix)] = tensor
    has_other_sizes = any(
        name in tensors and tensors[name].shape != tensor.shape for name, tensor in wanted.items()
    )
    if has_other_sizes:
        return _resampled(backbone, tensors)
    return tensors


def _prefix_of(wanted: Iterable[str], names: Iterable[str]) -> str:
    """What stands before the names that are wanted, where most of them are; maybe nothing.

    >>> _prefix_of(["conv.weight"], ["module.conv.weight", "module.fc.weight"])
    'module.'
    """
    present = set(names)
    wanted = set(wanted)
    counts = {"": len(wanted & present)}
    # the end of a name may be that of a deeper layer, so all beginnings are tried
    for name in present:
        modules = name.split(".")
        for depth in range(1, len(modules)):
            prefix = ".".join(modules[:depth]) + "."
            if name.removeprefix(prefix) in wanted:
                counts[prefix] = counts.get(prefix, 0) + 1
    most = max(counts.values())
    best = [prefix for prefix, count in counts.items() if count == most]
    if "" in best:
        return ""
    if len(best) > 1 and most == len(wanted):
        raise ValueError(
            f"holds several models that fit, under {' and '.join(map(repr, sorted(best)))}; pass "
            "a mapping with the tensors of one"
        )
    return min(best, key=len)


def _resampled(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors as timm makes them fit a model for another image size."""
    module = sys.modules[type(backbone).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        converted: Mapping[str, Tensor] = convert(dict(tensors), backbone)
    except Exception:  # tensors of another architecture, of which the shapes are told then
        return tensors
    return converted
