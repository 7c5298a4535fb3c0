"""A storm: one of two workers of Ray Train is killed at a random moment, again and again.

    python tests/benchmarks/storm_ray.py FOLDER --kills 30

A `TorchTrainer` with two workers and a `FailureConfig` trains a small network on a few photos with
`fine_tune` and `RayReport`; Ray starts both workers anew after each kill by SIGKILL, and the run
goes on after the last epoch that was reported. A third of the kills falls before training. Every
run must end, with the weights and the rows of the history of a run that nobody disturbed, bit for
bit, and with nothing of the killed workers left among the temporary files.

Prints a JSON line a run, and the table. `hung` is a run without workers for a quarter of an hour.
`orphans` are what remains in the folder for temporary files when Ray has ended.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from storm_torchrun import SHARE_BEFORE_TRAINING, TESTS, WORKERS, Result, fine_tune, tell

SECONDS_TO_RESTART = 900.0
SECONDS_BEFORE_TRAINING = 20.0
SECONDS_OF_TRAINING = 4.0
"""At most so long after workers are there, or train, one is killed."""
POLL_SECONDS = 0.05
START_ATTEMPTS = 8


def train(config: dict[str, Any]) -> None:
    """What each worker does; its outcome is a file of each process."""
    from ray import train as ray_train

    from finetune import RayReport

    folder, rank = Path(config["folder"]), ray_train.get_context().get_world_rank()
    tell(folder, rank, "imports")
    report = RayReport()
    fine_tune(folder, rank, report.checkpoint, [report])


class Killer:
    """Kills workers of a run, in a thread of its own, until it is told that the run has ended."""

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self.folder, self.kills = folder, kills
        self.chance = random.Random(seed)
        self.result = Result()
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stages(self) -> dict[int, str]:
        """In which stage each worker is that lives, by the number of its process."""
        stages = {}
        for rank in range(WORKERS):
            with suppress(OSError):
                number, text = (self.folder / f"stage-{rank}").read_text().split()
                os.kill(int(number), 0)
                stages[int(number)] = text
        return stages

    def _run(self) -> None:
        killed: set[int] = set()
        while self.result.kills < self.kills:
            started_at = time.monotonic()
            while len(self.stages().keys() - killed) < WORKERS:
                if time.monotonic() > started_at + SECONDS_TO_RESTART:
                    self.result.hung = "no new workers"
                    # Ray would wait with it
                    print(json.dumps({"hung": str(self.folder)}), flush=True)
                    os._exit(1)
                if self.is_over.wait(POLL_SECONDS):
                    return
            if killed:
                self.result.seconds.append(time.monotonic() - started_at)
            workers = self.stages().keys() - killed
            if not self._wait(workers):
                return
            stages = self.stages()
            alive = sorted(workers & stages.keys())
            if len(alive) < WORKERS:
                # they end, or have just been started anew for another reason
                killed |= workers - stages.keys()
                continue
            victim = self.chance.choice(alive)
            os.kill(victim, signal.SIGKILL)
            self.result.stages[stages[victim]] += 1
            self.result.kills += 1
            # Ray ends the other one, too
            killed |= workers

    def _wait(self, workers: set[int]) -> bool:
        """Waits for the moment of the next kill; False where the run ends before it."""
        if self.chance.random() < SHARE_BEFORE_TRAINING:
            return not self.is_over.wait(self.chance.uniform(0, SECONDS_BEFORE_TRAINING))
        before = {"imports", "joins", "begins"}
        while workers <= self.stages().keys() and before & set(self.stages().values()):
            if self.is_over.wait(POLL_SECONDS):
                return False
        return not self.is_over.wait(self.chance.uniform(0, SECONDS_OF_TRAINING))


def run(folder: Path, kills: int, seed: int) -> Result:
    """A run with at most so many kills."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    folder.mkdir()
    killer = Killer(folder, kills, seed)
    try:
        TorchTrainer(
            train,
            train_loop_config={"folder": str(folder)},
            scaling_config=ScalingConfig(num_workers=WORKERS),
            run_config=RunConfig(
                storage_path=str(folder / "ray"),
                name="run",
                failure_config=FailureConfig(max_failures=kills),
            ),
        ).fit()
        killer.result.code = 0
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        killer.result.code = 1
    killer.is_over.set()
    killer.thread.join()
    return killer.result


def outcome(folder: Path) -> list[Any]:
    import torch

    return [torch.load(folder / f"end-{rank}.pt", weights_only=True) for rank in range(WORKERS)]


def start_ray(temporary: Path) -> None:
    """Starts Ray, whose parts wait for each other for 30 s only, which a busy machine may need."""
    import ray

    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(
                num_cpus=WORKERS,
                include_dashboard=False,
                object_store_memory=100 << 20,
                runtime_env={"env_vars": {"TMPDIR": str(temporary)}},
            )
            return
        except Exception as error:
            print(f"attempt {attempt} to start Ray: {error}", file=sys.stderr)
            ray.shutdown()
    raise RuntimeError("Ray does not start here")


def storm(folder: Path, kills: int, kills_of_a_run: int, seed: int) -> bool:
    """Kills until there were so many, and prints what happened; whether all was right."""
    import ray
    from support import same, write_photos

    write_photos(folder / "photos")
    temporary = folder / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    start_ray(temporary)
    run(folder / "whole", 0, 0)
    expected = outcome(folder / "whole")
    results: list[Result] = []
    differing: list[str] = []
    while (done := sum(result.kills for result in results)) < kills:
        place = folder / f"run-{len(results)}"
        most = min(kills_of_a_run, kills - done)
        result = run(place, most, seed + len(results))
        results.append(result)
        how = "failed"
        if result.code == 0:
            how = "same" if same(outcome(place), expected) else "differs"
        if how != "same":
            differing.append(f"{place.name}: {how}")
        line = {"run": place.name, "kills": result.kills, "how": how, "stages": result.stages}
        print(json.dumps(line), flush=True)
    ray.shutdown()
    orphans = sorted(path.name for path in temporary.glob("finetune*"))
    seconds = [each for result in results for each in result.seconds]
    table = {
        "kills": sum(result.kills for result in results),
        "runs": len(results),
        "hung": 0,
        "failed or differed": differing,
        "orphans": len(orphans),
        "stages": dict(sum((result.stages for result in results), Counter())),
        "seconds to restart": [round(statistics.median(seconds), 1), round(max(seconds), 1)],
    }
    print(json.dumps(table, indent=1))
    return not differing and not orphans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new one, for the runs")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--kills-of-a-run", type=int, default=15, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    paths = [str(TESTS / "benchmarks"), str(TESTS), str(TESTS.parent)]
    # of this process, and of Ray's workers
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"})
    # a busy machine takes longer than the minute that Ray gives it
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "600"
    folder = options.folder.resolve()
    folder.mkdir(parents=True)
    sys.exit(0 if storm(folder, options.kills, options.kills_of_a_run, options.seed) else 1)


if __name__ == "__main__":
    main()
