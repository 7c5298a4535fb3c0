"""Runtime: on which device, in which precision and memory layout a model runs."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import nn

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
PrecisionChoice: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """Device and precision of the forward pass; weights, loss and updates are always float32.

    channels_last: layout of convolutions. On CPUs it is faster (EfficientNet-Lite0: 1.5 times for
    a training step); on GPUs that depends on the architecture, so they keep torch's default.
    """

    device: torch.device
    precision: Precision
    channels_last: bool = False
    automatic: bool = False

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device and in the layout."""
        model.to(self.device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype)

    def gradient_scaler(self) -> torch.amp.GradScaler | None:
        """Float16 gradients underflow without one."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None


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
    return Runtime(
        chosen,
        _best_precision(chosen) if precision == "auto" else precision,
        channels_last=chosen.type == "cpu",
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
