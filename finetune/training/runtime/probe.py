"""Before a long run: a few steps in every way of running the model, and the fastest is taken."""

import json
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from finetune import distributed
from finetune.data.loaders import Batch, next_batches
from finetune.randomness import isolated
from finetune.training.phase import Plan
from finetune.training.runtime.runtime import Runtime
from finetune.training.setup import Setup
from finetune.training.step import TrainStep

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
    model, images, machine and torch, in `memory_file()`.
    """
    own = setup.runtime
    if not own.automatic or own.compile:  # settled by the caller, or before an earlier fit
        return own, ""
    frozen = min(phase.frozen for phase in plan)
    epochs = sum(phase.epochs for phase in plan if phase.frozen == frozen)
    steps = epochs * setup.steps_per_epoch
    others = own.others(setup.model)
    trial = (1 + len(others)) * (1 + _TIMED)
    if distributed.world_size() > 1 or trial > SHARE * steps:
        return own, ""
    with isolated(), closing(setup.data.train.epoch(setup.data.seed, 0)) as batches:
        taken = next_batches(batches, min(setup.settings.accumulate, len(setup.data.train)))
        name = _name(setup, taken, frozen)
        known = _remembered(name)
        if known is not None and known["steps"] <= steps:  # longer runs may pay for more
            runtime = own.updated(known)
            changed = f"running on {runtime}, as measured in an earlier run"
            return runtime, changed if runtime != own else ""
        seconds = {way: _seconds(setup, way, taken, frozen) for way in (own, *others)}
        best = _best(seconds, own)
        if SHARE * steps * seconds[best] > COMPILING:
            compiled = replace(best, compile=True, convolutions=False, fold=False)
            seconds[compiled] = _seconds(setup, compiled, taken, frozen)
            best = _best(seconds, own)
    if seconds[best] == math.inf:
        return own, ""
    _remember(name, best, steps if best.compile else 0)
    gain = seconds[own] / seconds[best]
    return best, f"running on {best}: {gain:.2f} x the speed of {own}" if best != own else ""


def _best(seconds: Mapping[Runtime, float], own: Runtime) -> Runtime:
    """The fastest, or the own one where less than `GAIN` is between them."""
    best = min(seconds, key=lambda way: seconds[way])
    return best if seconds[best] < seconds[own] * (1 - GAIN) else own


def _seconds(setup: Setup, runtime: Runtime, batches: Sequence[Batch], frozen: int) -> float:
    """Of one step, the fastest of a few; infinite where the model can't be run this way."""
    try:
        trial = setup.copied(runtime)
        trial.optimizer.groups.freeze_to(frozen)
        trial.optimizer.groups.set_training_modes()
        step = TrainStep(runtime.compiled(trial.model), trial)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it has to say, it says again in the run
            step(
                batches, 0, epoch=0, step=0
            ).item()  # to warm up; .item() makes the host wait for the device
            seconds = []
            for _ in range(_TIMED):
                started = time.perf_counter()
                step(batches, 0, epoch=0, step=0).item()
                seconds.append(time.perf_counter() - started)
    except Exception:  # can't be copied, not supported, out of memory: the run itself will tell
        return math.inf
    return min(seconds)


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
    norms = "/".join(group.norm for group in setup.optimizer.groups)
    own = (f"{len(batches)} x {shape}", setup.runtime, f"torch {torch.__version__}")
    return f"{model}, {count}, {frozen} frozen, {norms}, {machine}, {own}"


def _remembered(name: str) -> dict[str, Any] | None:
    """What `_remember` wrote under this name, if anything sensible is there."""
    found = _content().get(name)
    if not isinstance(found, dict) or not isinstance(found.get("steps"), int):
        return None
    types = {"precision": str, "channels_last": bool, "convolutions": bool, "fold": bool}
    sound = all(isinstance(found.get(key), kind) for key, kind in types.items())
    return found if sound and isinstance(found.get("compile"), bool) else None


def _content() -> dict[str, Any]:
    with suppress(OSError, ValueError):  # none yet, or half of one
        content = json.loads(memory_file().read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _remember(name: str, runtime: Runtime, steps: int) -> None:
    """steps: of the shortest run that the choice is for."""
    file = memory_file()
    temporary = file.with_suffix(f".{os.getpid()}")
    with suppress(OSError):  # a read-only home is no reason to fail
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {**_content(), name: {**runtime.to_dict(), "steps": steps}}
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        temporary.replace(file)
