"""Sharding: each process keeps a part of every weight, by torch's `fully_shard` (FSDP2).

A weight that is sharded is a DTensor: it has the shape of the whole, and `local` is the part of
this process, along its first dimension. Gradients and the optimizer's state are sharded likewise.
A forward or backward pass brings the whole weights of one module at a time together, in which all
processes take part. In one process nothing is sharded, and everything here does nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

_TORCH_OF_FSDP = "torch.distributed.fsdp"


def shard(model: nn.Module, units: Sequence[nn.Module], device: torch.device) -> None:
    """Shards a model in place, with the weights and buffers of the first process.

    units: modules inside the model, none inside another one, whose whole weights are brought
    together for themselves, from which the memory is saved; what is outside of them is one unit
    more. In all processes but the first, weights may be on the meta device: the first process
    sends what it has, unit by unit, so that no device ever has more than one unit as a whole.
    Raises ValueError for weights that the first process does not have, and RuntimeError where torch
    is too old.
    """
    fully_shard = _fully_shard()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in (*units, model):
        _receive_from_first(module, device)
        module.register_forward_hook(_no_views)
        # a single number has no part for each process
        numbers = {parameter for parameter in module.parameters() if not parameter.dim()}
        # the outermost one, too: between two passes the model has nothing but its shards
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=numbers)
        # torch made a class of its own for it, and layers are known by the names of their classes
        of_torch, original = type(module), type(module).__mro__[2]
        of_torch.__name__, of_torch.__qualname__ = original.__name__, original.__qualname__


def _no_views(module: nn.Module, inputs: Any, output: Any) -> Any:
    """The output, copied where it is a view of something.

    torch's hook for the backward pass is on the output, and lost where a view is changed in place.
    """
    is_view = isinstance(output, Tensor) and output._is_view()
    return output.clone() if is_view else output


def _fully_shard() -> Callable[..., Any]:
    import torch.distributed.fsdp as fsdp

    # the last part of it to come, by which a pass that was left can be forgotten
    module_class = getattr(fsdp, "FSDPModule", None)
    if not hasattr(module_class, "reset_iter_state"):
        raise RuntimeError(
            f"sharding='full' needs a newer torch than {torch.__version__}; update it with "
            "pip install -U torch, or leave sharding= out"
        )
    return fsdp.fully_shard


def _receive_from_first(module: nn.Module, device: torch.device) -> None:
    """Brings what is not sharded yet to the device, as the first process has it."""
    received: dict[int, Tensor] = {}  # by identity, as a tied weight stays one
    for owner in module.modules():
        for tensors in (owner._parameters, owner._buffers):
            for name, tensor in tensors.items():
                if tensor is None or is_sharded(tensor):
                    continue
                if id(tensor) not in received:
                    received[id(tensor)] = _received(name, tensor, device)
                tensors[name] = received[id(tensor)]  # type: ignore[assignment]


@torch.no_grad()
def _received(name: str, tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.is_meta and dist.get_rank() == 0:
        raise ValueError(
            f"{name!r} is on the meta device in the first process, from which the others have "
            "their weights; make the model on another device there"
        )
    if tensor.is_meta:
        value = torch.empty_like(tensor, device=device, memory_format=torch.contiguous_format)
    else:
        value = tensor.detach().to(device, memory_format=torch.contiguous_format)
    dist.broadcast(value, 0)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value, requires_grad=tensor.requires_grad)
    return value


def is_sharded(thing: nn.Module | Tensor) -> bool:
    """Whether a tensor is sharded, or a model's parameters are."""
    if isinstance(thing, Tensor):
        return isinstance(thing, DTensor)
    # asked before every pass, and mostly where there is one process
    if not dist.is_initialized():
        return False
    return any(isinstance(parameter, DTensor) for parameter in thing.parameters())


def forget_pass(model: nn.Module) -> None:
    """Makes a model ready for the next pass, after one that was left before its end."""
    if is_sharded(model):
        model.reset_iter_state()  # type: ignore[operator]


def is_of_sharding(hook: object) -> bool:
    """Whether a module's hook is one by which sharded weights come together."""
    if hook is _no_views:
        return True
    owner = getattr(hook, "__self__", None)
    return type(owner).__module__.startswith(_TORCH_OF_FSDP)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has, in the same memory; itself if it is whole.

    What is computed of each number by itself is computed of the parts, as the same in all of them.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, of which all processes ask together; itself if it is not sharded."""
    if not isinstance(tensor, DTensor):
        return tensor
    mesh = tensor.device_mesh
    with torch.no_grad():
        # a part that is kept in main memory is exchanged where the group can do it
        part = tensor.to_local().to(mesh.device_type)
        on_device = DTensor.from_local(
            part, mesh, tensor.placements, run_check=False, shape=tensor.shape,
            stride=tensor.stride(),
        )  # fmt: skip
        return on_device.full_tensor()


def sharded_like(value: Tensor, present: Tensor | None) -> Tensor:
    """A whole tensor, which every process has, as one that is sharded as `present` is.

    The value itself where that is not sharded, or has another shape.
    """
    if not isinstance(present, DTensor) or value.shape != present.shape:
        return value
    # without a source, no process sends anything: each takes its part of its own value
    return distribute_tensor(
        value.detach().to(present.device, present.dtype),
        present.device_mesh,
        present.placements,
        src_data_rank=None,
    )


def sharded_content(
    content: Mapping[str, Any], present: Mapping[str, Tensor | None]
) -> dict[str, Any]:
    """Whole tensors by name, or the state of each name, sharded as the present tensors are."""
    result = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            value = sharded_content(value, dict.fromkeys(value, present.get(name)))
        elif isinstance(value, Tensor):
            value = sharded_like(value, present.get(name))
        result[name] = value
    return result


def whole_content(content: Any) -> Any:
    """Mappings and lists of tensors and plain data, with whole tensors in the first process.

    All processes ask together. In the others the sharded tensors are None: one process writes what
    they make a file of, and no other one needs room for it. Those of the first are on the CPU.
    """
    if isinstance(content, DTensor):
        tensor = whole(content)
        return tensor.cpu() if dist.get_rank() == 0 else None
    if isinstance(content, Mapping):
        return {key: whole_content(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(whole_content(value) for value in content)
    return content


@torch.no_grad()
def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm over all numbers of one or more tensors, a float32 scalar on their device.

    All processes ask together if one of the tensors is sharded.
    """
    parts = [local(tensor) for tensor in tensors if is_sharded(tensor)]
    others = [tensor for tensor in tensors if not is_sharded(tensor)]
    norms = [norm_of_one.float() for norm_of_one in torch._foreach_norm(others)] if others else []
    if parts:
        square = torch.stack(torch._foreach_norm(parts)).float().square().sum()
        dist.all_reduce(square)
        norms.append(square.sqrt())
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> None:
    """As `torch.nn.utils.clip_grad_norm_`, for sharded parameters among others."""
    gradients = list(_gradients(parameters))
    if not gradients:
        return
    factor = (max_norm / (norm(gradients) + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([local(gradient) for gradient in gradients], factor)


def _gradients(parameters: Sequence[Tensor]) -> Iterator[Tensor]:
    for parameter in parameters:
        if parameter.grad is not None:
            yield parameter.grad
