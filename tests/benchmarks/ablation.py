"""What the defaults of fine_tune are worth: each of them changed alone, on two kinds of networks.

    python tests/benchmarks/ablation.py --family digits
    python tests/benchmarks/ablation.py --family clothing --epochs 1 4

clothing: ImageNet EfficientNet-Lite0, photos at 128 px, 1,000 to train on and 1,000 to validate,
drawn anew for each seed. digits: a ResNet-18 pretrained here, on the digits 0 to 4 of
scikit-learn, then tuned to 5 to 9 at 32 px, 300 to train on and about 590 to validate. Prints a
JSON line a run and at the end a table of means; `frozen` is the accuracy after the frozen phase.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clothing import CLOTHING, HEAD_ALONE
from PIL import Image
from sklearn.datasets import load_digits

from finetune import Augmentation, ImageDataLoaders, Learner, vision_learner
from finetune.demo import BACKBONE, imagenet_weights
from finetune.randomness import generator

GENTLE = Augmentation(flip=0.0, min_window=0.85)  # a mirrored digit is another sign
STRONG = {"min_window": 0.5, "rotate": 20.0, "warp": 0.2, "lighting": 0.4}

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "head='mlp'": {"head": "mlp"},
    "interpolate=False": {"interpolate": False},
    "freeze_epochs=4, freeze_views=1": {"freeze_epochs": 4, "freeze_views": 1},
    "freeze_epochs=1 (fastai's)": {"freeze_epochs": 1},
    "freeze_epochs=4": {"freeze_epochs": 4},
    "freeze_epochs=10, freeze_views=1": {"freeze_epochs": 10, "freeze_views": 1},
    "freeze_views=4": {"freeze_views": 4},
    "norm='train', freeze_epochs=4": {"norm": "train", "freeze_epochs": 4},
    "norm='follow'": {"norm": "follow"},
    "lr_mult=3": {"lr_mult": 3},
    "lr_mult=10": {"lr_mult": 10},
    "lr_mult=100": {"lr_mult": 100},
    "base_lr=1e-3": {"base_lr": 1e-3},
    "base_lr=4e-3": {"base_lr": 4e-3},
    "interpolate=True": {"interpolate": True},
    "augment=None": {"augment": None},
    "strong augmentation": {"augment": "strong"},
}
_OF_LEARNER = ("norm", "head")

Data = Callable[[int, Augmentation | None], ImageDataLoaders]


def clothing(weights: Any) -> tuple[str, Any, Augmentation, Data]:
    files = sorted(CLOTHING.rglob("*.jpg"))

    def data(seed: int, augment: Augmentation | None) -> ImageDataLoaders:
        chosen = torch.randperm(len(files), generator=generator(seed, "ablation"))[:2000].tolist()
        return ImageDataLoaders.from_lists(
            [files[i] for i in chosen],
            [files[i].parent.name for i in chosen],
            is_valid=[i >= 1000 for i in range(2000)],
            image_size=128,
            seed=seed,
            augment=augment,
        )

    return BACKBONE, weights, Augmentation(), data


def digits() -> tuple[str, Any, Augmentation, Data]:
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    images = [Image.fromarray(p).resize((40, 40), Image.Resampling.BICUBIC) for p in pixels]

    def data(seed: int, augment: Augmentation | None, first: int = 5) -> ImageDataLoaders:
        chosen = np.flatnonzero((labels >= first) & (labels < first + 5))
        np.random.default_rng(seed).shuffle(chosen)
        return ImageDataLoaders.from_lists(
            [images[i] for i in chosen],
            [str(labels[i]) for i in chosen],
            is_valid=[n >= 300 for n in range(len(chosen))],
            image_size=32,
            batch_size=32,
            seed=seed,
            augment=augment,
        )

    source = vision_learner(data(0, GENTLE, first=0), "resnet18", weights=None, progress=False)
    source.fit_one_cycle(15, 3e-3)
    print(json.dumps({"pretrained": source.history.epochs[-1].valid}), flush=True)
    weights = {n: v.clone() for n, v in source.model.get_submodule("backbone").state_dict().items()}
    return "resnet18", weights, GENTLE, data


def run(name: str, backbone: str, weights: Any, data: ImageDataLoaders, epochs: int) -> Learner:
    options = {k: v for k, v in VARIANTS[name].items() if k != "augment"}
    of_learner = {k: options.pop(k) for k in _OF_LEARNER if k in options}
    learner = vision_learner(data, backbone, weights=weights, progress=False, **of_learner)
    learner.fine_tune(epochs, **options)
    return learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=["clothing", "digits"], default="digits")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), help="some of the variants")
    parser.add_argument("--weights", type=Path, default=Path("/tmp/efficientnet_lite0.safetensors"))
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.family == "digits":
        backbone, weights, standard, make = digits()
    else:
        backbone, weights, standard, make = clothing(imagenet_weights(options.weights))
    augmentations = {"strong": Augmentation(flip=standard.flip, **STRONG), None: None}

    found: dict[tuple[str, int], list[tuple[float, float, float]]] = defaultdict(list)
    for seed in options.seeds:
        usual = make(seed, standard)
        for name in options.only:
            augment = VARIANTS[name].get("augment", "standard")
            data = make(seed, augmentations[augment]) if augment != "standard" else usual
            for epochs in options.epochs:
                started = time.perf_counter()
                rows = run(name, backbone, weights, data, epochs).history.epochs
                frozen = [row.valid["accuracy"] for row in rows if row.phase in HEAD_ALONE][-1]
                seconds = time.perf_counter() - started
                result = (frozen, rows[-1].valid["accuracy"], seconds)
                found[name, epochs].append(result)
                print(json.dumps([options.family, name, epochs, seed, *result]), flush=True)

    print(f"\n{options.family}: mean validation accuracy of {len(options.seeds)} seeds")
    for (name, epochs), results in found.items():
        frozen, accuracy, seconds = (
            sum(column) / len(results) for column in zip(*results, strict=True)
        )
        print(f"{name:<36}{epochs:>3} epochs {frozen:>7.3f}{accuracy:>7.3f}{seconds:>7.1f} s")


if __name__ == "__main__":
    main()
