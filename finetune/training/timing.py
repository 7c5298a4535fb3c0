"""How long a training step, or a forward pass, takes on this machine; measured on copies."""

import time
from contextlib import closing

import torch

from finetune import turns
from finetune.data.loaders import next_batches
from finetune.randomness import isolated, key
from finetune.training.setup import Setup, folded_norms, forward
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


def forward_seconds(setup: Setup) -> tuple[float, float]:
    """Seconds to decode a training batch, and to run the model on it without a backward pass.

    Nothing of the setup changes. What was decoded before takes no time to decode.
    """
    copied = setup.copied()
    copied.model.eval()
    device = setup.runtime.device
    with closing(setup.data.train.epoch(setup.data.seed, 0)) as batches:
        started_at = time.perf_counter()
        (raw_batch,) = next_batches(batches, 1)
        decoding = time.perf_counter() - started_at
    on_device = raw_batch.to(device)
    folded = folded_norms(
        copied.model, copied.runtime, setup.data.prepare(on_device, None).inputs, training=False
    )
    seconds = []
    with torch.no_grad(), turns.shared():
        for _ in range(_STEPS):
            started_at = time.perf_counter()
            batch = setup.data.prepare(on_device, 0)
            with copied.runtime.autocast(), folded.active():
                forward(copied.model, batch.inputs)
            _wait_for(device)
            seconds.append(time.perf_counter() - started_at)
    return decoding, min(seconds[1:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
