"""A run goes on from its checkpoint, after a worker was lost and with another number of them."""

import os
from pathlib import Path

import pytest
import torch
from processes import run_python, run_together
from torch import Tensor
from torchruns import torchrun

SCRIPT = """
import os, signal, sys
from functools import partial
from pathlib import Path
import torch
from support import tiny_data, tiny_learner
from finetune import Callback, distributed

torch.set_num_threads(1)
folder, end = Path(sys.argv[1]), sys.argv[2]
is_first_try = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"

class AtStep(Callback):
    def on_step_end(self, event):
        if event.phase == "unfrozen" and (event.epoch, event.step) == (1, 3) and is_first_try:
            if end == "killed" and distributed.rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if end == "interrupted" and distributed.rank() == 0:
                os.kill(os.getpid(), signal.SIGINT)

# an optimizer of Adam's kind would make steps of the rounding where a gradient is 0, as that of
# a bias in front of BatchNorm
learner = tiny_learner(
    groups=3, data=tiny_data(96, 12), ema=0.9, mixup=0.2, callbacks=[AtStep()],
    optimizer=partial(torch.optim.SGD, momentum=0.9),
)
try:
    learner.fine_tune(3, 1e-2, checkpoint=folder / "run.ckpt")
except KeyboardInterrupt:
    print("interrupted")
else:
    torch.save(dict(learner.model.state_dict()), folder / f"{distributed.rank()}.pt")
"""


def weights(folder: Path, rank: int) -> dict[str, Tensor]:
    return torch.load(folder / f"{rank}.pt", weights_only=True)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_a_run_goes_on_with_another_number_of_processes(
    before: int, after: int, tmp_path: Path
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        folder.mkdir()
    assert run_python(SCRIPT, whole, "whole").returncode == 0
    for rank in run_together(before, SCRIPT, resumed, "interrupted"):
        assert (rank.returncode, rank.stdout) == (0, "interrupted\n"), rank.stderr
    for rank in run_together(after, SCRIPT, resumed, "whole"):
        assert (rank.returncode, rank.stdout) == (0, ""), rank.stderr
    for rank in range(after):
        torch.testing.assert_close(weights(resumed, rank), weights(whole, 0), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_torchrun_restarts_what_a_lost_worker_ended(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    for end, restarts in (("whole", 0), ("killed", 1)):
        (tmp_path / end).mkdir()
        done = torchrun(script, tmp_path / end, end, restarts=restarts, environment=environment)
        assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    for rank in range(2):
        torch.testing.assert_close(
            weights(tmp_path / "killed", rank), weights(tmp_path / "whole", 0), atol=0, rtol=0
        )
