"""Under torchrun a script is enough: processes join at the first Learner, and one prints."""

from pathlib import Path

import pytest
import torch
from processes import run_python, run_together
from torchruns import torchrun

from finetune.training import checkpoint

SCRIPT = """
import sys
from finetune import ImageDataLoaders, vision_learner
data = ImageDataLoaders.from_folder(sys.argv[1], image_size=32, batch_size=8)
learner = vision_learner(data, "test_efficientnet", weights=None, device="cpu")
learner.fine_tune(1, checkpoint=sys.argv[2] + "/run.ckpt")
learner.export(sys.argv[2] + "/model")
"""

TELLS_THE_GROUP = """
import atexit
import torch.distributed as dist
from finetune import distributed
atexit.register(lambda: print("at the end", dist.is_initialized()))
"""

HEADS = """
import sys
from functools import partial
import numpy as np
import torch
from finetune import ImageDataLoaders, distributed, vision_learner

noise = np.random.default_rng(0)
images = [noise.integers(0, 230 + i % 3, (32, 32, 3), dtype=np.uint8) for i in range(29)]
labels = [["a", "b", "c"][i % 3] for i in range(29)]
several = [[label, "even"] if i % 2 else [label] for i, label in enumerate(labels)]
optimizer = partial(torch.optim.SGD, momentum=0.9)
results = []
for head, options, task in (
    ("linear", {"mixup": 0.4}, "single_label"),
    ("mlp", {"cutmix": 1.0, "ema": 0.9}, "single_label"),
    ("mlp", {"norm": "train", "accumulate": 2}, "single_label"),
    ("mlp", {"label_smoothing": 0.0}, "multi_label"),
):
    data = ImageDataLoaders.from_lists(
        images, several if task == "multi_label" else labels, image_size=32, batch_size=7, task=task
    )
    learner = vision_learner(
        data, "test_resnet", weights=None, head=head, optimizer=optimizer, progress=False,
        device="cpu", precision="fp32", **options,
    )
    learner.fit_one_cycle(2, 1e-3)
    learner.fine_tune(1, 1e-3, freeze_epochs=2, freeze_views=1)
    epochs = [(row.train_loss, *row.valid.values()) for row in learner.history.epochs]
    results.append((dict(learner.model.state_dict()), torch.tensor(epochs)))
torch.save(results, f"{sys.argv[1]}/{distributed.rank()} of {distributed.world_size()}.pt")
"""

TRAIN = [
    "--model", "test_efficientnet", "--weights", "null", "--image_size", "32", "--batch_size", "8",
    "--epochs", "1", "--device", "cpu",
]  # fmt: skip

COMMAND = """
import sys
from finetune.cli import main
sys.exit(main(sys.argv[1:]))
"""


def headers(printed: str) -> int:
    """How many tables of epochs were begun."""
    return printed.count("train loss")


def test_a_script_trains_once(photos: Path, tmp_path: Path) -> None:
    ranks = run_together(2, TELLS_THE_GROUP + SCRIPT, photos, tmp_path)
    assert [(rank.returncode, rank.stderr) for rank in ranks] == [(0, "")] * 2
    assert headers(ranks[0].stdout) == 1
    # the group was ended before what was registered earlier
    assert ranks[0].stdout.endswith("at the end False\n")
    assert ranks[1].stdout == "at the end False\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run.ckpt"]
    # each epoch once: the probe and one of steps, of 2 batches of the 19 images
    run = checkpoint.read(tmp_path / "run.ckpt")["run"]
    assert (run["ended"], run["steps"]) == ("finished", 2)


def test_the_callers_own_group_is_used_and_left(photos: Path, tmp_path: Path) -> None:
    begin = "import torch.distributed as dist; dist.init_process_group('gloo')\n"
    end = "print(dist.get_world_size())\n"
    code = TELLS_THE_GROUP + begin + SCRIPT + end
    ranks = run_together(2, code, photos, tmp_path)
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert ranks[1].stdout == "2\nat the end True\n"


def test_the_command_prints_once_and_makes_one_run_folder(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    command = ["train", photos, *TRAIN, "--output", output]
    ranks = run_together(2, COMMAND, *command)
    assert [(rank.returncode, rank.stderr) for rank in ranks] == [(0, "")] * 2
    assert headers(ranks[0].stdout) == 1
    assert ranks[1].stdout == ""
    assert (output / "metrics.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_wrong_usage_is_said_once() -> None:
    ranks = run_together(2, COMMAND, "train", "photos", "--epoch", "1")
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert "finetune train: error:" in ranks[0].stderr
    assert ranks[1].stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_train_each_head_as_one_does(count: int, tmp_path: Path) -> None:
    run_python(HEADS, tmp_path)
    for rank in run_together(count, HEADS, tmp_path):
        assert rank.returncode == 0, rank.stderr
    expected = torch.load(tmp_path / "0 of 1.pt", weights_only=True)
    for rank in range(count):
        found = torch.load(tmp_path / f"{rank} of {count}.pt", weights_only=True)
        # mostly 1e-6; where BatchNorm of a few equal values divides by nearly 0, rounding may
        # decide which side of a ReLU a value is on
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0, equal_nan=True)


@pytest.mark.slow
def test_torchrun_a_script(photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = torchrun(script, photos, tmp_path)
    assert (done.returncode, headers(done.stdout)) == (0, 1), done.stderr
    assert checkpoint.read(tmp_path / "run.ckpt")["run"]["ended"] == "finished"


@pytest.mark.slow
def test_torchrun_the_command(photos: Path, tmp_path: Path) -> None:
    command = ["-m", "finetune", "train", photos, *TRAIN, "--output", tmp_path / "run"]
    done = torchrun(*command)
    assert (done.returncode, headers(done.stdout)) == (0, 1), done.stderr
    again = torchrun(*command)
    assert again.returncode == 1
    assert again.stderr.count("holds this run, finished; give another --output") == 1
