"""The loop: events in order, endings told to all, interruptions that lose nothing."""

import math
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import (
    StopAt,
    copy_of,
    plan_values,
    same_state,
    setup_of,
    tiny_data,
    tiny_learner,
    tiny_pairs,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from finetune import Callback, DataLoaders, DivergenceError, Learner, Save, Stop
from finetune.training import checkpoint
from finetune.training.events import EpochEnd, EpochStart, FitEnd, FitStart, PhaseStart, StepEnd
from finetune.training.loop import Loop
from finetune.training.plan import fine_tune_plan, fit_plan
from finetune.training.run import Run


class Recorder(Callback):
    def __init__(self) -> None:
        self.events: list = []

    def record(self, event: object) -> None:
        self.events.append(event)

    on_fit_start = on_phase_start = on_epoch_start = record
    on_step_end = on_epoch_end = on_fit_end = record

    @property
    def kinds(self) -> list[type]:
        return [type(event) for event in self.events]


class On(Callback):
    """Calls a function at the `count`th event of a kind; its answer is the callback's."""

    def __init__(self, kind: type, action: Callable[[], object], count: int = 1) -> None:
        self.kind, self.action, self.left = kind, action, count

    def _look(self, event: object) -> object:
        if isinstance(event, self.kind):
            self.left -= 1
            if self.left == 0:
                return self.action()
        return None

    on_fit_start = on_phase_start = on_epoch_start = _look
    on_step_end = on_epoch_end = on_fit_end = _look


def failing(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def short_learner(**options: object) -> Learner:
    """Two steps an epoch."""
    return tiny_learner(data=tiny_data(count=8), **options)


# --- events


def test_events_come_in_the_order_that_their_module_tells():
    recorder = Recorder()
    short_learner().fine_tune(2, callbacks=[recorder])
    epoch = [EpochStart, StepEnd, StepEnd, EpochEnd]
    assert recorder.kinds == [
        *(FitStart, PhaseStart, *epoch),
        *(PhaseStart, *epoch, *epoch),
        FitEnd,
    ]


def test_events_say_where_the_run_is():
    recorder = Recorder()
    learner = short_learner(groups=3)
    learner.fine_tune(1, callbacks=[recorder])
    assert recorder.events[0] == FitStart(
        ("frozen", "1 and above"), 2, 2, ("0", "1", "2"), 0, validates=True
    )
    assert replace(recorder.events[1], peaks={}) == PhaseStart("frozen", 1, 2, 0)
    assert recorder.events[2] == EpochStart("frozen", 0, 2, 0)
    assert replace(recorder.events[6], peaks={}) == PhaseStart("1 and above", 1, 1, 0)
    assert recorder.events[6].peaks["lr"] == pytest.approx((1e-5, 1e-4, 1e-3))
    assert recorder.events[-1] == FitEnd("finished")


def test_a_resumed_run_says_where_it_goes_on():
    recorder = Recorder()
    learner = short_learner()
    learner.fine_tune(2, callbacks=[StopAt(5)])
    learner.resume(callbacks=[recorder])
    assert recorder.events[0].first_epoch == 2
    assert replace(recorder.events[1], peaks={}) == PhaseStart("unfrozen", 2, 0, first_epoch=1)
    assert recorder.events[2] == EpochStart("unfrozen", 1, 2, first_step=1)


def test_steps_run_at_the_values_of_the_plan():
    learner = tiny_learner(groups=3)
    learner.fine_tune(2, base_lr=1e-2)
    planned = list(plan_values(fine_tune_plan(learner.layer_groups, 2, base_lr=1e-2), 8))
    assert len(learner.history.steps) == len(planned)
    for row, (phase, values) in zip(learner.history.steps, planned, strict=True):
        assert (row.phase, row.lr, row.momentum) == (phase.name, values["lr"], values["momentum"])


def test_an_optimizer_without_momentum_reports_none():
    learner = short_learner(optimizer=torch.optim.Adagrad)
    learner.fit_one_cycle(1)
    assert [row.momentum for row in learner.history.steps] == [(), ()]


def test_the_training_loss_is_the_mean_over_the_steps():
    learner = tiny_learner()
    learner.fit(2)
    for row in learner.history.epochs:
        losses = [step.loss for step in learner.history.steps if step.epoch == row.epoch]
        assert row.train_loss == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_without_validation_data_there_are_no_results():
    data = tiny_data(count=8)
    data.valid = None
    learner = tiny_learner(data=data)
    learner.fit(1)
    assert learner.history.epochs[0].valid == {}


def test_a_fit_without_validation_data_says_so():
    data, recorder = tiny_data(count=8), Recorder()
    data.valid = None
    tiny_learner(data=data).fit(1, callbacks=[recorder])
    assert not recorder.events[0].validates


def test_the_model_is_left_in_eval_mode_without_gradients():
    learner = short_learner()
    learner.fit(1)
    assert not learner.model.training
    assert all(p.grad is None for p in learner.model.parameters())


def test_the_frozen_phase_moves_the_head_alone():
    learner = tiny_learner(groups=3)
    body, head = (copy_of(part.state_dict()) for part in (learner.model[:2], learner.model[2]))
    learner.fine_tune(1, 1e-2, callbacks=[StopAt(8)])
    assert same_state(body, learner.model[:2].state_dict())
    assert not same_state(head, learner.model[2].state_dict())


# --- answers


@pytest.mark.parametrize("kind", [FitStart, PhaseStart, EpochStart, StepEnd, EpochEnd])
def test_stop_ends_the_fit_after_any_event(kind: type):
    recorder = Recorder()
    learner = short_learner()
    learner.fit(2, callbacks=[On(kind, lambda: Stop("enough")), recorder])
    assert recorder.kinds[-2:] == [kind, FitEnd]
    assert recorder.events[-1] == FitEnd("stopped: enough")


def test_stop_ends_the_whole_plan():
    learner = short_learner()
    learner.fine_tune(5, callbacks=[On(EpochEnd, lambda: Stop("enough"))])
    assert [row.phase for row in learner.history.epochs] == ["frozen"]


@pytest.mark.parametrize("kind", [StepEnd, EpochEnd])
def test_save_writes_a_checkpoint_from_which_the_run_goes_on(tmp_path: Path, kind: type):
    path = tmp_path / "saved.pt"
    whole = tiny_learner()
    whole.fit(2, callbacks=[On(kind, lambda: Save(path))])
    learner = tiny_learner()
    learner.load(path)
    learner.resume()
    assert same_state(whole.model.state_dict(), learner.model.state_dict())
    assert learner.history.steps == whole.history.steps


def test_save_and_stop_are_both_done(tmp_path: Path):
    save = On(EpochEnd, lambda: Save(tmp_path / "saved.pt"))
    stop = On(EpochEnd, lambda: Stop("enough"))
    learner = short_learner()
    learner.fit(2, callbacks=[stop, save])
    assert len(learner.history.epochs) == 1
    assert (tmp_path / "saved.pt").exists()


def test_a_save_amid_losses_that_are_read_late_has_all_their_rows():
    # as on an accelerator, where the losses of some steps are read together
    learner, saved = tiny_learner(), []
    run = Run(fine_tune_plan(learner.layer_groups, 1), 0, step=3)

    def save(path: Path) -> None:
        saved.append((len(learner.history.steps), run.loss_sum))

    loop = Loop(setup_of(learner), [learner.history, On(StepEnd, lambda: Save(Path("x")))], save)
    for i in range(3):
        row = StepEnd("frozen", 0, i, 0.0, (), ())
        loop._pending.add(row, torch.tensor(1.0))
    loop._emit_pending(run)
    assert saved == [(3, 3.0)]  # the run's position is after the third step


# --- errors


@pytest.mark.parametrize("kind", [FitStart, PhaseStart, EpochStart, StepEnd, EpochEnd])
def test_an_error_in_a_callback_surfaces_as_itself_and_all_hear_the_end(kind: type):
    error, before, after = ValueError("my mistake"), Recorder(), Recorder()
    with pytest.raises(ValueError, match=r"^my mistake$") as caught:
        short_learner().fit(2, callbacks=[before, On(kind, failing(error)), after])
    assert caught.value is error
    assert before.events[-1] == after.events[-1] == FitEnd("failed: my mistake")


def test_an_error_at_the_end_does_not_hide_the_first_one():
    first, second, recorder = ValueError("first"), KeyError("second"), Recorder()
    callbacks = [On(FitEnd, failing(second)), On(StepEnd, failing(first)), recorder]
    with pytest.raises(ValueError, match=r"^first$") as caught:
        short_learner().fit(1, callbacks=callbacks)
    assert caught.value is first
    assert recorder.events[-1] == FitEnd("failed: first")


def test_an_error_at_the_end_alone_surfaces_and_all_hear_the_end():
    error, recorder = KeyError("at the end"), Recorder()
    with pytest.raises(KeyError, match="at the end") as caught:
        short_learner().fit(1, callbacks=[On(FitEnd, failing(error)), recorder])
    assert caught.value is error
    assert recorder.events[-1] == FitEnd("finished")


def test_an_error_in_the_model_surfaces_as_itself():
    error = RuntimeError("out of ideas")

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        raise error

    recorder = Recorder()
    with pytest.raises(RuntimeError, match=r"^out of ideas$") as caught:
        short_learner(loss=loss).fit(1, callbacks=[recorder])
    assert caught.value is error
    assert recorder.events[-1] == FitEnd("failed: out of ideas")


# --- interruptions


def test_ctrl_c_waits_for_the_step_and_the_run_resumes_exactly():
    whole = tiny_learner()
    whole.fine_tune(1)
    learner = tiny_learner()
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        learner.fine_tune(1, callbacks=[On(StepEnd, send(signal.SIGINT), 11), recorder])
    assert recorder.events[-1] == FitEnd("interrupted")
    assert len(learner.history.steps) == 11
    assert learner.validate()["loss"] > 0
    learner.resume()
    assert same_state(whole.model.state_dict(), learner.model.state_dict())
    assert learner.history.steps == whole.history.steps


@pytest.mark.parametrize("kind", [FitStart, EpochStart, StepEnd, EpochEnd])
def test_ctrl_c_anywhere_leaves_a_run_that_resumes_exactly(kind: type):
    whole = tiny_learner()
    whole.fit(2)
    learner = tiny_learner()
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        learner.fit(2, callbacks=[On(kind, send(signal.SIGINT))])
    learner.resume()
    assert same_state(whole.model.state_dict(), learner.model.state_dict())
    assert learner.history.steps == whole.history.steps


def test_sigterm_exits_with_143_and_a_checkpoint(tmp_path: Path):
    path = tmp_path / "run.pt"
    with pytest.raises(SystemExit, match="143"):
        tiny_learner().fit(2, checkpoint=path, callbacks=[On(StepEnd, send(signal.SIGTERM), 3)])
    assert checkpoint.read(path)["run"]["step"] == 3


@pytest.mark.parametrize("kind", [StepEnd, EpochEnd])
def test_an_interruption_is_not_lost_when_a_callback_stops_the_fit(kind: type):
    def both() -> Stop:
        os.kill(os.getpid(), signal.SIGINT)
        return Stop("enough")

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        short_learner().fit(2, callbacks=[On(kind, both)])


def test_an_interruption_after_the_last_step_is_not_lost():
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        short_learner().fit(1, callbacks=[On(EpochEnd, send(signal.SIGINT))])


def test_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    short_learner().fit(1)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        short_learner().fit(1, callbacks=[On(StepEnd, send(signal.SIGINT))])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# --- checkpoints as the run goes


def test_a_checkpoint_is_written_after_every_epoch_and_at_the_end(tmp_path: Path, monkeypatch):
    written = []
    learner = short_learner()
    learner.trainer.save = lambda path: written.append(len(learner.history.epochs))
    learner.fit(3, checkpoint=tmp_path / "run.pt")
    assert written == [1, 2, 3]


def test_long_epochs_have_checkpoints_inside():
    learner, written = tiny_learner(), []
    loop = Loop(
        setup_of(learner),
        [learner.history],
        lambda path: written.append(len(learner.history.steps)),
        Path("run.pt"),
        checkpoint_seconds=-1.0,
    )
    loop.run(Run(fine_tune_plan(learner.layer_groups, 1, freeze_epochs=0), 0))
    assert written == [1, 2, 3, 4, 5, 6, 7, 8, 8]


def test_a_full_disk_surfaces_and_all_hear_the_end():
    def save(path: Path) -> None:
        raise OSError("no space left")

    learner, recorder = short_learner(), Recorder()
    learner.trainer.save = save
    with pytest.raises(OSError, match="no space left"):
        learner.fit(2, checkpoint="run.pt", callbacks=[recorder])
    assert recorder.events[-1] == FitEnd("failed: no space left")


# --- randomness


def global_states() -> tuple[bytes, object, str]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        str(np.random.get_state()),
    )


@pytest.mark.parametrize("error", [None, ValueError("mine")])
def test_a_fit_leaves_the_global_random_numbers_alone(error: ValueError | None):
    learner = short_learner()
    before = global_states()
    if error is None:
        learner.fit(1)
    else:
        with pytest.raises(ValueError, match="mine"):
            learner.fit(1, callbacks=[On(StepEnd, failing(error))])
    assert global_states() == before


# --- divergence


class Poisoned:
    """Cross entropy until a certain call, then no number."""

    def __init__(self, good_calls: int, value: float = float("nan")) -> None:
        self.left, self.value = good_calls, value

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(outputs, targets)
        if torch.is_grad_enabled():
            self.left -= 1
            loss = loss * self.value if self.left < 0 else loss
        return loss


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_says_where(value: float):
    recorder = Recorder()
    learner = tiny_learner(groups=3, loss=Poisoned(20, value))
    message = (
        rf"the training loss is {value} at step 5 of epoch 2 in phase 'unfrozen' "
        r"\(learning rates: 0 2.8e-06, 1 2.8e-05, 2 0.00028\); lower the learning rate or set clip"
    )
    with pytest.raises(DivergenceError, match=message):
        learner.fine_tune(2, unfreeze="all", callbacks=[recorder])
    assert recorder.events[-1].reason.startswith("failed: the training loss is")
    assert len(learner.history.steps) == 20


def test_divergence_names_the_rates_of_the_groups_that_train():
    learner = tiny_learner(groups=3, loss=Poisoned(0))
    with pytest.raises(DivergenceError, match=r"\(learning rates: 2 8e-05\); .* clip_norm$"):
        learner.fine_tune(1)


def test_divergence_leaves_the_weights_as_they_were_and_the_checkpoint_intact(tmp_path: Path):
    learner = tiny_learner(loss=Poisoned(8), norm="eval")
    with pytest.raises(DivergenceError, match=r"the last checkpoint, .*run\.pt, is intact$"):
        learner.fit(2, checkpoint=tmp_path / "run.pt")
    content = checkpoint.read(tmp_path / "run.pt")
    assert content["run"]["epoch"] == 1
    assert same_state(content["model"], learner.model.state_dict())
    assert all(torch.isfinite(p).all() for p in learner.model.parameters())


def test_after_divergence_a_lower_rate_works(tmp_path: Path):
    learner = tiny_learner(optimizer=torch.optim.SGD)
    learner.fit(1, 1e-2, checkpoint=tmp_path / "run.pt")
    before = copy_of(learner.model.state_dict())
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        learner.fit(3, 1e30)
    learner.load(tmp_path / "run.pt")
    assert same_state(before, learner.model.state_dict())
    learner.fit(1, 1e-3)
    assert learner.history.epochs[-1].train_loss < 2


class StopPhase(Callback):
    """Ends every phase after its first epoch."""

    def on_epoch_end(self, event: EpochEnd) -> Stop:
        return Stop("enough of this phase", phase_only=True)


def test_a_stop_of_one_phase_begins_the_next_and_ends_the_last():
    learner = tiny_learner()
    learner.fine_tune(3, freeze_epochs=3, callbacks=[StopPhase()])
    assert [(e.phase, e.epoch) for e in learner.history.epochs] == [("frozen", 0), ("unfrozen", 0)]
    assert learner.layer_groups.frozen_count == 0
    assert learner.trainer.run.ended == "stopped: enough of this phase"


def test_a_phase_is_told_why_the_one_before_ended_early():
    recorder = Recorder()
    tiny_learner().fine_tune(1, freeze_epochs=3, callbacks=[StopPhase(), recorder])
    notes = [event.note for event in recorder.events if isinstance(event, PhaseStart)]
    assert notes == ["", "frozen stopped: enough of this phase"]


def test_a_phase_that_was_at_its_end_did_not_end_early():
    recorder = Recorder()
    tiny_learner().fine_tune(1, freeze_epochs=1, callbacks=[StopPhase(), recorder])
    assert [e.note for e in recorder.events if isinstance(e, PhaseStart)] == ["", ""]


def test_anything_else_than_an_answer_is_refused():
    class Careless(Callback):
        def on_epoch_end(self, event: EpochEnd) -> type:
            return Stop

    with pytest.raises(
        TypeError, match=r"answers Stop\(\.\.\.\), Save\(\.\.\.\) or None, not <class"
    ):
        tiny_learner().fit(1, callbacks=[Careless()])


def test_weights_that_are_no_numbers_after_the_last_step_are_never_saved(tmp_path: Path):
    learner = short_learner()

    class Spoil(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            if event.epoch == 1 and event.step == len(learner.data.train) - 1:
                next(learner.model.parameters()).data.fill_(math.nan)

    with pytest.raises(DivergenceError, match=r"weights are no longer finite.* is intact"):
        learner.fit(3, 1e-3, callbacks=[Spoil()], checkpoint=tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in saved["model"].values())


@pytest.mark.parametrize("answer", ["save", "checkpoint"])
def test_weights_that_are_no_numbers_are_not_saved_in_the_middle_of_an_epoch_either(
    tmp_path: Path, answer: str
):
    learner, path = short_learner(), tmp_path / "a.ckpt"
    learner.save(path)
    before = path.read_bytes()

    class Spoil(Callback):
        def on_step_end(self, event: StepEnd) -> Save | Stop:
            next(learner.model.parameters()).data.fill_(math.nan)
            return Save(path) if answer == "save" else Stop("now")

    resumed = path if answer == "checkpoint" else None
    learner.trainer.run = Run(fit_plan(learner.layer_groups, 2, 1e-3), 0)
    with pytest.raises(DivergenceError, match=r"were not saved; .*a\.ckpt is as it was"):
        learner.resume(callbacks=[Spoil()], checkpoint=resumed)
    assert path.read_bytes() == before


def test_a_checkpoint_that_was_never_written_is_not_called_intact(tmp_path: Path):
    learner = tiny_learner(loss=Poisoned(0))
    with pytest.raises(DivergenceError, match=r"set clip_norm$"):
        learner.fit(2, checkpoint=tmp_path / "run.pt")


def test_weights_that_are_not_saved_say_that_there_is_no_file(tmp_path: Path):
    class Spoil(Callback):
        def on_step_end(self, event: StepEnd) -> Save:
            next(learner.model.parameters()).data.fill_(math.nan)
            return Save(tmp_path / "a.ckpt")

    learner = short_learner()
    with pytest.raises(DivergenceError, match=r"not saved; there is no .*a\.ckpt"):
        learner.fit(1, callbacks=[Spoil()])


def test_a_validation_loss_that_is_no_number_is_mentioned_once():
    inputs, targets = tiny_pairs(8).tensors
    spoilt = TensorDataset(inputs.clone().fill_(math.nan), targets)
    data = DataLoaders(DataLoader(tiny_pairs(8), 4), DataLoader(spoilt, 4))
    with pytest.warns(UserWarning, match="validation loss is NaN after epoch 1 of") as warned:
        tiny_learner(data=data).fit(3)
    assert len(warned) == 1


def test_saving_weights_that_are_no_numbers_says_so(tmp_path: Path):
    learner = tiny_learner()
    learner.model[1].bias.data[0] = math.nan
    with pytest.warns(UserWarning, match=r"weights saved to .* NaN or infinite in '1\.bias'"):
        learner.save(tmp_path / "a.ckpt")
