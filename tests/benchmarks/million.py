"""Memory and throughput against the number of small images, from a folder and from tar shards.

    python tests/benchmarks/million.py --images 1000 16000 256000 1000000 --folder /tmp/images

JPEGs of 10 kB (224 x 168 pixels), made once for each number, and shards of 10,000 of them; a small
network with random weights. Every row is measured in a fresh process, folder and shards in turns.
Of an epoch only the first --steps batches are read, unless --steps is 0: once when they are
decoded (`first`), again when what was kept is there (`later`); then the first --trained-steps are
trained (`trained`); all in images a second of wall clock. `cpu` are those of `first` in a second of
the cores' time, which depends less on what else the machine does.

Prints a JSON line a row, and the table: `build` is the seconds to list the files and to make the
loaders, `cores` the cores' time of it; `kept`, whether decoded images have room anywhere. Megabytes
of this process's memory: `start` with everything imported, `built` with the loaders, `peak` the
most from then on; all without what only holds the content of files, which is `of_files`, as decoded
images may be.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from scaling import forget, make_images, make_shards

from finetune import Callback, ImageDataLoaders, Stop, vision_learner
from finetune.training.events import StepEnd

BACKBONE = "test_efficientnet"
WIDTH = 224
POLL_SECONDS = 0.02
COLUMNS = (
    "images", "source", "build", "cores", "first", "later", "cpu", "trained", "kept", "start",
    "built", "peak", "of_files",
)  # fmt: skip


class StopAt(Callback):
    """Stops a fit after so many batches."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step_end(self, event: StepEnd) -> Stop | None:
        self.left -= 1
        return Stop("the window ends") if self.left == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 16000])
    parser.add_argument("--folder", type=Path, help="keeps the images; default: a temporary one")
    parser.add_argument("--size", type=int, default=128, help="of the network's input, in pixels")
    parser.add_argument("--steps", type=int, default=500, help="batches of 64; 0 is an epoch")
    parser.add_argument("--trained-steps", type=int, default=50, help="0: no training")
    parser.add_argument("--workers", type=int, default=2, help="threads that decode")
    parser.add_argument("--threads", type=int, default=1, help="of the network")
    parser.add_argument("--rounds", type=int, default=1, help="of folder and shards in turns")
    parser.add_argument("--sources", nargs="+", default=["folder", "shards"])
    parser.add_argument("--fine-tune", action="store_true", help="with a probe before the window")
    parser.add_argument("--no-index", action="store_true", help="the shards' index is made anew")
    parser.add_argument("--cold", action="store_true", help="read the files from the disk again")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(**options.measure)))
        return
    rows = []
    with nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as folder:
        for count in sorted(options.images):
            images = make_images(Path(folder), count, 1, WIDTH)
            shards = make_shards(images, 1)
            for _ in range(options.rounds):
                for source in options.sources:
                    place = images if source == "folder" else shards
                    if options.cold:
                        forget(place)
                    if options.no_index:
                        for file in shards.glob("*.index"):
                            file.unlink()
                    rows.append({"images": count, "source": source, **run(place, source, options)})
                    print(json.dumps(rows[-1]), flush=True)
    print("\n" + "".join(f"{name:>9}" for name in COLUMNS))
    for row in rows:
        print("".join(f"{row[name]:>9}" for name in COLUMNS))


def run(place: Path, source: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row's results, from a fresh process."""
    job = {
        "place": str(place),
        "source": source,
        "size": options.size,
        "steps": options.steps,
        "trained_steps": options.trained_steps,
        "workers": options.workers,
        "threads": options.threads,
        "fine_tune": options.fine_tune,
    }
    command = [sys.executable, __file__, "--measure", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(
    place: str,
    source: str,
    size: int,
    steps: int,
    trained_steps: int,
    workers: int,
    threads: int,
    fine_tune: bool,
) -> dict[str, Any]:
    """What the process of a row sees."""
    torch.set_num_threads(threads)
    start = memory_mb()

    def build() -> ImageDataLoaders:
        if source == "folder":
            return ImageDataLoaders.from_folder(place, image_size=size, num_workers=workers)
        shards = sorted(Path(place).glob("*.tar"))
        return ImageDataLoaders.from_shards(shards, image_size=size, num_workers=workers)

    started_at, started_cores_at = time.perf_counter(), time.process_time()
    data = build()
    build_seconds = time.perf_counter() - started_at
    build_cores = time.process_time() - started_cores_at
    built_mb = memory_mb()["RssAnon"]
    with warnings.catch_warnings(record=True) as caught, peak_memory() as peak:
        warnings.simplefilter("always")
        first, cores = images_a_second(data, steps)
        later, _ = images_a_second(data, steps)
        trained = train(data, trained_steps, fine_tune) if trained_steps else 0.0
    is_kept = not any("decoded anew in every epoch" in str(each.message) for each in caught)
    return {
        "build": round(build_seconds, 2),
        "cores": round(build_cores, 2),
        "first": round(first),
        "later": round(later),
        "cpu": round(cores),
        "trained": round(trained),
        "kept": "yes" if is_kept else "no",
        "start": round(start["RssAnon"]),
        "built": round(built_mb),
        "peak": round(peak["RssAnon"]),
        "of_files": round(peak["RssFile"] - start["RssFile"]),
    }


def images_a_second(data: ImageDataLoaders, steps: int) -> tuple[float, float]:
    """Of wall clock and of the cores' time, of the first batches of the first epoch."""
    order = data.train.order(data.seed, 0)[: steps or None]
    began = (time.perf_counter(), time.process_time())
    images = 0
    for batch in data.train.fetch(order):
        images += len(data.prepare(batch, 0))
    ended = (time.perf_counter(), time.process_time())
    wall, cores = (end - begin for begin, end in zip(began, ended, strict=True))
    return images / wall, images / cores


def train(data: ImageDataLoaders, steps: int, fine_tune: bool) -> float:
    """Images a second of training on the same batches."""
    learner = vision_learner(
        data, BACKBONE, weights=None, progress=False, device="cpu", precision="fp32"
    )
    stop = StopAt(steps)
    began = time.perf_counter()
    if fine_tune:
        learner.fine_tune(1, callbacks=[stop])
    else:
        learner.fit(1, callbacks=[stop])
    return (steps - stop.left) * data.batch_size / (time.perf_counter() - began)


def memory_mb() -> dict[str, float]:
    """What this process holds now: RssAnon is its own, RssFile the content of files."""
    status = Path("/proc/self/status").read_text()
    sizes = {}
    for name in ("RssAnon", "RssFile"):
        sizes[name] = int(status.split(f"{name}:")[1].split()[0]) / 2**10
    return sizes


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """The most of each kind while the block runs; the system keeps only that of their sum."""
    peak = memory_mb()
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(POLL_SECONDS):
            for name, size in memory_mb().items():
                peak[name] = max(peak[name], size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        is_over.set()
        watcher.join()


if __name__ == "__main__":
    main()
