"""Which parameters weight decay leaves alone, beside those of normalisation layers."""

from torch import nn


def undecayed_parameters(model: nn.Module) -> frozenset[str]:
    """Names of all biases, and of what the modules' own `no_weight_decay()` list."""
    leaves = {name: name.rpartition(".")[2] for name, _ in model.named_parameters()}
    names = {
        name  # bias, in_proj_bias of attention, bias_hh_l0 of recurrent layers
        for name, leaf in leaves.items()
        if leaf == "bias" or leaf.endswith("_bias") or leaf.startswith("bias_")
    }
    for path, module in model.named_modules():
        listed = getattr(module, "no_weight_decay", None)
        if callable(listed):
            names |= {f"{path}.{name}" if path else name for name in listed()}
    return frozenset(names)
