"""Runtime: on which device, in which precision and memory layout a model runs."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from finetune.training.runtime.convolutions import Convolutions
from finetune.training.runtime.modules import computes_again

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
PrecisionChoice: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a model runs.

    Two runtimes give results that differ by rounding only; one gives the same bits every time.

    precision: of the forward pass; weights, loss and updates are always float32. channels_last:
    the memory layout of convolutions. convolutions: on a CPU, our gradients of convolutions, see
    `Convolutions`. fold: norms in eval mode become part of the convolutions before them, see
    `FoldedNorms`. compile: through torch.compile, which is worth its minutes in long runs only.
    automatic: the library chose this runtime, so that a measurement may choose another.
    """

    device: torch.device
    precision: Precision = "fp32"
    channels_last: bool = False
    convolutions: bool = False
    fold: bool = False
    compile: bool = False
    automatic: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", torch.device(self.device))
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be fp32, bf16 or fp16, got {self.precision!r}")
        if self.convolutions and self.device.type != "cpu":
            raise ValueError(f"convolutions=True is for CPUs, the device is {self.device}")
        if self.compile and (self.convolutions or self.fold):
            raise ValueError("compile=True goes without convolutions=True and fold=True")

    def suited_to(self, model: nn.Module) -> "Runtime":
        """This runtime without what the model has no use for or can't be run with."""
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        can_speed_up = bool(convolutions) and not computes_again(model)
        channels_last = self.channels_last
        if self.device.type == "cpu" and any(map(_breaks_in_channels_last, convolutions)):
            channels_last = False
        return replace(
            self,
            channels_last=channels_last,
            convolutions=self.convolutions and can_speed_up,
            fold=self.fold and can_speed_up,
        )

    def place(self, model: nn.Module) -> nn.Module:
        """Moves the model to the device and into the layout, in place; returns it."""
        model.to(self.device)
        if self.channels_last:
            return model.to(memory_format=torch.channels_last)
        return model.to(memory_format=torch.contiguous_format)

    def compiled(self, model: nn.Module) -> nn.Module:
        """The model to call: itself, or what torch.compile makes of it at its first call."""
        if not self.compile:
            return model
        return torch.compile(model)  # type: ignore[return-value]

    def autocast(self) -> AbstractContextManager[object]:
        """The context for a forward pass; the backward pass needs none."""
        convolutions = Convolutions() if self.convolutions else nullcontext()
        if self.precision == "fp32":
            return convolutions
        return self._autocast_with(convolutions)

    @contextmanager
    def _autocast_with(self, convolutions: AbstractContextManager[object]) -> Iterator[None]:
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        with torch.autocast(self.device.type, dtype), convolutions:
            yield

    def gradient_scaler(self) -> torch.amp.GradScaler | None:
        """A scaler for float16, whose gradients underflow without one; None otherwise."""
        if self.precision != "fp16":
            return None
        return torch.amp.GradScaler(self.device.type)

    def alternatives(self, model: nn.Module) -> list["Runtime"]:
        """The other runtimes that may be faster on this device for this model."""
        runtimes = [replace(self, channels_last=not self.channels_last)]
        if self.device.type == "cpu":
            runtimes.append(replace(self, convolutions=not self.convolutions))
        else:
            runtimes.append(replace(self, fold=not self.fold))
        if self.device.type == "cpu" and self.precision == "bf16":
            runtimes.append(replace(self, precision="fp32"))
        return [runtime for runtime in runtimes if runtime.suited_to(model) == runtime]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "device": self.device.type}

    def updated(self, saved: Mapping[str, Any]) -> "Runtime":
        """This runtime with the choices that `to_dict` recorded, on its own device.

        What an older version did not record stays as it is.
        """
        names = ("precision", "channels_last", "convolutions", "fold", "compile")
        return replace(self, **{name: saved[name] for name in names if name in saved})

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
        return ", ".join(words)


def _breaks_in_channels_last(convolution: nn.Conv2d) -> bool:
    """Whether torch 2.14 writes beyond its memory in the backward pass on a CPU."""
    is_pointwise = max(convolution.kernel_size) == 1
    return convolution.in_channels < 8 and is_pointwise and max(convolution.stride) > 1


def choose_runtime(
    device: str | torch.device | None = None, precision: PrecisionChoice = "auto"
) -> Runtime:
    """The given device and precision, or else the best there are.

    device: None takes the first there is of cuda, mps and cpu. precision: "auto" takes bf16 where
    the hardware computes in it, fp16 on older GPUs, and fp32 elsewhere.
    """
    if precision not in get_args(PrecisionChoice):
        raise ValueError(f"precision must be auto, fp32, bf16 or fp16, got {precision!r}")
    chosen_device = _best_device() if device is None else torch.device(device)
    if not _is_available(chosen_device):
        raise ValueError(f"there is no {chosen_device.type} device here for device={str(device)!r}")
    # on CPUs channels_last is faster (EfficientNet-Lite0: 1.5 times for a training step); on GPUs
    # that depends on the architecture, so they begin with torch's default
    on_cpu = chosen_device.type == "cpu"
    return Runtime(
        chosen_device,
        _best_precision(chosen_device) if precision == "auto" else precision,
        channels_last=on_cpu,
        convolutions=on_cpu,
        fold=on_cpu,
        automatic=precision == "auto",
    )


def _is_available(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return True


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        # under torchrun every process has a GPU of its own
        index = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
        return torch.device("cuda", index)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


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
