"""Training in several processes under torchrun; in one process everything here does nothing."""

import atexit
import pickle
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from finetune import launch
from finetune.distributed.sharding import is_sharded
from finetune.distributed.together import introduce
from finetune.nested import map_tensors

_Result = TypeVar("_Result")


def join(device: torch.device) -> None:
    """Joins the processes that torchrun has started, and parts them when this one ends.

    device: of this process, on which the processes exchange gradients. Does nothing without
    torchrun, and where they have been joined already, by the caller or by an earlier call.
    """
    if dist.is_initialized():
        introduce()
        return
    if launch.world_size() == 1:
        return
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # numbers that decide what comes next go through the CPU, so that nothing waits for the GPU
        backend = "cpu:gloo,cuda:nccl"
    store, number, count = next(rendezvous("env://"))
    # processes that torchrun started anew must not find the addresses of those before them
    store = dist.PrefixStore(f"attempt {launch.attempt()}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    atexit.register(_part, dist.group.WORLD)
    introduce()


def _part(group: dist.ProcessGroup | None) -> None:
    """Ends a group that was made here, unless the caller has ended it."""
    # after an error the others may be waiting, and NCCL would wait for them in turn
    has_failed = getattr(sys, "last_value", None) is not None
    if not has_failed and dist.is_initialized() and dist.group.WORLD is group:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this is the process that prints, and writes files, of all that were launched.

    Known before the processes are joined.
    """
    if not dist.is_initialized():
        return launch.rank() == 0
    return dist.get_rank() == 0


def rank() -> int:
    """The number of this process, from 0."""
    if not dist.is_initialized():
        return 0
    return dist.get_rank()


def world_size() -> int:
    """The number of processes."""
    if not dist.is_initialized():
        return 1
    return dist.get_world_size()


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes; changes the tensor in place and returns it."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def stacked(values: Tensor) -> Tensor:
    """The tensors of all processes, in their order, as one with a first dimension more.

    values: of the same shape and type in each.
    """
    if not dist.is_initialized():
        return values[None]
    of_all = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(of_all, values.contiguous())
    return torch.stack(of_all)


@dataclass(frozen=True, slots=True)
class Share:
    """Which examples of a batch of all processes this one has.

    counts: how many each process has. rows: the places of this process's among all.
    """

    counts: tuple[int, ...]
    rows: slice

    @property
    def count(self) -> int:
        """The examples of the batch."""
        return sum(self.counts)

    @property
    def examples(self) -> int:
        """Those of this process."""
        return self.counts[rank()]

    def whole(self, values: Tensor) -> Tensor:
        """The rows of all processes, [count, ...].

        values: [N, ...], those of this process; what is behind its share is left out.
        """
        if not dist.is_initialized():
            return values
        whole = torch.zeros(self.count, *values.shape[1:], dtype=values.dtype, device=values.device)
        whole[self.rows] = values[: self.examples]
        # all processes hold zeros in the rows of the others, so that the sum has every row once
        return total(whole)


def share_of(examples: int) -> Share:
    """The share of a batch that a process has with so many examples; all processes ask together.

    Our loaders deal the examples of a batch out in turn. Where the numbers are others, the caller's
    loader divides its batches in some way of its own: every process has a stretch of its own then.
    """
    if not dist.is_initialized():
        return Share((examples,), slice(None))
    numbers = torch.zeros(world_size(), dtype=torch.int64, device=_device_of_numbers())
    numbers[rank()] = examples
    counts = tuple(total(numbers).tolist())
    if counts == _dealt_out(sum(counts)).counts:
        return _dealt_out(sum(counts))
    start = sum(counts[: rank()])
    return Share(counts, slice(start, start + examples))


def _dealt_out(count: int) -> Share:
    """The share of so many examples that are dealt out in turn."""
    counts = [len(range(first, count, world_size())) for first in range(world_size())]
    return Share(tuple(counts), slice(rank(), None, world_size()))


def _device_of_numbers() -> torch.device:
    """Where numbers that the host needs are exchanged: on the CPU, unless the group has no way."""
    if "cpu:" in dist.get_backend_config():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def interleaved(values: Tensor, count: int) -> Tensor:
    """The rows of all processes in turn: row i is of process i % world_size.

    values: [N, ...], the rows of this process; rows beyond its share, with which a sampler fills
    up, are left out. count: the number of all rows. Returns [count, ...].
    """
    return _dealt_out(count).whole(values)


def gathered(value: Any, device: torch.device) -> list[Any]:
    """The values of all processes, in their order, with tensors on the device.

    value: a structure of tensors, which may differ in size between processes, or None.
    """
    # through the CPU, since a tensor of another process is on another device
    values = gathered_objects(map_tensors(lambda tensor: tensor.cpu(), value))
    return [map_tensors(lambda tensor: tensor.to(device), value) for value in values]


def gathered_objects(value: Any) -> list[Any]:
    """The values of all processes, in their order; they can be pickled."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def share_buffers(model: nn.Module) -> None:
    """Copies the buffers of the first process to all, so that all evaluate the same model."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def share_moving_buffers(model: nn.Module) -> None:
    """As `share_buffers`, of the modules in train mode: as `Averaged` does in each forward pass."""
    if dist.is_initialized():
        for module in model.modules():
            if module.training:
                for buffer in module.buffers(recurse=False):
                    dist.broadcast(buffer, 0)


def share_weights(model: nn.Module) -> None:
    """Copies weights and buffers of the first process to all, as `Averaged` does for its model."""
    share_buffers(model)
    if dist.is_initialized():
        for parameter in model.parameters():
            if not is_sharded(parameter):  # of those each process has its own part
                dist.broadcast(parameter.detach(), 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> bool:
    """Averages the gradients over all processes, as `Averaged` does for its model.

    A process without a gradient counts as one with 0. Returns whether all parameters have one in
    all processes; what has none in any process stays so, as an optimizer does not move it.
    """
    training = [parameter for parameter in parameters if parameter.requires_grad]
    if not dist.is_initialized() or not training:
        return True
    has_gradient = [float(parameter.grad is not None) for parameter in training]
    used_by = total(torch.tensor(has_gradient, device=_device_of_numbers())).tolist()
    for parameter, users in zip(training, used_by, strict=True):
        # every process takes part for every parameter, or they would wait for each other
        if users:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            total(parameter.grad).div_(world_size())
    return all(users == world_size() for users in used_by)


class Averaged(nn.Module):
    """A model whose gradients are averaged over all processes; it begins with equal weights.

    torch's wrapper does so while the backward pass runs, but has to know beforehand whether the
    loss uses all parameters, and takes longer where it does not. The first step shows it.

    Make one inside a phase, after freezing: parameters that are unfrozen under an existing wrapper
    would silently diverge between the processes. Gradients of a sharded model are averaged by what
    brings its weights together, in every backward pass, and only those of whole weights are here.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        share_weights(model)
        self.model = model
        self._wrapper: DistributedDataParallel | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        net = self.model if self._wrapper is None else self._wrapper
        return net(*args, **kwargs)

    def without_exchange(self) -> AbstractContextManager[None]:
        """Put it around all but the last forward and backward pass of a step."""
        if self._wrapper is None:
            return nullcontext()
        return self._wrapper.no_sync()

    def end_step(self) -> None:
        """Averages the gradients, unless torch's wrapper has done it; call it behind the passes."""
        if self._wrapper is not None:
            return
        parameters = [p for p in self.model.parameters() if not is_sharded(p)]
        uses_all = average_gradients(parameters)
        if is_sharded(self.model):
            return
        device = next(self.model.parameters()).device
        self._wrapper = DistributedDataParallel(
            self.model,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=not uses_all,
        )


def averaged(model: nn.Module) -> nn.Module:
    """The model with gradients averaged over all processes; itself, where there is one."""
    return Averaged(model) if dist.is_initialized() else model


def of_first(work: Callable[[], _Result]) -> _Result:
    """What the first process gets by a call that it alone makes; its error is raised in all.

    So the others wait for it, and see the files that it sees. The result is plain data and tensors
    on the CPU.
    """
    if not dist.is_initialized():
        return work()
    result: list[Any] = [None, None]
    if rank() == 0:
        try:
            result = [work(), None]
        except Exception as error:
            result = [None, _can_travel(error)]
    dist.broadcast_object_list(result, 0)
    if result[1] is not None:
        raise result[1]
    return result[0]  # type: ignore[no-any-return]


def _can_travel(error: Exception) -> Exception:
    """The error, or one with its words, if its class can't be built from its arguments."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any of the processes, which thus decide alike."""
    if not dist.is_initialized():
        return flag
    return bool(total(torch.tensor(float(flag), device=_device_of_numbers())).item())
