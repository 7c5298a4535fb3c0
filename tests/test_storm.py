"""Runs that are killed at random moments, and files with flipped bits; see `storm.py`.

FINETUNE_STORM=100 makes it a storm of 100 kills by each signal.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import storm

COUNT = os.environ.get("FINETUNE_STORM", "4")


@pytest.mark.slow
def test_kills_change_no_result_and_flipped_bits_are_not_loaded(tmp_path: Path) -> None:
    # in a process of its own, which forks
    done = subprocess.run(
        [sys.executable, storm.__file__, str(tmp_path), COUNT],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for name, flips in result["flipped bits"].items():
        assert flips["loaded with a change"] == 0, (name, flips)
    for name, kills in result["kills"].items():
        assert kills["failures"] == kills["differing"] == kills["hidden files"] == 0, (name, kills)
