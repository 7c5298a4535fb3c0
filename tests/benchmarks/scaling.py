"""Time and memory against the number of images, their size, workers and processes.

    python tests/benchmarks/scaling.py --images 1000 4000 16000 --folder /tmp/images

Synthetic JPEGs of 500 x 375 pixels, made once for each number; a small network with random weights
(so that the data counts), 128 px and 2 workers unless the row says otherwise; sizes, workers and
processes with the fewest images. With --shards only the numbers of images, each from a folder and
from tar shards of 10,000 images; with --parquet 100 1000 from a folder, from shards, and from a
Parquet file of row groups of so many rows. --width changes the images, --listing only builds the
loaders, --first ends with the first epoch, and with --cold the system forgets the files before a
row. Every row is measured in fresh processes; with `gloo` that many share its batches, the slowest
one's seconds count, and their memory adds up.
Seconds to list the files and build the loaders (`build`), of the training loader's first epoch,
which decodes (`first`), of the second, and of later ones (the median), and of the phase of
`fine_tune` whose backbone is frozen, with kept features (`frozen`; the validation images are
decoded before it).
Prints a JSON line a row, with the memory that the imports took as `start_mb`, and what was read
until the first epoch's end as `read_mb`, and the table.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
import torch.distributed as dist
from PIL import Image
from pyarrow import parquet

from finetune import ImageDataLoaders, vision_learner
from finetune.data.image_options import ImageOptions
from finetune.data.packing import PackSettings, pack
from finetune.training.plan import fine_tune_plan

BACKBONE = "test_efficientnet"
CLASSES = 10
LATER = 3  # epochs after the second
WIDTH, HEIGHT, TEXTURE = 500, 375, 2048
DISTINCT = 4096
"""So many images are drawn; those beyond are the same pixels again, in files of their own bytes."""
SECONDS = ("build", "first", "second", "later", "frozen")


@dataclass(frozen=True, slots=True)
class Row:
    """gloo: processes that share the work; 0 for one without a process group."""

    images: int
    source: str = "folder"  # or "shards", or "parquet-100" of groups of 100 rows
    size: int = 128
    workers: int = 2
    gloo: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--threads", type=int, default=2, help="shared by the processes of a row")
    parser.add_argument("--folder", type=Path, help="keeps the images; default: a temporary one")
    parser.add_argument("--width", type=int, default=500, help="of the images, in pixels")
    parser.add_argument("--shards", action="store_true", help="each number from shards, too")
    parser.add_argument("--parquet", type=int, nargs="+", default=[], help="rows of a row group")
    parser.add_argument("--listing", action="store_true", help="build the loaders, and no more")
    parser.add_argument("--first", action="store_true", help="the first epoch, and no more")
    parser.add_argument("--cold", action="store_true", help="read the files from the disk again")
    parser.add_argument("--quick", action="store_true", help="one small row of each kind")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(**options.measure)))
        return
    results = []
    with nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as folder:
        for row in rows(options):
            images = make_images(Path(folder), row.images, options.threads, options.width)
            if row.source == "shards":
                images = make_shards(images, options.threads)
            elif row.source != "folder":
                images = make_parquet(images, int(row.source.removeprefix("parquet-")))
            if options.cold:
                forget(images)
            results.append({**asdict(row), **run(row, images, options)})
            print(json.dumps(results[-1]), flush=True)
    print("\n" + "".join(f"{name:>9}" for name in results[0]))
    for result in results:
        print("".join(f"{value:>9}" for value in result.values()))


def rows(options: argparse.Namespace) -> list[Row]:
    images: list[int] = sorted(options.images)
    if options.quick:
        base = Row(min(256, *images))
        changes: list[dict[str, Any]] = [{}, {"size": 64}, {"workers": 1}, {"gloo": 2}]
        changes.extend({"source": source} for source in ("shards", "parquet-100"))
        return [replace(base, **change) for change in changes]
    if options.shards or options.parquet:
        sources = ["folder", "shards", *(f"parquet-{count}" for count in options.parquet)]
        return [Row(count, source) for count in images for source in sources]
    base = Row(min(images))
    sizes = [replace(base, size=size) for size in (64, 224)]
    workers = [replace(base, workers=count) for count in (1, 4)]
    processes = [replace(base, gloo=count) for count in (1, 2)]
    return [*map(Row, sorted(images)), *sizes, *workers, *processes]


# --- images


def make_images(folder: Path, count: int, threads: int, width: int = WIDTH) -> Path:
    """`count` JPEGs in class folders, the same ones every time; nothing to do where they are."""
    root = folder / (str(count) if width == WIDTH else f"{count}-{width}")
    height = width * HEIGHT // WIDTH
    if (root / ".complete").exists():
        return root
    for label in range(CLASSES):
        (root / f"class{label}").mkdir(parents=True, exist_ok=True)
    rough = texture(np.random.default_rng(0))

    @lru_cache(DISTINCT)
    def encoded(number: int) -> bytes:
        random = np.random.default_rng(number)
        top, left = random.integers(TEXTURE - height), random.integers(TEXTURE - width)
        pixels = rough[top : top + height, left : left + width, random.permutation(3)]
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "jpeg", quality=90)
        return stream.getvalue()

    def write(number: int) -> None:
        content = encoded(number % DISTINCT)
        if number >= DISTINCT:
            content = with_comment(content, f"{number}".encode())
        (root / f"class{number % CLASSES}" / f"{number:06d}.jpg").write_bytes(content)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(count)))
    (root / ".complete").touch()
    return root


def with_comment(jpeg: bytes, comment: bytes) -> bytes:
    """The same image in other bytes, with a comment behind the mark of the beginning."""
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def make_shards(root: Path, threads: int) -> Path:
    """The images of a folder packed, 10,000 a shard; nothing to do where they are."""
    shards = root.with_name(f"{root.name}-shards")
    if not shards.exists():
        settings = PackSettings(images=10_000, megabytes=1e6, num_workers=threads)
        pack(root, shards, settings)
    return shards


def make_parquet(root: Path, rows_per_group: int) -> Path:
    """The images of a folder in a Parquet file, in a random order; nothing to do where it is."""
    folder = root.with_name(f"{root.name}-parquet-{rows_per_group}")
    file = folder / "train.parquet"
    if file.exists():
        return folder
    folder.mkdir(exist_ok=True)
    files = sorted(root.rglob("*.jpg"))
    np.random.default_rng(0).shuffle(files)  # type: ignore[arg-type]
    features = '{"info": {"features": {"image": {"_type": "Image"}}}}'
    cell = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [("image", cell), ("label", pyarrow.string())], {"huggingface": features}
    )
    with parquet.ParquetWriter(file.with_suffix(".new"), schema) as writer:
        for first in range(0, len(files), rows_per_group):
            part = files[first : first + rows_per_group]
            images = [
                {"bytes": path.read_bytes(), "path": path.relative_to(root).as_posix()}
                for path in part
            ]
            labels = [path.parent.name for path in part]
            writer.write_table(pyarrow.table([images, labels], schema=schema))
    file.with_suffix(".new").rename(file)
    return folder


def forget(folder: Path) -> None:
    """Has the system forget the content of all files in and below a folder."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def texture(random: np.random.Generator) -> np.ndarray:
    """Noise whose amplitude falls with the frequency, as in photos: uint8 [T, T, 3]."""
    total = np.zeros((TEXTURE, TEXTURE, 3), np.float32)
    side = 4
    while side <= TEXTURE:
        for channel in range(3):
            noise = Image.fromarray(random.standard_normal((side, side)).astype(np.float32))
            total[..., channel] += np.asarray(noise.resize((TEXTURE, TEXTURE))) / side**0.4
        side *= 2
    return (128 + total * (50 / total.std())).clip(0, 255).astype(np.uint8)


# --- measuring


def run(row: Row, images: Path, options: argparse.Namespace) -> dict[str, float]:
    """A row's results, from as many fresh processes as it has."""
    threads: int = options.threads
    count = max(1, row.gloo)
    with tempfile.TemporaryDirectory() as temporary:
        workers = []
        for rank in range(count):
            job = {
                "images": str(images),
                "row": asdict(row),
                "threads": max(1, threads // count),
                "rank": rank,
                "store": f"{temporary}/store",
                "listing": options.listing,
                "only_first": options.first,
            }
            command = [sys.executable, __file__, "--measure", json.dumps(job)]
            workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise RuntimeError(f"a process of {row} failed; its error is above")
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    seconds = SECONDS[:1] if options.listing else SECONDS[:2] if options.first else SECONDS
    result = {name: round(max(each[name] for each in found), 3) for name in seconds}
    megabytes = ("start_mb", "peak_mb", "read_mb")
    return result | {name: round(sum(each[name] for each in found)) for name in megabytes}


def measure(
    images: str,
    row: dict[str, Any],
    threads: int,
    rank: int,
    store: str,
    listing: bool,
    only_first: bool,
) -> dict[str, float]:
    """What one process of a row sees."""
    torch.set_num_threads(threads)
    start_mb, size, gloo = peak_mb(), row["size"], row["gloo"]
    before_mb = read_mb()
    with process_group(gloo, rank, store):

        def build() -> ImageDataLoaders:
            options: ImageOptions = {"image_size": size, "num_workers": row["workers"]}
            if row["source"] == "folder":
                return ImageDataLoaders.from_folder(images, **options)
            if row["source"] == "shards":
                return ImageDataLoaders.from_shards(f"{images}/*.tar", **options)
            return ImageDataLoaders.from_parquet(f"{images}/*.parquet", **options)

        seconds, data = timed(build)
        if listing:
            megabytes = {"start_mb": start_mb, "peak_mb": peak_mb()}
            return {"build": seconds, **megabytes, "read_mb": read_mb() - before_mb}
        epochs = [timed(lambda: train_epoch(data, 0))[0]]
        first_mb = read_mb() - before_mb
        if only_first:
            megabytes = {"start_mb": start_mb, "peak_mb": peak_mb(), "read_mb": first_mb}
            return {"build": seconds, "first": epochs[0], **megabytes}
        epochs += [timed(lambda n=n: train_epoch(data, n))[0] for n in range(1, 2 + LATER)]
        for _ in data.valid.epoch(data.seed, 0):
            pass
        settings: dict[str, Any] = {"weights": None, "device": "cpu", "precision": "fp32"}
        learner = vision_learner(data, BACKBONE, progress=False, **settings)
        plan = fine_tune_plan(learner.layer_groups, 1, head="kept features")
        frozen, _ = timed(lambda: learner.fit_plan(plan[:1]))
    later = statistics.median(epochs[2:])
    values = (seconds, epochs[0], epochs[1], later, frozen)
    megabytes = {"start_mb": start_mb, "peak_mb": peak_mb(), "read_mb": first_mb}
    return {**dict(zip(SECONDS, values, strict=True)), **megabytes}


def train_epoch(data: ImageDataLoaders, number: int) -> None:
    for batch in data.train.epoch(data.seed, number):
        data.prepare(batch, number)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it; processes of a group begin together."""
    if dist.is_initialized():
        dist.barrier()
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


@contextmanager
def process_group(size: int, rank: int, store: str) -> Iterator[None]:
    if not size:
        yield
        return
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def read_mb() -> float:
    """What this process has read so far, of files and all else; 0 where the system can't tell."""
    try:
        counters = Path("/proc/self/io").read_text()
    except OSError:
        return 0.0
    return int(counters.split("rchar: ")[1].split()[0]) / 1e6


def peak_mb() -> float:
    """The most memory this process has held so far."""
    try:  # Linux hands the peak that getrusage knows on to the processes that one starts
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    except (OSError, IndexError):
        unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
