"""How long a training step takes on this machine, measured on copies."""

import time
from contextlib import closing

import torch

from finetune.data.loaders import next_batches
from finetune.randomness import isolated, key
from finetune.training.setup import Setup
from finetune.training.step import TrainStep

_STEPS = 3
"""The first of them is not counted: it finds what can be folded, and fills caches."""


def step_seconds(setup: Setup, frozen: int = 0) -> float:
    """Seconds of one training step with the first `frozen` groups frozen.

    It is the least of some steps, since whatever else the machine does makes a step longer.
    Nothing of the setup changes. It says how long something takes, and never what is computed.
    """
    copied = setup.copied()
    groups = copied.optimizer.groups
    groups.freeze_to(frozen)
    groups.set_values("lr", [0.0] * len(groups))
    seed = key(setup.data.seed, "timing")
    seconds = []
    with isolated(), copied.optimizer.weights.training():
        step = TrainStep(copied.model, copied, seed)
        groups.set_training_modes()
        for number in range(_STEPS):
            # every time the same batch: the time to decode another one is not that of a step
            with closing(setup.data.train.epoch(seed, 0)) as batches:
                step_batches = next_batches(batches, setup.settings.accumulate)
            started_at = time.perf_counter()
            step(step_batches, 0, epoch=0, step=number)
            _wait_for(setup.runtime.device)
            seconds.append(time.perf_counter() - started_at)
    return min(seconds[1:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
