"""Ours beside the peers of ../shared/bench, in one sitting: interleaved, medians.

    python tests/benchmarks/peers.py --runs 3 --fastai-site DIR

One frozen and one unfrozen epoch on the photos of clothing, 128 px, batches of 64, the same
weights, two threads, a fresh process each. DIR holds fastai where it is not installed beside
torch. Peers named "+ allocator" get the memory settings that finetune makes for itself from
outside, so that what is left is not their doing. Prints a JSON line a run, and a table of
medians over seeds 0, 1, ..., with ours as a ratio to each.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BENCH = HERE.parents[2] / "shared" / "bench"
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": str(64 << 20),
}


def commands(fastai_site: str | None) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Name -> (command, additions to the environment)."""
    torch_loop = [str(BENCH / "peer_torch.py"), "--bn-eval"]
    fastai = [str(BENCH / "peer_fastai.py")]
    site = {} if fastai_site is None else {"PYTHONPATH": fastai_site}
    return {
        "finetune": ([str(HERE / "clothing.py")], {}),
        "torch --bn-eval": (torch_loop, {}),
        "torch --bn-eval + allocator": (torch_loop, ALLOCATOR),
        "torch --bn-eval --bf16": ([*torch_loop, "--bf16"], {}),
        "torch --bn-eval --bf16 + allocator": ([*torch_loop, "--bf16"], ALLOCATOR),
        "fastai": (fastai, site),
        "fastai + allocator": (fastai, site | ALLOCATOR),
        "fastai --bn-eval": ([*fastai, "--bn-eval"], site),
    }


def measure(command: list[str], environment: dict[str, str], seed: int) -> dict[str, Any] | None:
    """The last JSON object that the script printed; None if it failed."""
    done = subprocess.run(
        [sys.executable, *command, "--seed", str(seed)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(done.stderr[-500:], file=sys.stderr)
        return None
    report: dict[str, Any] = json.loads(lines[-1])
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--fastai-site", default=None, metavar="DIR")
    parser.add_argument("--only", nargs="+", default=["finetune", "torch --bn-eval", "fastai"])
    options = parser.parse_args()
    known = commands(options.fastai_site)
    unknown = sorted(set(options.only) - set(known))
    if unknown:
        parser.error(f"there is no peer {', '.join(unknown)}; there are {', '.join(known)}")

    reports: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for seed in range(options.runs):
        for name in options.only:
            report = measure(*known[name], seed)
            if report is not None:
                reports[name].append(report)
                print(json.dumps({**report, "peer": name}), flush=True)

    def median(name: str, key: str) -> float:
        return statistics.median(float(report[key]) for report in reports[name])

    columns = ("seconds_total", "seconds_frozen", "seconds_unfrozen", "peak_rss_mb")
    heads = ("total", "frozen", "unfrozen", "MB", "accuracy", "our time / its", "our memory / its")
    print("\n" + f"median of {options.runs}".ljust(38) + "  ".join(heads))
    for name in reports:
        total, frozen, unfrozen, memory = (median(name, key) for key in columns)
        accuracy = statistics.mean(report["val_acc"] for report in reports[name])
        ratio, space = (median("finetune", key) / median(name, key) for key in columns[::3])
        print(
            f"{name:<36}{total:>7.1f}{frozen:>8.1f}{unfrozen:>10.1f}{memory:>6.0f}{accuracy:>9.3f}"
            f"{ratio:>13.2f}{space:>14.2f}"
        )


if __name__ == "__main__":
    main()
