"""Memory of each process where a model is sharded, and where it is not.

    export FINETUNE_KEEP_ALLOCATOR=1 MALLOC_MMAP_THRESHOLD_=65536
    torchrun --nproc-per-node 2 tests/benchmarks/sharding.py vit_base_patch16_224 none
    torchrun --nproc-per-node 2 tests/benchmarks/sharding.py vit_base_patch16_224 full

On a CPU the memory of the device is that of the process; the variables make it give back what is
free. In the first process the whole model comes by while it is made. Prints, for each process, MiB
above what Python and torch take: the most while the learner is made, what is left then, and the
most in two steps of training of all layers. On two cores, beside other work, images of 64 px:

| processes | sharding | made | then | trained |
|---:|---|---:|---:|---:|
| 2 | none | 462 | 461 | 1,789 |
| 2 | full | 364 and 289 | 302 and 289 | 976 |
| 4 | full | 357 and 207 | 221 and 207 | 571 |
"""

import argparse
import gc
import resource
import threading
import time
from pathlib import Path

import numpy as np
import torch

from finetune import ImageDataLoaders, launch, vision_learner

PAGE = resource.getpagesize()


def resident() -> float:
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


class Peak:
    """The most that the process takes inside of the block."""

    def __enter__(self) -> "Peak":
        self.mib = resident()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._is_over.wait(0.01):
            self.mib = max(self.mib, resident())

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("sharding", choices=["full", "none"])
    parser.add_argument("--image-size", type=int, default=56)
    parser.add_argument("--checkpoint-activations", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    noise = np.random.default_rng(0)
    size = options.image_size
    images = [noise.integers(0, 255, (size, size, 3), dtype=np.uint8) for _ in range(8)]
    labels = ["a", "b"] * 4
    data = ImageDataLoaders.from_lists(
        images, labels, is_valid=[True, *[False] * 7], image_size=size, batch_size=4
    )
    before = resident()
    with Peak() as made:
        learner = vision_learner(
            data,
            options.model,
            weights=None,
            progress=False,
            device="cpu",
            precision="fp32",
            sharding=None if options.sharding == "none" else "full",
            checkpoint_activations=options.checkpoint_activations,
        )
    gc.collect()
    after = resident()
    started_at = time.perf_counter()
    with Peak() as trained:
        learner.fit_one_cycle(1, 1e-5)
    seconds = time.perf_counter() - started_at
    numbers = sum(parameter.numel() for parameter in learner.model.parameters())
    print(
        f"process {launch.rank()} of {launch.world_size()}, {options.model} with "
        f"{numbers * 4 / 2**20:,.0f} MiB of weights, sharding {options.sharding}: "
        f"made {made.mib - before:,.0f}, then {after - before:,.0f}, "
        f"trained {trained.mib - before:,.0f} MiB, {seconds:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
