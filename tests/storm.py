"""A storm: runs that are killed at random moments again and again, and files with flipped bits.

`python tests/storm.py FOLDER [COUNT]` prints what happened as JSON. COUNT is the number of kills by
each signal, in `fine_tune` and in `finetune train`, and a tenth of the flipped bits of each kind.
A run that was killed must end, by repeating its call, as if nothing had happened; a file with a
flipped bit must be refused, or hold the same.
"""

import contextlib
import csv
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from support import same, tiny_learner, write_photos

from finetune import ImageDataLoaders, Learner, SaveBest, export, vision_learner
from finetune.cli import main
from finetune.models.backbones import read_weights
from finetune.training import checkpoint, trainer
from finetune.training.loop import Loop

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FLIPS_FOR_EACH_KILL = 10
TRAIN = [
    "--model", "test_resnet", "--weights", "null", "--image-size", "32", "--batch-size", "4",
    "--epochs", "2", "--save-best", "--device", "cpu", "--precision", "fp32",
]  # fmt: skip


def run_in_child(call: Callable[[], int]) -> int:
    """Forks a process that runs the call quietly; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            code = call()
    except (KeyboardInterrupt, SystemExit):
        code = 130
    finally:
        os._exit(code)


def storm(
    call: Callable[[Path], int], folder: Path, number: int, kills: int, chance: random.Random
) -> dict[str, Any]:
    """Kills runs until there were so many kills; each run is repeated until it ends by itself.

    Returns the folders of the runs that ended, and how many repeated calls failed.
    """
    started_at = time.monotonic()
    os.waitpid(run_in_child(partial(call, folder / "whole")), 0)
    duration = time.monotonic() - started_at
    ended, failures, done = [], 0, 0
    while done < kills:
        run = folder / f"{signal.Signals(number).name}-{len(ended)}"
        for _ in range(20):
            child = run_in_child(partial(call, run))
            time.sleep(chance.uniform(0, duration))
            os.kill(child, number)
            done += 1
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code == 0 or done == kills:
                break
        if code != 0:
            code = os.waitstatus_to_exitcode(os.waitpid(run_in_child(partial(call, run)), 0)[1])
        failures += code != 0
        ended.append(run)
    return {"kills": done, "runs": ended, "failures": failures}


def fine_tune(folder: Path) -> int:
    """A run with a checkpoint at every step, and the best epoch; its outcome is a file."""
    trainer.Loop = partial(Loop, checkpoint_seconds=-1.0)
    learner = tiny_learner(groups=3, metrics=["accuracy"], ema=0.9)
    best = SaveBest(folder / "best.pt")
    learner.fine_tune(2, 1e-2, checkpoint=folder / "run.pt", callbacks=[best])
    return 0


def outcome_of_fine_tune(folder: Path) -> dict[str, Any]:
    content = checkpoint.read(folder / "run.pt")
    for row in content["callbacks"]["History"]["epochs"]:
        row["seconds"] = 0.0
    best = checkpoint.read(folder / "best.pt")["model"]
    names = ("model", "optimizer", "groups", "frozen", "next_epoch", "average", "callbacks")
    return {**{name: content[name] for name in names}, "best": best}


def train(photos: Path, folder: Path) -> int:
    code = main(["train", str(photos), *TRAIN, "--output", str(folder)])
    # a run that had ended before it was killed is told to be there already
    is_finished = (folder / "metrics.json").exists()
    return 0 if is_finished else code


def outcome_of_train(folder: Path) -> dict[str, Any]:
    with (folder / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["seconds"] = ""
    metrics = json.loads((folder / "metrics.json").read_text())
    return {
        "files": sorted(str(file.relative_to(folder)) for file in folder.rglob("*")),
        "weights": (folder / "model" / "model.safetensors").read_bytes(),
        "steps": (folder / "steps.csv").read_text(),
        "history": rows,
        "validation": metrics["validation"],
        "report": (folder / "report.html").stat().st_size > 10_000,
    }


def kill_runs(folder: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kills `fine_tune` and `finetune train`; returns for each signal how the runs ended."""
    photos = write_photos(folder / "photos", per_class=6)
    storms = {
        "fine_tune": (fine_tune, outcome_of_fine_tune),
        "finetune train": (partial(train, photos), outcome_of_train),
    }
    results = {}
    for name, (call, outcome) in storms.items():
        for number in SIGNALS:
            place = folder / f"{name} {number}"
            place.mkdir()
            happened = storm(call, place, number, kills, chance)
            expected = outcome(place / "whole")
            differing = [run.name for run in happened["runs"] if not same(outcome(run), expected)]
            hidden = [file.name for run in happened["runs"] for file in run.rglob(".*")]
            results[f"{name}, {signal.Signals(number).name}"] = {
                "kills": happened["kills"],
                "runs": len(happened["runs"]),
                "failures": happened["failures"],
                "differing": len(differing),
                "hidden files": len(hidden),
            }
    return results


def flip_bits(
    file: Path, load: Callable[[], Any], flips: int, chance: random.Random
) -> dict[str, int]:
    """Flips one bit at a time and loads the file; returns how often it was refused."""
    whole, expected = file.read_bytes(), load()
    refused = changed = 0
    for _ in range(flips):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        try:
            content = load()
        except Exception:
            refused += 1
        else:
            changed += not same(expected, content)
    file.write_bytes(whole)
    return {"flips": flips, "refused": refused, "loaded with a change": changed}


def trained_learner(photos: Path) -> Learner:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_resnet", weights=None, progress=False, device="cpu")
    learner.fit(1)
    return learner


def read_export(folder: Path) -> Any:
    description = export.read_description(folder)
    model = description.architecture.build(weights=None)
    export.read_weights(folder, model)
    return description.to_dict(), dict(model.state_dict())


def flip_files(folder: Path, flips: int, chance: random.Random) -> dict[str, Any]:
    """Flips bits of a checkpoint, of files for `weights=`, and of an exported model."""
    learner = trained_learner(write_photos(folder / "images"))
    learner.save(folder / "run.pt")
    weights = folder / "weights.pth"
    torch.save(dict(learner.model.state_dict()), weights)
    exported = folder / "model"
    learner.export(exported)
    in_export = exported / "model.safetensors"
    loaders = {
        "checkpoint": (folder / "run.pt", lambda: checkpoint.read(folder / "run.pt")),
        "weights.pth": (weights, lambda: read_weights(weights)),
        "weights= of an export": (in_export, lambda: read_weights(in_export)),
        "export, weights": (in_export, lambda: read_export(exported)),
        "export, description": (exported / "model.json", lambda: read_export(exported)),
    }
    return {name: flip_bits(*loader, flips, chance) for name, loader in loaders.items()}


def run_storm(folder: Path, count: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    chance = random.Random(0)
    flips = flip_files(folder, FLIPS_FOR_EACH_KILL * count, chance)
    return {"flipped bits": flips, "kills": kill_runs(folder, count, chance)}


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    result = run_storm(target, int(sys.argv[2]) if len(sys.argv) > 2 else 100)
    print(json.dumps(result, indent=1))
