"""fine_tune(1) on photos of clothing, timed like the peers in ../shared/bench.

    python tests/benchmarks/clothing.py --seed 0

Same photos, ImageNet weights, 128 px, batches of 64, two threads, one epoch after the frozen
ones, everything else at its default. Prints one JSON object; `seconds_total` holds set-up,
decoding, training and validation, but no imports, as in the peers' scripts.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch

from finetune import Callback, ImageDataLoaders, vision_learner
from finetune.demo import BACKBONE, imagenet_weights
from finetune.training.events import EpochEnd

CLOTHING = Path(__file__).resolve().parents[3] / "shared" / "data" / "clothing"


HEAD_ALONE = ("probe", "frozen")
"""The phases of `fine_tune` in which the head alone changes, by the kind of head."""


class Clock(Callback):
    """`reached`: [seconds since the start, validation accuracy], a row for every new best."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.reached: list[list[float]] = []

    def on_epoch_end(self, event: EpochEnd) -> None:
        accuracy = round(event.valid["accuracy"], 4)
        if not self.reached or accuracy > self.reached[-1][1]:
            self.reached.append([round(time.perf_counter() - self.started, 1), accuracy])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=CLOTHING)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1, help="after the frozen ones")
    parser.add_argument("--head", default="linear")
    parser.add_argument("--unfreeze", help="see fine_tune; what it chooses if not given")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        weights = imagenet_weights(Path(temporary) / "weights.safetensors")
        data = ImageDataLoaders.from_folder(
            options.data, train="train", valid="validation", image_size=128, seed=options.seed
        )
        learner = vision_learner(data, BACKBONE, weights=weights, head=options.head)
    clock = Clock(started)
    learner.fine_tune(options.epochs, unfreeze=options.unfreeze, callbacks=[clock])
    total = time.perf_counter() - started

    seconds = {"frozen": 0.0, "unfrozen": 0.0}
    for row in learner.history.epochs:
        seconds["frozen" if row.phase in HEAD_ALONE else "unfrozen"] += row.seconds
    frozen = [row for row in learner.history.epochs if row.phase in HEAD_ALONE]
    report = {
        "peer": "finetune",
        "seed": options.seed,
        "seconds_total": round(total, 1),
        **{f"seconds_{phase}": round(value, 1) for phase, value in seconds.items()},
        "val_acc_frozen": round(frozen[-1].valid["accuracy"], 4),
        "seconds_until": clock.reached,
        "val_acc": round(learner.history.epochs[-1].valid["accuracy"], 4),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
