"""Before a long run: a few steps in every way of running the model, and the fastest is taken."""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace

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
"""By which part of a step another way must be faster: less is noise."""
COMPILING = 120.0
"""Seconds that torch.compile may take, with a few steps to see what it gained."""
_TIMED_STEPS = 2
"""Steps that are timed for each way, after one to warm up."""


def fastest(setup: Setup, plan: Plan) -> tuple[Runtime, str]:
    """The runtime to train with, and a line that says why, empty if nothing changes.

    Only an automatic runtime is questioned, and only when the plan is so long that the trial, on
    copies of the model, takes no more than `SHARE` of it.
    """
    current = setup.runtime
    if not current.automatic or current.compile:  # the caller's choice, or an earlier fit's
        return current, ""
    # measured as in the phases that train most of the model: their steps take longest
    frozen = min(phase.frozen for phase in plan)
    epochs = sum(phase.epochs for phase in plan if phase.frozen == frozen)
    steps = epochs * setup.steps_per_epoch
    affordable_steps = SHARE * steps
    alternatives = current.alternatives(setup.model)
    trial_steps = (1 + len(alternatives)) * (1 + _TIMED_STEPS)
    if distributed.world_size() > 1 or trial_steps > affordable_steps:
        return current, ""
    with isolated(), closing(setup.data.train.epoch(setup.data.seed, 0)) as epoch_batches:
        count = min(setup.settings.accumulate, len(setup.data.train))
        batches = next_batches(epoch_batches, count)
        seconds = {}
        for runtime in (current, *alternatives):
            seconds[runtime] = _seconds_per_step(setup, runtime, batches, frozen)
        best = _best(seconds, current)
        if affordable_steps * seconds[best] > COMPILING:
            compiled = replace(best, compile=True, convolutions=False, fold=False)
            seconds[compiled] = _seconds_per_step(setup, compiled, batches, frozen)
            best = _best(seconds, current)
    if best == current:
        return current, ""
    gain = seconds[current] / seconds[best]
    return best, f"running on {best}: {gain:.2f} x the speed of {current}"


def _best(seconds: Mapping[Runtime, float], current: Runtime) -> Runtime:
    """The fastest runtime, or the current one if that is slower by less than `GAIN`."""
    best = min(seconds, key=lambda runtime: seconds[runtime])
    if seconds[best] < seconds[current] * (1 - GAIN):
        return best
    return current


def _seconds_per_step(
    setup: Setup, runtime: Runtime, batches: Sequence[Batch], frozen: int
) -> float:
    """The fastest of a few steps; infinite where the model can't be run this way.

    batches: of one step. frozen: how many layer groups are frozen.
    """
    try:
        trial = setup.copied(runtime)
        trial.optimizer.groups.freeze_to(frozen)
        trial.optimizer.groups.set_training_modes()
        step = TrainStep(runtime.compiled(trial.model), trial)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it has to say, it says again in the run
            # to warm up; .item() makes the host wait for the device
            step(batches, 0, epoch=0, step=0).item()
            seconds = []
            for _ in range(_TIMED_STEPS):
                started = time.perf_counter()
                step(batches, 0, epoch=0, step=0).item()
                seconds.append(time.perf_counter() - started)
    except Exception:  # can't be copied, not supported, out of memory: the run itself will say so
        return math.inf
    return min(seconds)
