"""Which parameters weight decay leaves alone, beside those of normalisation layers."""

from torch import nn

from finetune.models.module_order import join_path


def undecayed_parameters(model: nn.Module) -> frozenset[str]:
    """Names of all biases, and of what the modules' own `no_weight_decay()` list."""
    names = {name for name, _ in model.named_parameters() if _is_bias(name)}
    for path, module in model.named_modules():
        no_weight_decay = getattr(module, "no_weight_decay", None)
        if callable(no_weight_decay):
            names.update(join_path(path, name) for name in no_weight_decay())
    return frozenset(names)


def _is_bias(name: str) -> bool:
    """Whether a parameter is a bias: bias, in_proj_bias of attention, bias_hh_l0 of an LSTM."""
    last_word = name.rpartition(".")[2]
    return last_word == "bias" or last_word.endswith("_bias") or last_word.startswith("bias_")
