"""What starting costs: `import finetune` beside its libraries, and the listing of a big folder.

    python tests/benchmarks/startup.py --files 1000000 --classes 1000

Imports run in fresh processes, in turn, the median of `--runs` counting; the folder holds empty
files, freshly made, so that the listing finds its folders in the file system's cache. Prints one
JSON object; `mb_listing` is how much the process's peak grew by listing and splitting.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from finetune.data.sources.folders import from_folder

IMPORTS = {"finetune": "finetune", "libraries": "torch, torchvision, timm"}
TIMED = (
    "import time; started = time.perf_counter(); import {}; print(time.perf_counter() - started)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1000, help="folders that share the files")
    parser.add_argument("--runs", type=int, default=5, help="imports of each kind")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    imports = import_seconds(options.runs)
    with tempfile.TemporaryDirectory() as temporary:
        make_files(Path(temporary), options.files, options.classes)
        listing = list_and_split(Path(temporary))
    report = {
        **{f"seconds_import_{name}": round(value, 2) for name, value in imports.items()},
        "import_ratio": round(imports["finetune"] / imports["libraries"], 2),
        "files": options.files,
        "classes": options.classes,
        **listing,
    }
    print(json.dumps(report))


def import_seconds(runs: int) -> dict[str, float]:
    """The median of each kind; the kinds take turns so that a busy machine slows both."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(runs):
        for name, modules in IMPORTS.items():
            command = [sys.executable, "-c", TIMED.format(modules)]
            result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            seconds[name].append(float(result.stdout))
    return {name: statistics.median(values) for name, values in seconds.items()}


def make_files(folder: Path, files: int, classes: int) -> None:
    """`files` empty images with names of 20 characters, spread evenly over `classes` folders."""
    for label in range(classes):
        (folder / f"class{label:04d}").mkdir()
    for number in range(files):
        # scattered numbers, so that no file system lists them in sorted order
        name = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}.jpg"
        with open(f"{folder}/class{number % classes:04d}/{name}", "x"):
            pass


def list_and_split(folder: Path) -> dict[str, float]:
    before, started = peak_mb(), time.perf_counter()
    examples = from_folder(folder)
    listed = time.perf_counter()
    examples.split(0.2, seed=0)
    return {
        "seconds_listing": round(listed - started, 2),
        "seconds_split": round(time.perf_counter() - listed, 2),
        "mb_listing": round(peak_mb() - before),
    }


def peak_mb() -> float:
    """The most memory this process has held so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
