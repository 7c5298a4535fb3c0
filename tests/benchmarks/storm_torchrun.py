"""A storm: one of two workers of torchrun is killed at a random moment, again and again.

    python tests/benchmarks/storm_torchrun.py FOLDER --kills 100

A run trains a small network on a few photos with `fine_tune` and a checkpoint, in two processes
under `torchrun --max-restarts`; after each kill torchrun starts both anew, and the run goes on.
Three kills of four are by SIGKILL, the others by SIGTERM; a third of them falls before training,
while the workers import, join and read the checkpoint. Every run must end, with the weights, the
best epoch, and the rows of the history of a run that nobody disturbed, bit for bit, and must leave
no file behind that the undisturbed run did not. With --forked, workers are forked from a server
that has imported torch, so that a kill costs a second; the agent that starts, watches and restarts
them is torchrun's own.

Prints a JSON line a run, and the table. `hung` are runs that did not end in time, or workers that
were not started anew within minutes; their folders stay, with what torchrun printed. `seconds` are
those from a kill until both workers have ended, the median and the most.
"""

import argparse
import atexit
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
WORKERS = 2
SECONDS_TO_RESTART = 180.0
SECONDS_AT_THE_END = 400.0
POLL_SECONDS = 0.02
SHARE_BEFORE_TRAINING = 0.3
SHARE_OF_SIGTERM = 0.25


# --- what a worker does


def train(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    tell(folder, rank, "imports")
    fine_tune(folder, rank, folder / "run.ckpt", [])


def train_forked(folder: Path) -> None:
    """The same in a forked process, which ends as a program does."""
    try:
        train(folder)
    except BaseException as error:
        sys.last_value = error
        raise
    finally:
        atexit._run_exitfuncs()


def fine_tune(folder: Path, rank: int, checkpoint: Path, callbacks: list[Any]) -> None:
    """A run with a checkpoint at every step; its outcome is a file of each process.

    checkpoint, callbacks: of the fit.
    """
    import torch

    from finetune import Callback, ImageDataLoaders, SaveBest, vision_learner
    from finetune.training import trainer
    from finetune.training.loop import Loop

    class Telling(Callback):
        """Says where the run is, so that a kill is known to have come at this stage."""

        def on_step_end(self, event: Any) -> None:
            tell(folder, rank, event.phase)

    torch.set_num_threads(1)
    trainer.Loop = partial(Loop, checkpoint_seconds=-1.0)  # type: ignore[misc, assignment]
    tell(folder, rank, "joins")
    photos = folder.parent / "photos"
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=4)
    learner = vision_learner(
        data,
        "test_resnet",
        weights=None,
        progress=False,
        device="cpu",
        precision="fp32",
        ema=0.9,
        mixup=0.2,
    )
    tell(folder, rank, "begins")
    best = SaveBest(checkpoint.with_name("best.ckpt"))
    learner.fine_tune(12, 1e-2, checkpoint=checkpoint, callbacks=[*callbacks, best, Telling()])
    tell(folder, rank, "ends")
    rows = [(row.phase, row.epoch, row.train_loss, row.valid) for row in learner.history.epochs]
    torch.save(
        {"model": dict(learner.model.state_dict()), "history": rows}, folder / f"end-{rank}.pt"
    )


def tell(folder: Path, rank: int, text: str) -> None:
    """The stage of a worker, in a file that is replaced whole."""
    stage = folder / f"stage-{rank}"
    new = stage.with_suffix(".new")
    new.write_text(f"{os.getpid()} {text}")
    os.replace(new, stage)


# --- the storm


def lead_forked(folder: Path, restarts: int) -> None:
    """What torchrun does, with workers that are forked."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    forkserver.set_forkserver_preload(["torchvision", "finetune.cli"])
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=WORKERS,
        run_id=folder.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=restarts,
        monitor_interval=0.1,
        start_method="forkserver",
    )
    elastic_launch(config, train_forked)(folder)


@dataclass(slots=True)
class Result:
    """What happened to a run. stages: in which the killed worker was. seconds: see above."""

    kills: int = 0
    terms: int = 0
    hung: str = ""
    code: int | None = None
    stages: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class Torchrun:
    """A run under torchrun, whose workers can be found."""

    def __init__(self, folder: Path, restarts: int, *, is_forked: bool) -> None:
        self.folder = folder
        folder.mkdir()
        command = [sys.executable]
        if is_forked:
            command += [__file__, str(folder), "--lead", str(restarts)]
        else:
            command += ["-m", "torch.distributed.run", "--standalone", "--monitor-interval=0.1"]
            command += [f"--nproc_per_node={WORKERS}", f"--max-restarts={restarts}"]
            command += [__file__, str(folder), "--train"]
        paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        with (folder / "output.txt").open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def workers(self) -> set[int]:
        """The numbers of the workers that live."""
        alive = set()
        for child, words in children(self.process.pid):
            # before it becomes a worker, a child of torchrun's has the words of torchrun
            if b"--train" in words and b"torch.distributed.run" not in words:
                alive.add(child)
            if b"multiprocessing.forkserver" in words:
                alive |= {number for number, _ in children(child)}
        return alive

    def stages(self) -> dict[int, str]:
        """In which stage each worker is, by its number, where it has said so."""
        stages = {}
        for rank in range(WORKERS):
            with suppress(OSError):
                number, text = (self.folder / f"stage-{rank}").read_text().split()
                stages[int(number)] = text
        return stages

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def wait_for_workers(self) -> set[int]:
        """The workers, once all are there; empty if the run ends or hangs instead."""
        latest = time.monotonic() + SECONDS_TO_RESTART
        while time.monotonic() < latest and not self.has_ended():
            workers = self.workers()
            if len(workers) == WORKERS:
                return workers
            time.sleep(POLL_SECONDS)
        return set()

    def wait_for_training(self, workers: set[int]) -> None:
        """Waits until the workers train, or some of them have ended."""
        before = {"imports", "joins", "begins"}
        while self.workers() == workers:
            stages = self.stages()
            if all(stages.get(worker, "imports") not in before for worker in workers):
                return
            time.sleep(POLL_SECONDS)

    def wait_for_end(self, workers: set[int]) -> float:
        """Seconds until all these workers have ended."""
        started_at = time.monotonic()
        while self.workers() & workers:
            if time.monotonic() > started_at + SECONDS_TO_RESTART:
                raise TimeoutError
            time.sleep(POLL_SECONDS)
        return time.monotonic() - started_at

    def end(self) -> None:
        """Kills torchrun and its workers."""
        workers = self.workers()
        self.process.kill()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        self.process.wait()


def children(process: int) -> list[tuple[int, bytes]]:
    """The children of a process that live, and the words of their commands."""
    living = []
    with suppress(OSError):  # it has ended
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            with suppress(OSError):
                if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    living.append((int(child), Path(f"/proc/{child}/cmdline").read_bytes()))
    return living


def disturb(
    run: Torchrun, kills: int, before_seconds: float, training_seconds: float, chance: random.Random
) -> Result:
    """Kills workers of a run, at most so often.

    before_seconds: how long it takes until a run trains. training_seconds: how much of training is
    to pass at most until the next kill.
    """
    result = Result()
    try:
        while result.kills < kills:
            workers = run.wait_for_workers()
            if not workers:
                if not run.has_ended():
                    result.hung = "no new workers"
                break
            if chance.random() < SHARE_BEFORE_TRAINING:
                time.sleep(chance.uniform(0, before_seconds))
            else:
                run.wait_for_training(workers)
                if "ends" in run.stages().values():
                    run.wait_for_end(workers)
                    continue
                time.sleep(chance.uniform(0, training_seconds))
            if run.workers() != workers:  # the run is ending by itself
                with suppress(subprocess.TimeoutExpired):
                    run.process.wait(SECONDS_TO_RESTART)
                continue
            victim = chance.choice(sorted(workers))
            number = signal.SIGTERM if chance.random() < SHARE_OF_SIGTERM else signal.SIGKILL
            result.stages[run.stages().get(victim, "python")] += 1
            os.kill(victim, number)
            result.kills += 1
            result.terms += number == signal.SIGTERM
            result.seconds.append(run.wait_for_end(workers))
        if not result.hung:
            result.code = run.process.wait(SECONDS_AT_THE_END)
    except TimeoutError:
        result.hung = "a worker lives on"
    except subprocess.TimeoutExpired:
        result.hung = "no end"
    finally:
        run.end()
    return result


def outcome(folder: Path) -> dict[str, Any]:
    """All that must be equal: files, weights and history of both processes, and the best epoch."""
    import torch

    from finetune.training import checkpoint

    files = {file.name for file in folder.rglob("*") if "stage" not in file.name}
    ends = [torch.load(folder / f"end-{rank}.pt", weights_only=True) for rank in range(WORKERS)]
    best = checkpoint.read(folder / "best.ckpt")["model"]
    return {"files": files, "ends": ends, "best": best}


def storm(options: argparse.Namespace) -> bool:
    """Kills until there were so many, and prints what happened; whether all was right."""
    from support import same, write_photos

    folder, kills = options.folder, options.kills
    write_photos(folder / "photos")
    whole = Torchrun(folder / "whole", 0, is_forked=options.forked)
    workers = whole.wait_for_workers()
    started_at = time.monotonic()
    whole.wait_for_training(workers)
    trains_at = time.monotonic()
    if whole.process.wait(SECONDS_AT_THE_END) != 0:
        print((folder / "whole" / "output.txt").read_text())
        return False
    before_seconds, training_seconds = trains_at - started_at, time.monotonic() - trains_at
    print(json.dumps({"seconds": {"before": before_seconds, "training": training_seconds}}))
    expected = outcome(folder / "whole")
    chance = random.Random(options.seed)
    results: list[Result] = []
    differing: list[str] = []
    orphans: Counter[str] = Counter()
    while (done := sum(result.kills for result in results)) < kills:
        most = min(options.kills_of_a_run, kills - done)
        run = folder / f"run-{len(results)}"
        torchrun = Torchrun(run, most, is_forked=options.forked)
        result = disturb(torchrun, most, before_seconds, training_seconds / 12, chance)
        results.append(result)
        how = "hung" if result.hung else "failed"
        if result.code == 0:
            found = outcome(run)
            orphans.update(found["files"] - expected["files"])
            is_same = all(same(found[name], expected[name]) for name in ("ends", "best"))
            how = "same" if is_same else "differs"
        if how != "same":
            differing.append(f"{run.name}: {how} {result.hung}")
        line = {"run": run.name, "kills": result.kills, "code": result.code, "how": how}
        print(json.dumps({**line, "stages": result.stages}), flush=True)
    seconds = [each for result in results for each in result.seconds]
    table = {
        "kills": len(seconds) + sum(bool(result.hung) for result in results),
        "by SIGTERM": sum(result.terms for result in results),
        "runs": len(results),
        "hung": sum(bool(result.hung) for result in results),
        "failed or differed": len(differing) - sum(bool(result.hung) for result in results),
        "orphan files": dict(orphans),
        "stages": dict(sum((result.stages for result in results), Counter())),
        "seconds": [round(statistics.median(seconds), 1), round(max(seconds), 1)],
        "which": differing,
    }
    print(json.dumps(table, indent=1))
    return not differing and not orphans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new one, for the runs")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-of-a-run", type=int, default=25, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forked", action="store_true", help="workers that import nothing")
    parser.add_argument("--lead", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.folder)
        return
    if options.lead is not None:
        lead_forked(options.folder, options.lead)
        return
    sys.path.insert(0, str(TESTS))
    options.folder.mkdir(parents=True)
    sys.exit(0 if storm(options) else 1)


if __name__ == "__main__":
    main()
