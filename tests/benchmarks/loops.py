"""Our loop and loader beside a bare torch loop and fastai, in turn; prints tables and a JSON line.

    python tests/benchmarks/loops.py --only step tiny loader --fastai-site /root/fastai-site

step: of the whole EfficientNet-Lite0 (random weights, norms in eval mode), 128 px, batches of 64,
augmentation included in all; from the end of the first step on. tiny: a network whose batches cost
next to nothing, so that what counts is the loop. loader: pictures a second, ready for the model, in
the first epoch, which decodes, and later. fastai runs in processes of its own, where it is found.
"""

import argparse
import copy
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from clothing import CLOTHING
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from finetune import ImageDataLoaders, Learner, vision_learner
from finetune.data.loaders import Batch, Batches, DataLoaders
from finetune.demo import BACKBONE
from finetune.optim.group_optimizer import adamw
from finetune.training.allocator import keep_freed_memory
from finetune.training.events import Callback, FitEnd, FitStart, StepEnd
from finetune.training.runtime import Runtime, choose_runtime

SIDE, BATCH, LR = 128, 64, 1e-5
LATER = 2  # epochs of a loader after the first
PLAIN = Runtime(torch.device("cpu"), channels_last=True)

Rows = dict[str, list[float]]
Contestant = Callable[[], Mapping[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--runs", type=int, default=5, help="turns of each; medians count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="threads, or processes, that decode")
    parser.add_argument("--steps", type=int, default=10, help="steps a run of the whole model")
    parser.add_argument("--batches", type=int, default=2000, help="batches a run of the tiny one")
    parser.add_argument("--data", type=Path, default=CLOTHING)
    parser.add_argument("--fastai-site", type=Path, help="where fastai is, if not installed")
    parser.add_argument("--in-fastai", choices=list(FASTAI), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.in_fastai is not None:
        print(json.dumps(FASTAI[options.in_fastai](options)))
        return
    keep_freed_memory()
    print(json.dumps({name: BENCHMARKS[name](options) for name in options.only}))


# --- taking turns


def take_turns(contestants: Sequence[Contestant], runs: int) -> Rows:
    """What each contestant measured; another one begins every time."""
    found: Rows = defaultdict(list)
    for run in range(runs):
        first = run % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            gc.collect()
            for name, value in contestant().items():
                found[name].append(value)
    return found


def report(title: str, found: Rows, ratios: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """Prints medians, and those of the ratios within a run; what was not measured is left out."""
    print(f"\n{title:<40}{'median':>10}{'least':>10}{'most':>10}")
    for name, values in found.items():
        row = (statistics.median(values), min(values), max(values))
        print(f"{name:<40}" + "".join(f"{value:>10.4g}" for value in row))
    result: dict[str, Any] = {n: round(statistics.median(v), 4) for n, v in found.items()}
    for one, other, target in ratios:
        if one in found and other in found:
            each = [a / b for a, b in zip(found[one], found[other], strict=True)]
            name = f"{one} / {other}"
            result[name] = round(statistics.median(each), 4)
            print(f"{name:<40}{result[name]:>10.3f}  {target}")
    sys.stdout.flush()
    return result


# --- the loops


class Clock(Callback):
    """Seconds a step, from the end of the first one to the end of the fit."""

    def on_fit_start(self, event: FitStart) -> None:
        self.ends: list[float] = []

    def on_step_end(self, event: StepEnd) -> None:
        self.ends.append(time.perf_counter())

    def on_fit_end(self, event: FitEnd) -> None:
        self.seconds = (time.perf_counter() - self.ends[0]) / (len(self.ends) - 1)


def bare_epoch(model: nn.Module, data: DataLoaders, optimizer: Optimizer) -> list[float]:
    """One cycle as one writes it by hand; when each step ended."""
    schedule = OneCycleLR(optimizer, LR, total_steps=len(data.train))
    losses, ends = [], []
    for raw in data.train.epoch(data.seed, 0):
        batch = data.prepare(raw, 0)
        loss = cross_entropy(model(batch.inputs), batch.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
        ends.append(time.perf_counter())
    return ends


def learned_weights() -> dict[str, Tensor]:
    """Random weights, with running statistics that fit them, as after a pretraining."""
    backbone = timm.create_model(BACKBONE, num_classes=0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # their mean
    with torch.no_grad():
        for _ in range(2):
            backbone(torch.randn(16, 3, SIDE, SIDE))
    return backbone.state_dict()


def step(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a training step."""
    count = 2 + options.steps * BATCH
    pictures = np.random.default_rng(0).integers(0, 256, (count, 146, 146, 3), np.uint8)
    data = ImageDataLoaders.from_lists(
        list(pictures),
        [str(i % 10) for i in range(count)],
        is_valid=[i < 2 for i in range(count)],
        image_size=SIDE,
        workers=options.workers,
    )
    weights = learned_weights()

    def ours(name: str, runtime: Runtime) -> tuple[Learner, Contestant]:
        learner = vision_learner(
            data, BACKBONE, weights=weights, runtime=runtime, metrics=(), progress=False
        )
        learner.data.valid = None

        def run() -> dict[str, float]:
            clock = Clock()
            learner.fit_one_cycle(1, LR, callbacks=[clock])
            return {name: clock.seconds}

        return learner, run

    learner, plain = ours("loop", PLAIN)
    _, own = ours("loop, own ways", choose_runtime("cpu", "fp32"))
    model = copy.deepcopy(learner.model).train()
    for module in model.get_submodule("backbone").modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    optimizer = adamw(model.parameters(), fused=True)

    def bare() -> dict[str, float]:
        ends = bare_epoch(model, learner.data, optimizer)
        return {"bare": (time.perf_counter() - ends[0]) / (len(ends) - 1)}

    contestants = (bare, plain, own)
    take_turns(contestants, 1)  # the pictures are there now, and the memory
    ratios = [("loop", "bare", "(target: 1.02)"), ("loop, own ways", "bare", "")]
    return report("seconds a step", take_turns(contestants, options.runs), ratios)


class InMemory:
    """Batches made once, and handed out with as little work as there can be."""

    def __init__(self, count: int) -> None:
        inputs, targets = torch.randn(count, 16, 4), torch.randint(2, (count, 16))
        self.pairs = list(zip(inputs.unbind(), targets.unbind(), strict=True))
        self.batches = [Batch(*pair) for pair in self.pairs]
        self.device, self.bs, self.n_inp = torch.device("cpu"), 16, 1  # fastai asks for them

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.pairs)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Batches:
        yield from self.batches[start:]


def tiny_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def tiny(options: argparse.Namespace) -> dict[str, Any]:
    """Microseconds a batch; ours and fastai's with all that a call of fit_one_cycle does."""
    loader = InMemory(options.batches)

    def timed(name: str, run: Callable[[], Any]) -> dict[str, float]:
        started = time.perf_counter()
        run()
        return {name: (time.perf_counter() - started) / options.batches * 1e6}

    def ours(name: str, train: Any) -> Contestant:
        data, model = DataLoaders(train), tiny_model()
        # a fixed runtime: an automatic one would be questioned in so long a run
        settings = {"loss": cross_entropy, "runtime": Runtime(torch.device("cpu"))}
        learner = Learner(data, model, split=lambda m: [[m]], progress=False, **settings)
        return partial(timed, name, partial(learner.fit_one_cycle, 1, LR))

    model = tiny_model()
    epoch = partial(bare_epoch, model, DataLoaders(loader), adamw(model.parameters(), fused=True))
    contestants = [
        partial(timed, "bare", epoch),
        ours("loop", loader),
        ours("loop, TorchLoader", loader.pairs),
    ]
    take_turns(contestants, 1)
    contestants += fastai_contestants("tiny", options)
    ratios = [
        ("loop", "bare", "(target: 1.25)"),
        ("loop", "fastai", "(target: 0.333)"),
        ("loop, TorchLoader", "bare", ""),
    ]
    return report("microseconds a batch", take_turns(contestants, options.runs), ratios)


# --- the loaders


def pictures_per_second(epoch: Callable[[int], Iterable[Any]]) -> dict[str, float]:
    """In the first epoch and in later ones; an epoch gives the targets of its batches."""
    rates = []
    for number in range(1 + LATER):
        started = time.perf_counter()
        count = sum(len(targets) for targets in epoch(number))
        rates.append(count / (time.perf_counter() - started))
    return {"first": rates[0], "later": statistics.median(rates[1:])}


def loader(options: argparse.Namespace) -> dict[str, Any]:
    """Pictures a second, augmented and normalised; the files are in the system's cache."""
    for file in options.data.rglob("*.jpg"):
        file.read_bytes()

    def ours() -> dict[str, float]:
        data = ImageDataLoaders.from_folder(
            options.data,
            train="train",
            valid="validation",
            image_size=SIDE,
            workers=options.workers,
        )
        train = data.train
        rates = pictures_per_second(
            lambda number: (data.prepare(b, number).targets for b in train.epoch(0, number))
        )
        return {f"ours, {name}": rate for name, rate in rates.items()}

    contestants = [ours, *fastai_contestants("loader", options)]
    ratios = [
        ("ours, first", "fastai, first", "(target: 2)"),
        ("ours, later", "fastai, later", "(target: 10)"),
    ]
    return report("pictures a second", take_turns(contestants, options.runs), ratios)


# --- fastai


def fastai_contestants(kind: str, options: argparse.Namespace) -> list[Contestant]:
    """Runs fastai in a fresh process; none where it can't be imported."""
    paths = [str(options.fastai_site or ""), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    run = partial(subprocess.run, env=environment, stdout=subprocess.PIPE, text=True)
    if run([sys.executable, "-c", "import fastai"], stderr=subprocess.DEVNULL).returncode:
        print("fastai is not found and left out; pass --fastai-site", flush=True)
        return []
    names = ("threads", "workers", "batches", "data")
    arguments = [str(a) for name in names for a in (f"--{name}", getattr(options, name))]
    command = [sys.executable, __file__, "--in-fastai", kind, *arguments]

    def contestant() -> dict[str, float]:
        values = json.loads(run(command, check=True).stdout.splitlines()[-1])
        return {f"fastai, {n}" if n else "fastai": value for n, value in values.items()}

    return [contestant]


def fastai_tiny(options: argparse.Namespace) -> dict[str, float]:
    from fastai.callback import schedule  # noqa: F401  (it adds fit_one_cycle)
    from fastai.data.core import DataLoaders as Loaders
    from fastai.learner import Learner as FastaiLearner

    dls = Loaders(InMemory(options.batches), InMemory(1))
    learner = FastaiLearner(dls, tiny_model(), loss_func=cross_entropy)
    with learner.no_bar(), learner.no_logging():
        for _ in range(2):  # the first one to warm up
            started = time.perf_counter()
            learner.fit_one_cycle(1, LR)
            seconds = time.perf_counter() - started
    return {"": seconds / options.batches * 1e6}


def fastai_loader(options: argparse.Namespace) -> dict[str, float]:
    from fastai.data.transforms import Normalize
    from fastai.vision.augment import Resize, aug_transforms
    from fastai.vision.data import ImageDataLoaders as Loaders

    normalise = Normalize.from_stats([0.5] * 3, [0.5] * 3)
    dls = Loaders.from_folder(
        options.data,
        train="train",
        valid="validation",
        bs=BATCH,
        item_tfms=Resize(round(SIDE * 1.15)),
        batch_tfms=[*aug_transforms(size=SIDE), normalise],
        num_workers=options.workers,
    )
    return pictures_per_second(lambda _: (targets for _, targets in dls.train))


BENCHMARKS = {"step": step, "tiny": tiny, "loader": loader}
FASTAI = {"tiny": fastai_tiny, "loader": fastai_loader}


if __name__ == "__main__":
    main()
