"""The options that `Learner` and `vision_learner` share, and those of every fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, get_args

import torch
from torch import nn

from finetune import arguments
from finetune.models.group_values import PerGroup
from finetune.models.normalisation import NormPolicy
from finetune.optim.factories import adamw
from finetune.optim.group_optimizer import OptimizerChoice
from finetune.training.events import Callback
from finetune.training.runtime.runtime import (
    PrecisionChoice,
    Runtime,
    Sharding,
    checked_device,
    choose_runtime,
)
from finetune.training.settings import StepSettings


class LearnerOptions(TypedDict, total=False):
    """The fields of `LearnerSettings`, all of them optional."""

    optimizer: OptimizerChoice
    norm: NormPolicy | Mapping[str, NormPolicy] | None
    weight_decay: PerGroup[float] | None
    device: str | torch.device | None
    precision: PrecisionChoice
    sharding: Sharding | None
    runtime: Runtime | None
    accumulate: int
    clip_norm: float | None
    mixup: float
    cutmix: float
    label_smoothing: float
    ema: float | None
    callbacks: Sequence[Callback]
    progress: bool


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """How a model is trained.

    optimizer: a torch optimizer class or a partial of one, or one per group, see `GroupOptimizer`;
    weight_decay: one value, or one per group. norm: what normalisation layers do, see `LayerGroup`.
    device, precision, sharding: see `choose_runtime`; runtime: says these and more, and is taken
    as it is. accumulate: batches per update. clip_norm: largest gradient norm. mixup, cutmix:
    alpha of the Beta distribution by which each training image is mixed with another, targets
    likewise, 0 for none; with both, each batch takes one of them. Images whose kept features train
    the head are not mixed. label_smoothing: of the training loss, for cross-entropy; validation's
    is the plain one. ema: decay, such as 0.999, of an average of the weights, which validation sees
    and which the model has whenever no fit runs; `resume` goes on with the weights themselves.
    callbacks: for every fit. progress: print bar and table.
    """

    optimizer: OptimizerChoice = adamw
    norm: NormPolicy | Mapping[str, NormPolicy] | None = None
    weight_decay: PerGroup[float] | None = None
    device: str | torch.device | None = None
    precision: PrecisionChoice = "auto"
    sharding: Sharding | None = None
    runtime: Runtime | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    ema: float | None = None
    callbacks: Sequence[Callback] = ()
    progress: bool = True

    def __post_init__(self) -> None:
        arguments.choice("precision", self.precision, get_args(PrecisionChoice))
        if self.sharding is not None:
            arguments.choice("sharding", self.sharding, get_args(Sharding))
        if self.runtime is not None:
            arguments.instance("runtime", self.runtime, Runtime)
        if self.device is not None:
            checked_device(self.device)
        _check_callbacks(self.callbacks)
        arguments.flag("progress", self.progress)
        _ = self.step  # checks the options of a step
        says_more = (self.device, self.precision, self.sharding) != (None, "auto", None)
        if self.runtime is not None and says_more:
            raise ValueError(
                "runtime= says device, precision and sharding; leave device=, precision= and "
                "sharding= out"
            )

    def runtime_for(self, model: nn.Module) -> Runtime:
        """The given runtime, or the best one for the model on the given device."""
        if self.runtime is not None:
            return self.runtime
        return choose_runtime(self.device, self.precision, self.sharding).suited_to(model)

    @property
    def is_sharded(self) -> bool:
        """Whether each process keeps a part of the weights, if there are several processes."""
        sharding = self.sharding if self.runtime is None else self.runtime.sharding
        return sharding is not None

    @property
    def step(self) -> StepSettings:
        """What a training step does besides forward, backward and update."""
        return StepSettings(
            accumulate=self.accumulate,
            clip_norm=self.clip_norm,
            mixup=self.mixup,
            cutmix=self.cutmix,
            label_smoothing=self.label_smoothing,
            ema=self.ema,
        )


class FitOptions(TypedDict, total=False):
    """The fields of `FitSettings`, all of them optional."""

    callbacks: Sequence[Callback]
    checkpoint: str | Path | None
    cache_features: bool


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How a plan is run.

    callbacks: for this fit only. checkpoint: a file that is written as the run goes; the same call
    continues from it. cache_features: where frozen layers come first, they run once for each view
    of the images, and what follows trains on their kept outputs; False runs them in every epoch.
    """

    callbacks: Sequence[Callback] = ()
    checkpoint: str | Path | None = None
    cache_features: bool = True

    def __post_init__(self) -> None:
        _check_callbacks(self.callbacks)
        arguments.flag("cache_features", self.cache_features)
        if self.checkpoint_path is not None:
            _check_writes_elsewhere(self.callbacks, self.checkpoint_path)

    @property
    def checkpoint_path(self) -> Path | None:
        if self.checkpoint is None:
            return None
        return arguments.path("checkpoint", self.checkpoint)


def _check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Raises TypeError unless it is a list of callbacks."""
    if isinstance(callbacks, Callback):
        raise TypeError(f"callbacks must be a list, got a {type(callbacks).__name__}; write [...]")
    for callback in arguments.sequence("callbacks", callbacks, "Callback objects"):
        arguments.instance("callbacks", callback, Callback, "or a list of several")


def _check_writes_elsewhere(callbacks: Sequence[Callback], checkpoint: Path) -> None:
    """Raises ValueError for a callback that writes a file of its own over the checkpoint."""
    for callback in callbacks:
        path = getattr(callback, "path", None)
        if isinstance(path, str | Path) and Path(path).absolute() == checkpoint.absolute():
            raise ValueError(
                f"checkpoint={str(checkpoint)!r} is the file of {type(callback).__name__}, too; "
                "one would overwrite the other, name two files"
            )
