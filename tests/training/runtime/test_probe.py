"""The probe: only long automatic runs, the fastest way, and no trace in the learner."""

from dataclasses import replace

import pytest
import torch
from support import copy_of, same_state, tiny_learner

from finetune import Learner, Runtime
from finetune.training.runtime import probe
from finetune.training.runtime.runtime import Precision
from finetune.training.setup import Setup
from finetune.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def speeds(monkeypatch) -> dict[bool, float]:
    """Seconds of a step by whether it runs in channels_last; "trials" counts the measurements."""
    seconds: dict = {True: 1.0, False: 0.5, "trials": 0}

    def look_up(setup: Setup, runtime: Runtime, batches: object, frozen: int) -> float:
        seconds["trials"] += 1
        return seconds[runtime.channels_last]

    monkeypatch.setattr(probe, "_seconds_per_step", look_up)
    return seconds


def long_plan(learner: Learner, epochs: int = 200):
    from finetune.training.plan import fit_plan

    return fit_plan(learner.layer_groups, epochs, 1e-3)


def test_the_fastest_way_is_taken(speeds):
    learner = tiny_learner()
    runtime, note = probe.fastest(learner.trainer.setup, long_plan(learner))
    assert not runtime.channels_last
    assert note == "running on cpu, fp32: 2.00 x the speed of cpu, fp32, channels_last"


def test_a_small_gain_changes_nothing(speeds):
    speeds[False] = 0.97
    learner = tiny_learner()
    assert probe.fastest(learner.trainer.setup, long_plan(learner))[0].channels_last


def test_a_short_run_is_not_measured(speeds):
    learner = tiny_learner()
    runtime, note = probe.fastest(learner.trainer.setup, long_plan(learner, epochs=10))
    assert (runtime, note, speeds["trials"]) == (learner.trainer.setup.runtime, "", 0)


def test_the_trial_takes_at_most_its_share_of_the_steps(speeds):
    learner = tiny_learner()
    setup = learner.trainer.setup
    needed = 2 * (1 + probe._TIMED_STEPS) / probe.SHARE / setup.steps_per_epoch
    probe.fastest(setup, long_plan(learner, int(needed) - 1))
    assert speeds["trials"] == 0
    probe.fastest(setup, long_plan(learner, int(needed) + 1))
    assert speeds["trials"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"runtime": Runtime(CPU)},
        {"runtime": Runtime(CPU, compile=True)},
        {"runtime": Runtime(CPU, compile=True, automatic=True)},  # as an earlier fit left it
        {"precision": "fp32"},
    ],
)
def test_what_the_caller_chose_is_not_questioned(speeds, options: dict):
    learner = tiny_learner(**({"device": None} | options if "runtime" in options else options))
    before = learner.trainer.setup.runtime
    assert probe.fastest(learner.trainer.setup, long_plan(learner)) == (before, "")


def test_every_long_run_is_measured_anew(speeds):
    learner = tiny_learner()
    for trials in (2, 4):
        probe.fastest(learner.trainer.setup, long_plan(learner))
        assert speeds["trials"] == trials


def test_compiling_is_tried_in_very_long_runs_only(speeds, monkeypatch):
    tried = []
    look_up = probe._seconds_per_step

    def recording(setup: Setup, runtime: Runtime, batches: object, frozen: int) -> float:
        tried.append(runtime.compile)
        return 0.1 if runtime.compile else look_up(setup, runtime, batches, frozen)

    monkeypatch.setattr(probe, "_seconds_per_step", recording)
    learner = tiny_learner()
    epochs = int(probe.COMPILING / probe.SHARE / 0.5 / learner.trainer.setup.steps_per_epoch)
    probe.fastest(learner.trainer.setup, long_plan(learner, epochs - 1))
    assert not any(tried)
    runtime, _ = probe.fastest(learner.trainer.setup, long_plan(learner, epochs + 2))
    assert runtime.compile


def test_a_real_trial_leaves_no_trace():
    learner = tiny_learner()
    before = copy_of(learner.model.state_dict())
    values = [dict(group.values) for group in learner.layer_groups]
    modes = [module.training for module in learner.model.modules()]
    random = torch.get_rng_state()
    runtime, note = probe.fastest(learner.trainer.setup, long_plan(learner))
    assert (note == "") == (runtime == learner.trainer.setup.runtime)
    assert same_state(before, learner.model.state_dict())
    assert values == [dict(group.values) for group in learner.layer_groups]
    assert modes == [module.training for module in learner.model.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert not learner.optimizer.state_dict()


def test_a_way_that_fails_is_never_the_fastest():
    def unsupported(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not implemented for 'Half'")

    setup = replace(tiny_learner().trainer.setup, loss=unsupported)
    batches = list(setup.data.train.epoch(0, 0))[:1]
    assert probe._seconds_per_step(setup, setup.runtime, batches, 0) == float("inf")


def test_a_model_that_cannot_be_tried_runs_as_it_was():
    learner = tiny_learner()
    leaf = torch.ones(1, requires_grad=True)
    learner.model[0].computed = leaf * 2  # can't be copied
    setup = learner.trainer.setup
    assert probe.fastest(setup, long_plan(learner)) == (setup.runtime, "")


def test_the_current_way_as_the_fastest_is_not_worth_a_line(speeds):
    speeds[False] = 2.0
    learner = tiny_learner()
    assert probe.fastest(learner.trainer.setup, long_plan(learner))[1] == ""
    assert speeds["trials"] == 2


def test_a_loss_with_state_is_tried_on_a_copy():
    class Counting(torch.nn.CrossEntropyLoss):
        calls = 0

        def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(outputs, targets)

    loss = Counting()
    learner = tiny_learner(loss=loss)
    probe.fastest(learner.trainer.setup, long_plan(learner))
    assert loss.calls == 0


def test_a_long_fit_trains_in_the_way_that_was_found(speeds, capsys):
    learner = tiny_learner(progress=True)
    learner.fit(200, 1e-3)
    assert not learner.trainer.setup.runtime.channels_last
    assert capsys.readouterr().out.startswith("running on cpu, fp32: 2.00 x the speed")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_keeps_the_recorded_way(tmp_path, precision: Precision):
    learner = tiny_learner()
    trainer: Trainer = learner.trainer
    trainer._use(replace(trainer.setup.runtime, channels_last=False, precision=precision))
    learner.save(tmp_path / "a.ckpt")
    other = tiny_learner()
    other.load(tmp_path / "a.ckpt")
    assert other.trainer.setup.runtime == trainer.setup.runtime
