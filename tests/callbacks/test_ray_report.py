"""Ray Train: a worker that is lost in the middle changes nothing of the result."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune import RayReport
from finetune.training.checkpoint import read

SCRIPT = Path(__file__).with_name("ray_script.py")


def run(storage: Path, *, losses: int) -> str:
    storage.mkdir()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(storage), str(losses)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def rows_of(storage: Path) -> list[dict[str, str]]:
    """The epochs of a run, without what a clock says."""
    with (storage / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        del row["seconds"]
    return rows


@pytest.fixture
def ray_runs() -> None:
    """Skips where Ray is not installed, or can't start its own processes, as in some containers."""
    pytest.importorskip("ray")
    start = "import ray; ray.init(num_cpus=2, include_dashboard=False); ray.shutdown()"
    try:
        subprocess.run([sys.executable, "-c", start], capture_output=True, check=True, timeout=180)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"Ray does not start here: {error}")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_runs")
def test_a_lost_worker_changes_nothing(tmp_path: Path) -> None:
    output = run(tmp_path / "whole", losses=0)
    run(tmp_path / "disturbed", losses=1)
    names = ["epoch", "phase", "seconds", "train_loss", "valid_accuracy", "valid_loss"]
    assert f"metrics {names} 4" in output
    assert len(list((tmp_path / "disturbed").glob("lost-*"))) == 1
    assert (tmp_path / "disturbed" / "went-on").exists()
    assert not (tmp_path / "whole" / "went-on").exists()
    whole, disturbed = (
        read(tmp_path / name / "end.ckpt")["model"] for name in ("whole", "disturbed")
    )
    assert whole.keys() == disturbed.keys()
    for name, value in whole.items():
        assert torch.equal(value, disturbed[name]), name
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "disturbed")


def test_outside_of_ray_it_says_where_it_belongs() -> None:
    pytest.importorskip("ray")
    with pytest.raises(RuntimeError, match="for the function that a TorchTrainer of Ray runs"):
        RayReport()
