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
    """How a model runs; the results differ by rounding only, and for one runtime not at all.

    precision: of the forward pass; weights, loss and updates are always float32. channels_last:
    layout of convolutions. convolutions: on a CPU, our ways for them, see `Convolutions`. fold:
    norms in eval mode become part of the convolutions before them, see `FoldedNorms`. compile:
    through torch.compile, worth its minutes in long runs only. automatic: chosen here, so that a
    measurement may choose again.
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
        """Without what this model has no use for, or can't be run with."""
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        useful = bool(convolutions) and not computes_again(model)
        # torch 2.14 writes beyond its memory in the backward pass of such a convolution
        broken = self.device.type == "cpu" and any(
            c.in_channels < 8 and max(c.kernel_size) == 1 and max(c.stride) > 1
            for c in convolutions
        )
        return replace(
            self,
            channels_last=self.channels_last and not broken,
            convolutions=self.convolutions and useful,
            fold=self.fold and useful,
        )

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device and in the layout, in place."""
        model.to(self.device)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(memory_format=layout)

    def compiled(self, model: nn.Module) -> nn.Module:
        """The model to call: itself, or what torch.compile makes of it at its first call."""
        return torch.compile(model) if self.compile else model  # type: ignore[return-value]

    def autocast(self) -> AbstractContextManager[object]:
        """Put it around a forward pass; the backward pass follows by itself."""
        ways = Convolutions() if self.convolutions else nullcontext()
        if self.precision == "fp32":
            return ways
        return self._autocast_with(ways)

    @contextmanager
    def _autocast_with(self, ways: AbstractContextManager[object]) -> Iterator[None]:
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        with torch.autocast(self.device.type, dtype), ways:
            yield

    def gradient_scaler(self) -> torch.amp.GradScaler | None:
        """Float16 gradients underflow without one."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None

    def others(self, model: nn.Module) -> list["Runtime"]:
        """What else may be faster on this device for this model."""
        ways = [replace(self, channels_last=not self.channels_last)]
        if self.device.type == "cpu":
            ways.append(replace(self, convolutions=not self.convolutions))
        else:
            ways.append(replace(self, fold=not self.fold))
        if self.device.type == "cpu" and self.precision == "bf16":
            ways.append(replace(self, precision="fp32"))
        return [way for way in ways if way.suited_to(model) == way]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "device": self.device.type}

    def updated(self, saved: Mapping[str, Any]) -> "Runtime":
        """With the choices that `to_dict` gave, on this runtime's device."""
        names = ("precision", "channels_last", "convolutions", "fold", "compile")
        return replace(self, **{name: saved[name] for name in names if name in saved})

    def __str__(self) -> str:
        extras = {
            "channels_last": self.channels_last,
            "own convolution gradients": self.convolutions,
            "folded norms": self.fold,
            "compiled": self.compile,
        }
        return ", ".join([str(self.device), self.precision, *(n for n, on in extras.items() if on)])


def choose_runtime(
    device: str | torch.device | None = None, precision: PrecisionChoice = "auto"
) -> Runtime:
    """The given device and precision, or else the best there is.

    device: None takes cuda, mps or cpu, in this order. precision: "auto" takes bf16 where the
    hardware computes in it, fp16 on older GPUs, and fp32 elsewhere.
    """
    if precision not in get_args(PrecisionChoice):
        raise ValueError(f"precision must be auto, fp32, bf16 or fp16, got {precision!r}")
    chosen = torch.device(device) if device is not None else _best_device()
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, True):
        raise ValueError(f"there is no {chosen.type} device here for device={str(device)!r}")
    # on CPUs channels_last is faster (EfficientNet-Lite0: 1.5 times for a training step); on GPUs
    # that depends on the architecture, so they begin with torch's default
    return Runtime(
        chosen,
        _best_precision(chosen) if precision == "auto" else precision,
        channels_last=chosen.type == "cpu",
        convolutions=chosen.type == "cpu",
        fold=chosen.type == "cpu",
        automatic=precision == "auto",
    )


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        # under torchrun every process has a GPU of its own
        index = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
        return torch.device("cuda", index)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _best_precision(device: torch.device) -> Precision:
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return "bf16" if native else "fp16"
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"
    return "fp32"
