"""Our loop and loader beside a bare torch loop and fastai, in turn; prints tables and a JSON line.

    python tests/benchmarks/loops.py --only step tiny loader --fastai-site /root/fastai-site

step: of the whole EfficientNet-Lite0 (random weights, norms in eval mode), 128 px, batches of 64,
augmentation included. tiny: batches of 16 through two small layers, in one thread, so that what
counts is the loop. Both with all that a fit does once. loader: images a second, augmented and
normalised, in the first epoch, which decodes, and later. fastai runs in fresh processes.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from clothing import CLOTHING
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR

from finetune import ImageDataLoaders, Learner, vision_learner
from finetune.data.loaders import Batch, Batches, DataLoaders
from finetune.demo import BACKBONE
from finetune.optim.factories import adamw
from finetune.training.runtime.allocator import keep_freed_memory
from finetune.training.runtime.runtime import Runtime, choose_runtime

SIDE, BATCH, LR, WORKERS = 128, 64, 1e-5, 2
CPU = torch.device("cpu")
FOLDERS = {"train": "train", "valid": "validation"}

Contestant = Callable[[], Mapping[str, float]]
Rows = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--runs", type=int, default=5, help="turns of each; medians count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="of the whole model, in a run")
    parser.add_argument("--batches", type=int, default=2000, help="of the tiny one, in a run")
    parser.add_argument("--data", type=Path, default=CLOTHING)
    parser.add_argument("--fastai-site", default="", help="where fastai is, if not installed")
    parser.add_argument("--in-fastai", choices=list(FASTAI), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    if options.in_fastai:
        print(json.dumps(FASTAI[options.in_fastai](options)))
    else:
        keep_freed_memory()
        print(json.dumps({name: BENCHMARKS[name](options) for name in options.only}))


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


def report(unit: str, found: Rows, targets: Iterable[tuple[str, str, str]]) -> dict[str, float]:
    """Prints medians, and those of the ratios within a run; what was not measured is left out."""
    print(f"\n{unit:<40}{'median':>10}{'least':>10}{'most':>10}")
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        print(f"{name:<40}{medians[name]:>10.4g}{min(values):>10.4g}{max(values):>10.4g}")
    for one, other, target in targets:
        if one in found and other in found:
            ratios = [a / b for a, b in zip(found[one], found[other], strict=True)]
            medians[f"{one} / {other}"] = ratio = statistics.median(ratios)
            print(f"{f'{one} / {other}':<40}{ratio:>10.3f}  {target}", flush=True)
    return {name: round(value, 4) for name, value in medians.items()}


def timed(name: str, count: float, run: Callable[[], Any]) -> dict[str, float]:
    started = time.perf_counter()
    run()
    return {name: (time.perf_counter() - started) / count}


def bare_epoch(
    model: nn.Module, data: DataLoaders, parameters: Iterable[Any] = ()
) -> Callable[[], Any]:
    """One cycle as one writes it by hand; parameters: those of the model, or param groups."""
    optimizer = adamw(parameters or model.parameters(), fused=True)

    def run() -> None:
        schedule, losses = OneCycleLR(optimizer, LR, total_steps=len(data.train)), []
        for raw in data.train.epoch(data.seed, 0):
            batch = data.prepare(raw, 0)
            loss = cross_entropy(model(batch.inputs), batch.targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            losses.append(loss.item())

    return run


def step(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a training step."""
    count = 2 + options.steps * BATCH
    images = list(np.random.default_rng(0).integers(0, 256, (count, 146, 146, 3), np.uint8))
    labels, marks = [str(i % 2) for i in range(count)], [i < 2 for i in range(count)]
    data = ImageDataLoaders.from_lists(images, labels, is_valid=marks, image_size=SIDE)
    backbone = timm.create_model(BACKBONE, num_classes=0)
    for module in backbone.modules():
        module.momentum = 1.0  # norms get statistics that fit: eval mode suits them, and us
    backbone(torch.randn(16, 3, SIDE, SIDE))
    settings = {"weights": backbone.state_dict(), "metrics": (), "progress": False}
    plain = vision_learner(data, BACKBONE, runtime=Runtime(CPU, channels_last=True), **settings)
    own = vision_learner(data, BACKBONE, runtime=choose_runtime("cpu", "fp32"), **settings)
    plain.data.valid = own.data.valid = None
    model = copy.deepcopy(plain.model).train()
    for module in model.get_submodule("backbone").modules():
        module.training &= not isinstance(module, nn.BatchNorm2d)
    contestants = [
        partial(timed, "bare", options.steps, bare_epoch(model, plain.data)),
        partial(timed, "loop", options.steps, partial(plain.fit_one_cycle, 1, LR)),
        partial(timed, "loop, own ways", options.steps, partial(own.fit_one_cycle, 1, LR)),
    ]
    take_turns(contestants, 1)  # the images are there now, and the memory
    targets = [("loop", "bare", "(target 1.02)"), ("loop, own ways", "bare", "")]
    return report("seconds a step", take_turns(contestants, options.runs), targets)


class InMemory(list[tuple[Tensor, Tensor]]):
    """Batches made once, and handed out with as little work as there can be."""

    device, bs, n_inp = CPU, 16, 1  # fastai asks for them

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Batches:
        yield from (Batch(*pair) for pair in self[start:])


def in_memory(count: int) -> InMemory:
    return InMemory(zip(torch.randn(count, 16, 4), torch.randint(2, (count, 16)), strict=True))


def tiny_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def tiny(options: argparse.Namespace) -> dict[str, float]:
    """Microseconds a batch."""
    torch.set_num_threads(1)  # several would wait for each other
    batches, count = in_memory(options.batches), options.batches / 1e6

    def ours(name: str, train: Any) -> dict[str, float]:
        # one layer group
        settings = {"split": lambda model: [[model]], "runtime": Runtime(CPU), "progress": False}
        learner = Learner(DataLoaders(train), tiny_model(), loss=cross_entropy, **settings)
        return timed(name, count, partial(learner.fit_one_cycle, 1, LR))

    model, data = tiny_model(), DataLoaders(batches)
    biases = [p for p in model.parameters() if p.ndim == 1]
    weights = [p for p in model.parameters() if p.ndim > 1]
    as_ours = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
    contestants: list[Contestant] = [
        partial(timed, "bare", count, bare_epoch(tiny_model(), data)),
        partial(timed, "bare, biases not decayed", count, bare_epoch(model, data, as_ours)),
        partial(ours, "loop", batches),
        partial(ours, "loop, TorchLoader", list(batches)),
    ]
    take_turns(contestants, 1)
    found = take_turns(contestants + in_fastai("tiny", options), options.runs)
    torch.set_num_threads(options.threads)
    targets = [
        ("loop", "bare", "(target 1.25)"),
        ("loop", "bare, biases not decayed", "(the same param groups as ours)"),
        ("loop", "fastai", "(target 0.333)"),
        ("loop, TorchLoader", "bare", ""),
    ]
    return report("microseconds a batch", found, targets)


def images_per_second(name: str, epoch: Callable[[int], Iterable[Any]]) -> dict[str, float]:
    """In the first epoch and in later ones; an epoch gives the targets of its batches."""
    rates = []
    for number in range(3):
        started = time.perf_counter()
        count = sum(len(targets) for targets in epoch(number))
        rates.append(count / (time.perf_counter() - started))
    return {f"{name}, first": rates[0], f"{name}, later": statistics.median(rates[1:])}


def loader(options: argparse.Namespace) -> dict[str, float]:
    """Images a second."""
    for file in options.data.rglob("*.jpg"):
        file.read_bytes()  # into the system's cache

    def ours() -> dict[str, float]:
        settings = {"image_size": SIDE, "num_workers": WORKERS, **FOLDERS}
        data = ImageDataLoaders.from_folder(options.data, **settings)
        batches = partial(data.train.epoch, data.seed)
        prepared = lambda n: (data.prepare(batch, n).targets for batch in batches(n))  # noqa: E731
        return images_per_second("ours", prepared)

    found = take_turns([ours, *in_fastai("loader", options)], options.runs)
    first, later = (("ours, first", "fastai, first"), ("ours, later", "fastai, later"))
    return report("images a second", found, [(*first, "(target 2)"), (*later, "(target 10)")])


def in_fastai(kind: str, options: argparse.Namespace) -> list[Contestant]:
    """A contestant that runs fastai in a process of its own; none where it can't be imported."""
    site = {"PYTHONPATH": options.fastai_site} if options.fastai_site else {}
    python = partial(subprocess.run, env=os.environ | site, stdout=subprocess.PIPE, text=True)
    if python([sys.executable, "-c", "import fastai"], stderr=subprocess.DEVNULL).returncode:
        print("fastai is not found and left out; pass --fastai-site", flush=True)
        return []
    command = [sys.executable, __file__, "--in-fastai", kind, "--data", str(options.data)]
    command += ["--batches", str(options.batches), "--threads", str(torch.get_num_threads())]
    return [lambda: json.loads(python(command, check=True).stdout.splitlines()[-1])]


def fastai_tiny(options: argparse.Namespace) -> dict[str, float]:
    import fastai.vision.all as fastai

    loaders = fastai.DataLoaders(in_memory(options.batches), in_memory(1))
    learner = fastai.Learner(loaders, tiny_model(), loss_func=cross_entropy)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, LR)  # to warm up
        return timed("fastai", options.batches / 1e6, partial(learner.fit_one_cycle, 1, LR))


def fastai_loader(options: argparse.Namespace) -> dict[str, float]:
    import fastai.vision.all as fastai

    normalise = fastai.Normalize.from_stats([0.5] * 3, [0.5] * 3)
    settings = {"bs": BATCH, "num_workers": WORKERS, "item_tfms": fastai.Resize(147), **FOLDERS}
    settings["batch_tfms"] = [*fastai.aug_transforms(size=SIDE), normalise]
    loaders = fastai.ImageDataLoaders.from_folder(options.data, **settings)
    return images_per_second("fastai", lambda _: (targets for _, targets in loaders.train))


BENCHMARKS = {"step": step, "tiny": tiny, "loader": loader}
FASTAI = {"tiny": fastai_tiny, "loader": fastai_loader}


if __name__ == "__main__":
    main()
