"""Several processes under torchrun: who am I, what is the mean, and the wrapping of the model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def total(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def interleaved(values: Tensor, count: int) -> Tensor:
    """Rows of all processes in turn: row i is of process i % world_size. count: of all rows."""
    if not dist.is_initialized():
        return values
    rows = torch.zeros(count, *values.shape[1:], dtype=values.dtype, device=values.device)
    mine = rows[rank() :: world_size()]
    mine[:] = values[: len(mine)]
    return total(rows)


def share_buffers(model: nn.Module) -> None:
    """Running statistics of the first process everywhere, so that all evaluate the same model."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def share_weights(model: nn.Module) -> None:
    """Weights and buffers of the first process everywhere, as `wrapped` does for what it wraps."""
    share_buffers(model)
    if dist.is_initialized():
        for parameter in model.parameters():
            dist.broadcast(parameter.detach(), 0)


@contextmanager
def wrapped(model: nn.Module) -> Iterator[nn.Module]:
    """The model with gradients averaged over all processes.

    Enter it inside a phase, after freezing: parameters that are unfrozen under an existing
    wrapper would silently diverge between the processes.
    """
    if not dist.is_initialized():
        yield model
        return
    device = next(model.parameters()).device
    yield DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process, so that all of them stop at the same step."""
    if not dist.is_initialized():
        return flag
    return bool(total(torch.tensor(float(flag), device=device)).item())
