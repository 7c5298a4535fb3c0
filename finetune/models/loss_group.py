"""The module behind a loss, and the layer group of its parameters, as ArcFace and others have."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from finetune.models.evaluation_view import evaluation_view
from finetune.models.layer_group import LayerGroup
from finetune.models.partition import can_train
from finetune.models.weight_decay import undecayed_parameters

NAME = "loss"


def module_of(loss: Any) -> nn.Module | None:
    """The module behind a loss, also behind a `functools.partial` or a method of it; or None."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    owner = getattr(loss, "__self__", loss)
    return owner if isinstance(owner, nn.Module) else None


def placed(loss: Any, device: torch.device) -> Any:
    """The loss on a device: its module, and the tensors and modules that a partial passes to it.

    A module is moved in place. A partial is made anew, because it can't be changed.
    """
    if isinstance(loss, functools.partial):
        positional = [_moved(argument, device) for argument in loss.args]
        named = {name: _moved(argument, device) for name, argument in loss.keywords.items()}
        return functools.partial(placed(loss.func, device), *positional, **named)
    module = module_of(loss)
    if module is not None:
        module.to(device)
    return loss


def _moved(argument: Any, device: torch.device) -> Any:
    return argument.to(device) if isinstance(argument, Tensor | nn.Module) else argument


def evaluation_loss(loss: Any) -> Any:
    """The loss to evaluate with: in eval mode, and what it counts there is not kept.

    It shares the parameters of the loss, whose mode and buffers stay as they are.
    """
    if isinstance(loss, functools.partial):
        return functools.partial(evaluation_loss(loss.func), *loss.args, **loss.keywords)
    module = module_of(loss)
    if module is None:
        return loss
    view = evaluation_view(module, copies_buffers=True)
    is_method = module is not loss
    return getattr(view, loss.__name__) if is_method else view


def loss_parameters(loss: nn.Module | None, model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a loss that are not the model's, under "loss.NAME"."""
    if loss is None:
        return {}
    of_model = {id(parameter) for parameter in model.parameters()}
    parameters = {}
    for name, parameter in loss.named_parameters(prefix=NAME):
        if can_train(parameter) and id(parameter) not in of_model:
            parameters[name] = parameter
    return parameters


def create_loss_group(loss: nn.Module | None, model: nn.Module) -> LayerGroup | None:
    """The group of a loss, which is never frozen; None for one without parameters.

    Raises ValueError if the model has parameters of the same names.
    """
    parameters = loss_parameters(loss, model)
    if loss is None or not parameters:
        return None
    shared_names = parameters.keys() & {name for name, _ in model.named_parameters()}
    if shared_names:
        raise ValueError(
            f"the model has a parameter {min(shared_names)!r}, which is what a parameter of the "
            "loss is called here; rename the model's module"
        )
    group = LayerGroup(NAME, parameters, [], "follow")
    group.no_decay = undecayed_of_loss(loss) & parameters.keys()
    return group


def undecayed_of_loss(loss: nn.Module) -> frozenset[str]:
    """Names of the parameters of a loss that weight decay leaves alone, such as biases."""
    return frozenset(f"{NAME}.{name}" for name in undecayed_parameters(loss))
