"""Before a long run: a few steps in every way of running the model, and the fastest is taken."""

import copy
import json
import os
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from finetune import distributed
from finetune.data.loaders import Batch, take
from finetune.optim.group_optimizer import GroupOptimizer
from finetune.randomness import isolated
from finetune.training.plan import Plan
from finetune.training.runtime import Runtime
from finetune.training.step import DivergenceError, Setup, TrainStep

SHARE = 0.03
"""Largest part of a run that may be spent on finding out how to run it."""
GAIN = 0.05
"""How much faster another way must be: less is noise."""
COMPILING = 120.0
"""Seconds that torch.compile may take, with a few steps to see what it gained."""
_TIMED = 2  # steps a way, after one to warm up


def fastest(setup: Setup, plan: Plan) -> tuple[Runtime, str]:
    """The runtime to train with, and one line that says how it was found, empty if it was not.

    Only an automatic runtime is questioned, and only when the plan is so long that the trial, on
    copies of the model, takes no more than `SHARE` of it. What was found is remembered for the same
    model, pictures, machine and torch, in `memory_file()`.
    """
    frozen = min(phase.frozen for phase in plan)
    epochs = sum(phase.epochs for phase in plan if phase.frozen == frozen)
    steps = epochs * setup.steps_per_epoch
    others = setup.runtime.others(setup.model)
    trial = (1 + len(others)) * (1 + _TIMED)
    if not setup.runtime.automatic or distributed.world_size() > 1 or trial > SHARE * steps:
        return setup.runtime, ""
    with isolated(), closing(setup.data.train.epoch(setup.data.seed, 0)) as batches:
        taken = take(batches, min(setup.settings.accumulate, len(setup.data.train)))
        name = _name(setup, taken, frozen)
        known = _remembered().get(name)
        if known is not None:
            runtime = setup.runtime.updated(known)
            return runtime, f"running on {runtime}, as measured in an earlier run"
        runtime, gain = _measured(setup, taken, frozen, steps, others)
    _remember(name, runtime)
    return runtime, f"running on {runtime}: {gain:.2f} x the speed of {setup.runtime}"


def _measured(
    setup: Setup, batches: Sequence[Batch], frozen: int, steps: int, others: Sequence[Runtime]
) -> tuple[Runtime, float]:
    """The fastest runtime, and how many times as fast as the setup's own."""
    first = best = _seconds(setup, setup.runtime, batches, frozen)
    chosen = setup.runtime
    for other in others:
        seconds = _seconds(setup, other, batches, frozen)
        if seconds < best * (1 - GAIN):
            chosen, best = other, seconds
    if SHARE * steps * best > COMPILING:
        compiled = replace(chosen, compile=True, convolutions=False, fold=False)
        seconds = _seconds(setup, compiled, batches, frozen)
        if seconds < best * (1 - GAIN):
            chosen, best = compiled, seconds
    return chosen, first / best


def _seconds(setup: Setup, runtime: Runtime, batches: Sequence[Batch], frozen: int) -> float:
    """Of one step, the fastest of a few; infinite where the model can't be run this way."""
    groups = copy.deepcopy(setup.optimizer.groups)
    values = [dict(group.values) for group in groups]
    trial = replace(
        setup,
        model=runtime.place(groups.model),
        optimizer=GroupOptimizer(groups, setup.optimizer.factory),
        runtime=runtime,
        scaler=runtime.gradient_scaler(),
    )
    for group, own in zip(groups, values, strict=True):
        group.values = own
    groups.freeze_to(frozen)
    groups.set_training_modes()
    fastest = float("inf")
    try:
        step = TrainStep(runtime.compiled(groups.model), trial)
        step(batches, 0).item()  # to warm up; .item() makes the host wait for the device
        for _ in range(_TIMED):
            started = time.perf_counter()
            step(batches, 0).item()
            fastest = min(fastest, time.perf_counter() - started)
    except (RuntimeError, DivergenceError):  # not supported, out of memory, or no longer a number
        return float("inf")
    return fastest


def memory_file() -> Path:
    """In FINETUNE_CACHE, or else in the user's cache folder. Delete it to have it measured anew."""
    folder = os.environ.get("FINETUNE_CACHE")
    if folder is None:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = str(Path(caches) / "finetune")
    return Path(folder) / "runtimes.json"


def _name(setup: Setup, batches: Sequence[Batch], frozen: int) -> str:
    device = setup.runtime.device
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        machine = f"{device.type} {capability} x {torch.get_num_threads()}"
    count = sum(parameter.numel() for parameter in setup.model.parameters())
    inputs = setup.data.prepare(batches[0], None).inputs
    shape = "x".join(map(str, getattr(inputs, "shape", ())))
    model = getattr(setup.model, "architecture", type(setup.model).__name__)
    return f"{model}, {count}, {frozen} frozen, {shape}, {machine}, torch {torch.__version__}"


def _remembered() -> dict[str, Any]:
    with suppress(OSError, ValueError):  # none yet, or half of one
        content = json.loads(memory_file().read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _remember(name: str, runtime: Runtime) -> None:
    file = memory_file()
    temporary = file.with_suffix(f".{os.getpid()}")
    with suppress(OSError):  # a read-only home is no reason to fail
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {**_remembered(), name: runtime.to_dict()}
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        temporary.replace(file)
