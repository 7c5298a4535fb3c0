"""What layer groups are worth: the same epochs with two groups, three, stages, and layer decay.

    python tests/benchmarks/groups.py --seeds 0 1 2

An ImageNet EfficientNet-Lite0 on the clothing photos at 128 px; the head on kept features first, as
`fine_tune` does it, then some epochs of everything. Prints a JSON line a run, then a table.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from clothing import CLOTHING

from finetune import ImageDataLoaders, LayerDecay, Learner, vision_learner
from finetune.demo import BACKBONE, imagenet_weights
from finetune.training.plan import fine_tune_plan, one_cycle_plan

HEAD_LR = 1e-3  # half of fine_tune's base_lr
WAYS: dict[str, tuple[str, Any]] = {  # split=, rates of the unfrozen epochs
    "two groups, lr_mult=100": ("backbone_head", slice(HEAD_LR / 100, HEAD_LR)),
    "three groups, lr_mult=100 (the default)": ("halves", slice(HEAD_LR / 100, HEAD_LR)),
    "stages, lr_mult=100": ("stages", slice(HEAD_LR / 100, HEAD_LR)),
    "every block, LayerDecay(0.75)": ("layers", LayerDecay(HEAD_LR, 0.75)),
    "every block, LayerDecay(0.9)": ("layers", LayerDecay(HEAD_LR, 0.9)),
    "two groups, one rate for all": ("backbone_head", HEAD_LR),
}


def train(way: str, weights: Any, seed: int, epochs: int) -> Learner:
    split, rates = WAYS[way]
    folders = {"train": "train", "valid": "validation"}
    data = ImageDataLoaders.from_folder(CLOTHING, image_size=128, seed=seed, **folders)
    learner = vision_learner(data, BACKBONE, weights=weights, split=split, progress=False)
    groups = learner.layer_groups
    frozen = fine_tune_plan(groups, epochs, head="kept features")[:1]
    cycle = one_cycle_plan(groups, epochs, rates, pct_start=0.3, div=5.0, frozen=0)
    learner.fit_plan(frozen + cycle)
    return learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1, help="of everything")
    parser.add_argument("--only", nargs="+", default=list(WAYS), help="some of the ways")
    parser.add_argument("--weights", type=Path, default=Path("/tmp/efficientnet_lite0.safetensors"))
    options = parser.parse_args()
    weights = imagenet_weights(options.weights)
    found: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for seed in options.seeds:
        for way in options.only:
            started = time.perf_counter()
            learner = train(way, weights, seed, options.epochs)
            accuracy = learner.history.epochs[-1].valid["accuracy"]
            row = (accuracy, time.perf_counter() - started, len(learner.layer_groups))
            found[way].append(row)
            print(json.dumps([way, seed, *row]), flush=True)
    print(f"\n{'':<44}groups  accuracy   seconds")
    for way, rows in found.items():
        accuracies, seconds, groups = zip(*rows, strict=True)
        each = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        mean = sum(accuracies) / len(rows)
        print(f"{way:<44}{groups[0]:>6}{mean:>10.3f}{sum(seconds) / len(rows):>10.1f}  ({each})")


if __name__ == "__main__":
    main()
