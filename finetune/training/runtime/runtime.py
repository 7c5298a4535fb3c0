"""Runtime: on which device, in which precision and memory layout a model runs."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from finetune import arguments, distributed, launch
from finetune.distributed.sharding import is_sharded, shard
from finetune.distributed.together import together
from finetune.models.units import sharding_units
from finetune.training.runtime.convolutions import Convolutions
from finetune.training.runtime.modules import computes_again

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
PrecisionChoice: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
Sharding: TypeAlias = Literal["full"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a model runs.

    Two runtimes give results that differ by rounding only; one gives the same bits every time. So a
    runtime is chosen by facts of the hardware and the model, and never by a measurement of speed:
    on a busy machine the same script would end with other weights.

    precision: of the forward pass; weights, loss and updates are always float32. channels_last:
    the memory layout of convolutions. convolutions: on a CPU, our gradients of convolutions, see
    `Convolutions`. fold: norms in eval mode become part of the convolutions before them, see
    `FoldedNorms`. compile: through torch.compile, which is worth its minutes in long runs only, and
    never chosen by the library. sharding: "full" for a model that is too large for one device:
    under torchrun each process keeps a part of all weights, gradients and optimizer state, see
    `finetune.distributed.sharding`; never chosen by the library either. automatic: the library
    chose this runtime, so that a run that is resumed on another machine may keep the one that it
    began with.

    >>> runtime = Runtime("cpu", "fp32")
    >>> runtime.device, runtime.precision
    (device(type='cpu'), 'fp32')
    """

    device: torch.device
    precision: Precision = "fp32"
    channels_last: bool = False
    convolutions: bool = False
    fold: bool = False
    compile: bool = False
    sharding: Sharding | None = None
    automatic: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", _of_this_process(checked_device(self.device)))
        arguments.choice("precision", self.precision, get_args(Precision))
        for name in ("channels_last", "convolutions", "fold", "compile", "automatic"):
            arguments.flag(name, getattr(self, name))
        if self.convolutions and self.device.type != "cpu":
            raise ValueError(f"convolutions=True is for CPUs, the device is {self.device}")
        if self.compile and (self.convolutions or self.fold):
            raise ValueError("compile=True goes without convolutions=True and fold=True")
        if self.sharding is not None:
            arguments.choice("sharding", self.sharding, get_args(Sharding))
            for name in ("channels_last", "fold", "compile"):
                if getattr(self, name):
                    raise ValueError(f"sharding={self.sharding!r} goes without {name}=True")

    def suited_to(self, model: nn.Module) -> "Runtime":
        """This runtime without what the model has no use for or can't be run with."""
        layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        on_cpu = self.device.type == "cpu"
        is_unsuited = _breaks_in_channels_last if on_cpu else _is_slow_in_channels_last
        takes_channels_last = _has_channels_last(model) and not any(map(is_unsuited, layers))
        can_speed_up = bool(layers) and not computes_again(model)
        return replace(
            self,
            channels_last=self.channels_last and takes_channels_last,
            convolutions=self.convolutions and can_speed_up,
            fold=self.fold and can_speed_up,
        )

    def place(self, model: nn.Module) -> nn.Module:
        """Moves the model to the device and into the layout, in place; returns it.

        With `sharding`, this process keeps its part of the weights, all of which place the model
        together. A sharded model stays as it is.
        """
        if is_sharded(model):
            return model
        if self.sharding is not None and distributed.world_size() > 1:
            with together("sharding of the model"):
                shard(model, sharding_units(model), self.device)
            return model
        model.to(self.device)
        if self.channels_last and _has_channels_last(model):
            return model.to(memory_format=torch.channels_last)
        return model.to(memory_format=torch.contiguous_format)

    def compiled(self, model: nn.Module) -> nn.Module:
        """The model to call: itself, or what torch.compile makes of it at its first call."""
        if not self.compile:
            return model
        return torch.compile(model)  # type: ignore[return-value]

    def autocast(self) -> AbstractContextManager[object]:
        """The context for a forward pass; the backward pass needs none.

        In fp32 it is none: `usual_modes` has left an autocast of the caller's.
        """
        convolutions = Convolutions() if self.convolutions else nullcontext()
        if self.precision == "fp32":
            return convolutions
        return self._autocast_with(convolutions)

    @contextmanager
    def _autocast_with(self, convolutions: AbstractContextManager[object]) -> Iterator[None]:
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        # the cache would keep all weights of a sharded model in half precision at once
        keeps_weights = self.sharding is None
        with torch.autocast(self.device.type, dtype, cache_enabled=keeps_weights), convolutions:
            yield

    def gradient_scaler(self) -> torch.amp.GradScaler | None:
        """A scaler for float16, whose gradients underflow without one; None otherwise."""
        if self.precision != "fp16":
            return None
        return torch.amp.GradScaler(self.device.type)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "device": self.device.type}

    def updated(self, saved: Mapping[str, Any]) -> "Runtime":
        """This runtime with the choices that `to_dict` recorded, on its own device.

        What an older version did not record stays as it is, and so does whether the model is
        sharded, with what goes without that.
        """
        names = ["precision", "convolutions"]
        if self.sharding is None:
            names += ["channels_last", "fold", "compile"]
        choices = {name: saved[name] for name in names if name in saved}
        return replace(self, **choices)

    def __str__(self) -> str:
        words = [str(self.device), self.precision]
        if self.channels_last:
            words.append("channels_last")
        if self.convolutions:
            words.append("own convolution gradients")
        if self.fold:
            words.append("folded norms")
        if self.compile:
            words.append("compiled")
        if self.sharding:
            words.append("sharded")
        return ", ".join(words)


def _has_channels_last(model: nn.Module) -> bool:
    """Whether all weights know the layout: those of a Conv3d have five dimensions, and don't."""
    return all(tensor.dim() != 5 for tensor in (*model.parameters(), *model.buffers()))


def _breaks_in_channels_last(convolution: nn.Conv2d) -> bool:
    """Whether torch 2.14 writes beyond its memory in the backward pass on a CPU."""
    is_pointwise = max(convolution.kernel_size) == 1
    return convolution.in_channels < 8 and is_pointwise and max(convolution.stride) > 1


def _is_slow_in_channels_last(convolution: nn.Conv2d) -> bool:
    """Whether a GPU may take longer in this layout, as it does for convolutions in groups.

    A training step of timm's ResNet-50 had 1.47 times the speed, one of RegNetY-016 0.68 times.
    """
    return convolution.groups > 1


def choose_runtime(
    device: str | torch.device | None = None,
    precision: PrecisionChoice = "auto",
    sharding: Sharding | None = None,
) -> Runtime:
    """The given device and precision, or else the best there are.

    device: None takes the first there is of cuda, mps and cpu. precision: "auto" takes bf16 where
    the hardware computes in it, fp16 on older GPUs, and fp32 elsewhere. sharding: "full" divides a
    model that is too large for one device among the processes of torchrun, see `Runtime`.
    `Runtime.suited_to` fits the answer to a model.
    """
    arguments.choice("precision", precision, get_args(PrecisionChoice))
    chosen_device = _best_device() if device is None else available_device(device)
    chosen_precision = _best_precision(chosen_device) if precision == "auto" else precision
    on_cpu = chosen_device.type == "cpu"
    # the units of a GPU that compute in half precision read this layout, as CPUs do
    # (EfficientNet-Lite0: 1.5 times the speed for a training step)
    on_tensor_cores = chosen_device.type == "cuda" and chosen_precision != "fp32"
    return Runtime(
        chosen_device,
        chosen_precision,
        # torch shards what is contiguous, and brings weights together inside of a pass only
        channels_last=(on_cpu or on_tensor_cores) and sharding is None,
        convolutions=on_cpu,
        fold=on_cpu and sharding is None,
        sharding=sharding,
        automatic=precision == "auto",
    )


def checked_device(device: str | torch.device) -> torch.device:
    """The device of this name, such as "cuda", "cuda:1", "mps" or "cpu".

    Raises TypeError for what is no name, and ValueError for one that torch does not have.
    """
    if isinstance(device, torch.device):
        return device
    rule = "device must be 'cuda', 'mps', 'cpu' or a torch.device"
    # torch takes a number for an accelerator's
    if not isinstance(device, str):
        raise TypeError(f"{rule}, got {arguments.shown(device)}")
    try:
        return torch.device(device)
    except RuntimeError:
        hint = "; of an NVIDIA or AMD GPU it is 'cuda'" if "gpu" in device.lower() else ""
        raise ValueError(f"{rule}, got {device!r}{hint}") from None


def available_device(device: str | torch.device) -> torch.device:
    """The device of this name. Raises ValueError where this machine has none of the kind."""
    checked = checked_device(device)
    if not _is_available(checked):
        raise ValueError(f"there is no {checked.type} device here for device={str(device)!r}")
    return checked


def _is_available(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return True


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        if launch.local_rank() is not None:
            return _of_this_process(torch.device("cuda"))
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _of_this_process(device: torch.device) -> torch.device:
    """Under torchrun every process has a GPU of its own, which is what "cuda" means then."""
    index = launch.local_rank()
    if device.type != "cuda" or device.index is not None or index is None:
        return device
    # a launcher may show each process its own GPU alone
    return torch.device("cuda", index % max(torch.cuda.device_count(), 1))


def _best_precision(device: torch.device) -> Precision:
    if device.type == "cuda":
        # GPUs before Ampere emulate bf16
        computes_in_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return "bf16" if computes_in_bf16 else "fp16"
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
            return "bf16"
    return "fp32"
