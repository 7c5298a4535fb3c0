"""What a model is worth beyond its accuracy on images like those of training.

    python tests/benchmarks/quality.py probe --seeds 0 1 2
    python tests/benchmarks/quality.py shift
    python tests/benchmarks/quality.py long_tail coverage unknown
    python tests/benchmarks/quality.py tuned_coverage ranking --epochs 4

shift: how much of the accuracy is left on blurred, darker, badly compressed and rotated photos, for
the head trained alone, for fine-tuning, and for the weights between that validation likes best.
ImageNet EfficientNet-Lite0, clothing at 128 px, drawn anew for each seed: 1,000 to train on, 500 to
choose by, 500 to judge on. Prints a JSON line a run, then means with their standard errors.

probe: the best linear head on frozen features, 1,000 to train on and 1,000 to validate as in
ablation.py: accuracy, and the processor's seconds to fit it once the features are there.

long_tail, coverage, unknown, tuned_coverage: see trust.py. ranking: see ranking.py. several_labels:
see several_labels.py.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import ablation
import torch
import trust
from clothing import CLOTHING, HEAD_ALONE
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from ranking import ranking
from several_labels import several_labels
from torch import Tensor

from finetune import Callback, ImageDataLoaders, Learner, vision_learner
from finetune.demo import BACKBONE, imagenet_weights
from finetune.probe.linear_probe import fit_probe
from finetune.randomness import generator
from finetune.training.events import PhaseStart, StepEnd

TRAINED_ON, CHOSEN_BY, JUDGED_ON = 1000, 500, 500


# --- shift


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 100))


def darker(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.4)


def badly_compressed(image: Image.Image) -> Image.Image:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=10)
    return Image.open(stream)


def rotated(image: Image.Image) -> Image.Image:
    return image.rotate(30, Image.Resampling.BICUBIC)


SHIFTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda image: image,
    "blur": blurred,
    "darker": darker,
    "JPEG 10": badly_compressed,
    "rotated 30": rotated,
}


class Ends(Callback):
    """The weights before and after the unfrozen phase."""

    def __init__(self) -> None:
        self.model = torch.nn.Module()
        self.start: dict[str, Tensor] = {}
        self.end: dict[str, Tensor] = {}
        self._last_epoch = -1

    def on_phase_start(self, event: PhaseStart) -> None:
        if event.phase not in HEAD_ALONE:
            self.start = _copied(self.model)
            self._last_epoch = event.epochs - 1

    def on_step_end(self, event: StepEnd) -> None:
        # every time, as the last step is known by nothing that comes after it before the choice
        if event.phase not in HEAD_ALONE and event.epoch == self._last_epoch:
            self.end = _copied(self.model)


def _copied(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def shift(options: argparse.Namespace) -> None:
    """In-between weights under shift."""
    weights = imagenet_weights(options.weights)
    accuracies: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in options.seeds:
        for (model, name), accuracy in _shift_of_seed(seed, options.epochs, weights).items():
            accuracies[model, name].append(accuracy)
    names = [*SHIFTS, "mean of shifts"]
    print("\n" + " " * 24 + "".join(f"{name:>16}" for name in names))
    for model in ("head alone", "fine-tuned", "in between"):
        texts = [f"{with_error(accuracies[model, name]):>16}" for name in names]
        print(f"{model:<24}" + "".join(texts))
    for model in ("head alone", "fine-tuned"):
        texts = []
        for name in names:
            pairs = zip(accuracies["in between", name], accuracies[model, name], strict=True)
            texts.append(f"{with_error([ours - theirs for ours, theirs in pairs]):>16}")
        print(f"in between - {model:<11}" + "".join(texts))


def _shift_of_seed(seed: int, epochs: int, weights: Any) -> dict[tuple[str, str], float]:
    """(weights, shift) -> accuracy."""
    files = sorted(CLOTHING.rglob("*.jpg"))
    order = torch.randperm(len(files), generator=generator(seed, "quality")).tolist()
    chosen = [files[number] for number in order[: TRAINED_ON + CHOSEN_BY + JUDGED_ON]]
    judged = chosen[TRAINED_ON + CHOSEN_BY :]
    ends = Ends()
    learner = _tuned(chosen[: TRAINED_ON + CHOSEN_BY], seed, epochs, weights, ends)
    between = learner.history.epochs[-1].between
    assert between is not None
    compared = {f"{at:g}": dict(row) for at, row in between.compared.items()}
    print(json.dumps({"seed": seed, "taken": between.fraction, "compared": compared}))
    states = {
        "head alone": ends.start,
        "fine-tuned": ends.end,
        "in between": _copied(learner.model),
    }
    accuracies: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, change in SHIFTS.items():
            _write(judged, change, Path(folder) / name)
        for model, state in states.items():
            learner.model.load_state_dict(state)
            for name in SHIFTS:
                table = learner.predictions(Path(folder) / name)
                accuracies[model, name] = table.accuracy
            shifted = [accuracies[model, name] for name in SHIFTS if name != "as it is"]
            accuracies[model, "mean of shifts"] = statistics.fmean(shifted)
    print(json.dumps({" ".join(key): value for key, value in accuracies.items()}), flush=True)
    return accuracies


def _tuned(files: list[Path], seed: int, epochs: int, weights: Any, ends: Ends) -> Learner:
    data = ImageDataLoaders.from_lists(
        files,
        [file.parent.name for file in files],
        is_valid=[number >= TRAINED_ON for number in range(len(files))],
        image_size=128,
        seed=seed,
    )
    learner = vision_learner(data, BACKBONE, weights=weights, callbacks=[ends], progress=False)
    ends.model = learner.model
    learner.fine_tune(epochs, interpolate=True)
    return learner


def _write(files: list[Path], change: Callable[[Image.Image], Image.Image], folder: Path) -> None:
    """Writes the changed images, without loss, into a folder for each class."""
    for number, file in enumerate(files):
        target = folder / file.parent.name / f"{number:04d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
        change(image).save(target)


# --- probe


def probe(options: argparse.Namespace) -> None:
    """Accuracy and cost of a probe."""
    weights = imagenet_weights(options.weights)
    _, _, _, data_of = ablation.clothing(weights)
    accuracies: list[float] = []
    seconds: list[float] = []
    for seed in options.seeds:
        data = data_of(seed, None)
        learner = vision_learner(data, BACKBONE, weights=weights, progress=False)
        features = learner.features(learner.data.train)
        started_at = time.process_time()
        fit_probe(features.values, features.targets, data.task, data.classes, seed=seed)
        seconds.append(time.process_time() - started_at)
        learner.probe()
        accuracies.append(learner.history.epochs[-1].valid["accuracy"])
        print(json.dumps([seed, accuracies[-1], seconds[-1]]), flush=True)
    print(f"accuracy {with_error(accuracies)}, {with_error(seconds)} CPU seconds to fit")


def with_error(values: list[float]) -> str:
    """The mean and its standard error."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.3f} +- {error:.3f}"


MEASURES: dict[str, Callable[[argparse.Namespace], None]] = {
    "probe": probe,
    "shift": shift,
    "ranking": ranking,
    "several_labels": several_labels,
    **trust.MEASURES,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measures", nargs="+", choices=list(MEASURES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1, help="of fine_tune")
    parser.add_argument("--weights", type=Path, default=Path("/tmp/efficientnet_lite0.safetensors"))
    options = parser.parse_args()
    for name in options.measures:
        MEASURES[name](options)


if __name__ == "__main__":
    main()
