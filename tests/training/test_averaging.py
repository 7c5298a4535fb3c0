"""The average of the weights: what it is, when the model has it, and that training is the same."""

from pathlib import Path

import pytest
import torch
from support import StopAt, copy_of, same_state, tiny_data, tiny_learner
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from finetune import Callback, CheckpointError, Learner, SaveBest
from finetune.training import checkpoint
from finetune.training.averaging import Average
from finetune.training.events import EpochEnd, StepEnd

DECAY = 0.9


class Trajectory(Callback):
    """The weights after every step, as they train."""

    def __init__(self) -> None:
        self.learner: Learner | None = None
        self.states: list[dict[str, Tensor]] = []
        self.frozen: list[int] = []

    def on_step_end(self, event: StepEnd) -> None:
        assert self.learner is not None
        self.states.append(copy_of(self.learner.model.state_dict()))
        self.frozen.append(event.frozen)


def followed(**options: object) -> tuple[Learner, Trajectory]:
    trajectory = Trajectory()
    learner = tiny_learner(callbacks=[trajectory], **options)
    trajectory.learner = learner
    return learner, trajectory


def moving(learner: Learner, frozen: int) -> set[str]:
    """Names of what is averaged; the only BatchNorm is in the first group."""
    buffers = {n for n in learner.model.state_dict() if n.endswith(("_mean", "_var"))}
    trains = {n for group in learner.layer_groups[frozen:] for n in group.parameters}
    return trains | (set() if frozen else buffers)


def expected_average(
    learner: Learner, start: dict[str, Tensor], trajectory: Trajectory
) -> dict[str, Tensor]:
    """By the formula, in float64, step by step."""
    average: dict[str, Tensor] = {}
    before, t = start, 0
    for state, frozen in zip(trajectory.states, trajectory.frozen, strict=True):
        names = moving(learner, frozen)
        t = t if names <= average.keys() else 0
        decay = min(DECAY, (1 + t) / (10 + t))
        for name in names:
            old = average.get(name, before[name].double())
            average[name] = decay * old + (1 - decay) * state[name].double()
        before, t = state, t + 1
    return average


def close(state: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.allclose(state[n].double(), expected[n], atol=1e-6) for n in expected)


def test_at_the_end_the_model_has_the_average():
    learner, trajectory = followed(ema=DECAY)
    start = copy_of(learner.model.state_dict())
    learner.fine_tune(2, 1e-1)
    state = learner.model.state_dict()
    expected = expected_average(learner, start, trajectory)
    assert len(expected) == 8
    assert close(state, expected)
    assert not close(trajectory.states[-1], expected)
    others = state.keys() - expected.keys()
    assert all(torch.equal(state[n], trajectory.states[-1][n]) for n in others)


def test_training_is_the_same_with_and_without_an_average():
    (plain, one), (averaged, two) = followed(), followed(ema=DECAY)
    for learner in (plain, averaged):
        learner.fine_tune(2, 1e-1)
    assert all(same_state(a, b) for a, b in zip(one.states, two.states, strict=True))
    assert plain.history.steps == averaged.history.steps
    assert plain.history.epochs[-1].valid != averaged.history.epochs[-1].valid


def test_validation_in_a_fit_is_of_the_average():
    learner = tiny_learner(ema=DECAY)
    learner.fit(2, 1e-1)
    assert learner.history.epochs[-1].valid == learner.validate()


@pytest.mark.parametrize("stop", [3, 8])
def test_a_fit_that_a_callback_stops_leaves_the_average_and_can_be_resumed(stop: int):
    learner, trajectory = followed(ema=DECAY)
    start = copy_of(learner.model.state_dict())
    learner.fit(2, 1e-1, callbacks=[StopAt(stop)])
    expected = expected_average(learner, start, trajectory)
    assert close(learner.model.state_dict(), expected)
    learner.resume()
    whole = tiny_learner(ema=DECAY)
    whole.fit(2, 1e-1)
    assert same_state(learner.model.state_dict(), whole.model.state_dict())


class Interrupt(Callback):
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def on_step_end(self, event: StepEnd) -> None:
        if event.step == 5:
            raise self.error("now")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_so_does_an_interruption_or_an_error(error: type[BaseException]):
    learner, trajectory = followed(ema=DECAY)
    start = copy_of(learner.model.state_dict())
    with pytest.raises(error, match="now"):
        learner.fit(2, 1e-1, callbacks=[Interrupt(error)])
    assert close(learner.model.state_dict(), expected_average(learner, start, trajectory))
    learner.resume()
    whole = tiny_learner(ema=DECAY)
    whole.fit(2, 1e-1)
    assert same_state(learner.model.state_dict(), whole.model.state_dict())


def test_an_error_in_validation_leaves_the_average_and_can_be_resumed():
    def failing(outputs: Tensor, targets: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and broken:
            raise RuntimeError("now")
        return nn.functional.cross_entropy(outputs, targets)

    broken = [True]
    learner = tiny_learner(ema=DECAY, loss=failing)
    with pytest.raises(RuntimeError, match="now"):
        learner.fit(1, 1e-1)
    broken.clear()
    of_average = learner.validate()
    learner.resume()
    assert learner.history.epochs[-1].valid == learner.validate() == of_average


def test_what_is_frozen_is_not_averaged(tmp_path: Path):
    learner = tiny_learner(groups=3, ema=DECAY)
    before = copy_of(learner.model[:2].state_dict())
    learner.fine_tune(1, 1e-1, callbacks=[StopAt(8)])
    assert same_state(before, learner.model[:2].state_dict())
    kept = learner.trainer.state_dict()["average"]["kept"]
    assert set(kept) == {"2.weight", "2.bias"}


def test_what_is_frozen_later_keeps_what_the_others_train_on():
    average, model = Average(DECAY), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    average.follow(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    average.update()
    model[0].requires_grad_(False)
    now = copy_of(model.state_dict())
    average.follow(model)
    with average.in_place():
        assert torch.equal(model[0].weight, now["0.weight"])
        assert not torch.equal(model[1].weight, now["1.weight"])
    assert same_state(model.state_dict(), now)


def test_the_early_average_is_short():
    average, model = Average(0.999), nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average.follow(model)
    torch.nn.init.ones_(model.weight)
    average.update()
    with average.in_place():
        assert model.weight.item() == pytest.approx(0.9)  # the first weight counts a tenth
    for _ in range(50):
        average.update()
    with average.in_place():
        assert model.weight.item() > 0.999


class Masked(nn.Module):
    """A buffer that no average exists of, and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 2), nn.BatchNorm1d(2)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) + self.mask.exp()


def test_other_buffers_are_the_models_own():
    model = Masked()
    learner = Learner(
        tiny_data(), model, loss=nn.functional.cross_entropy, split=lambda m: [[m]], ema=DECAY,
        device="cpu", progress=False,
    )  # fmt: skip
    learner.fit(2)
    assert model.mask.tolist() == [0.0, -torch.inf]
    assert int(model.norm.num_batches_tracked) == 16


@pytest.mark.parametrize("stop", [5, 99])
def test_the_next_fit_starts_from_the_average_with_a_new_one(stop: int):
    learner, trajectory = followed(ema=DECAY)
    learner.fit(1, 1e-1, callbacks=[StopAt(stop)])
    trajectory.states.clear()
    trajectory.frozen.clear()
    start = copy_of(learner.model.state_dict())
    learner.fit(1, 1e-1)
    assert close(learner.model.state_dict(), expected_average(learner, start, trajectory))


def test_a_finished_file_holds_the_average_only(tmp_path: Path):
    learner = tiny_learner(ema=DECAY)
    learner.fit(1, 1e-1, checkpoint=tmp_path / "run.pt")
    content = checkpoint.read(tmp_path / "run.pt")
    assert same_state(content["model"], learner.model.state_dict())
    assert content["average"]["kept"] == {}
    other = tiny_learner(ema=DECAY)
    other.fit(1, 1e-1, checkpoint=tmp_path / "run.pt")
    assert same_state(other.model.state_dict(), learner.model.state_dict())


class Scores(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_epoch_end(self, event: EpochEnd) -> None:
        self.losses.append(event.valid["loss"])


def test_the_best_epoch_comes_back_as_it_was_validated_and_can_be_gone_on_with(tmp_path: Path):
    learner, scores = tiny_learner(ema=DECAY), Scores()
    learner.fit(4, 3e-1, callbacks=[SaveBest(tmp_path / "best.pt", mode="max"), scores])
    best = max(scores.losses)
    assert scores.losses.index(best) < 3
    for options in ({"ema": DECAY}, {}):  # to predict with it the setting is not needed
        other = tiny_learner(**options)
        other.load(tmp_path / "best.pt")
        assert other.validate()["loss"] == best
        other.save(tmp_path / "again.pt")
    other = tiny_learner(ema=DECAY)
    other.load(tmp_path / "again.pt")
    assert other.validate()["loss"] == best
    other.resume()
    assert same_state(other.model.state_dict(), learner.model.state_dict())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"ema": 0.9}, {}, "ema was 0.9 and is None. So "),
        ({"ema": 0.9}, {"ema": 0.99}, "ema was 0.9 and is 0.99"),
        ({}, {"mixup": 0.2}, "mixup was 0.0 and is 0.2"),
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.2}, "label_smoothing was 0.1 and is 0.2"),
    ],
)
def test_an_interrupted_run_goes_on_with_the_same_settings_only(
    tmp_path: Path, before, after, message
):
    stopped = tiny_learner(**before)
    stopped.fit(1, callbacks=[StopAt(3)], checkpoint=tmp_path / "run.pt")
    learner = tiny_learner(**after)
    state = copy_of(learner.model.state_dict())
    with pytest.raises(CheckpointError, match=message):
        learner.fit(1, checkpoint=tmp_path / "run.pt")
    assert same_state(learner.model.state_dict(), state)
    learner.load(tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match=message):
        learner.resume()


def test_a_file_from_before_there_were_settings_goes_on(tmp_path: Path):
    stopped = tiny_learner()
    stopped.fit(1, callbacks=[StopAt(3)])
    content = stopped.trainer.state_dict()
    del content["average"], content["run"]["settings"]
    checkpoint.write(tmp_path / "old.pt", content)
    learner = tiny_learner()
    learner.load(tmp_path / "old.pt")
    learner.resume()
    assert len(learner.history.steps) == 8


def test_a_step_without_it_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("finetune.training.averaging.get_ema_multi_avg_fn", None)
    learner = tiny_learner()
    learner.fit(1)
    assert learner.trainer.state_dict()["average"] is None
    with pytest.raises(TypeError, match="not callable"):
        tiny_learner(ema=DECAY).fit(1)


def test_lr_find_leaves_no_trace_of_it():
    learner = tiny_learner(ema=DECAY, mixup=0.4, label_smoothing=0.1)
    learner.fit(1, 1e-1, callbacks=[StopAt(5)])
    model = copy_of(learner.model.state_dict())
    kept = copy_of(learner.trainer.average.state_dict()["kept"])
    learner.lr_find(steps=20)
    assert same_state(model, learner.model.state_dict())
    assert same_state(kept, learner.trainer.average.state_dict()["kept"])
    assert learner.trainer.average.updates == 5


def test_all_weights_are_averaged_in_one_call(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def counting(decay: float):
        def average(averages: list[Tensor], weights: list[Tensor], count: int) -> None:
            calls.append(len(weights))
            get_ema_multi_avg_fn(decay)(averages, weights, count)

        return average

    monkeypatch.setattr("finetune.training.averaging.get_ema_multi_avg_fn", counting)
    tiny_learner(ema=DECAY).fit(1)
    assert calls == [8] * 8  # steps of 6 parameters and 2 running statistics


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_averages_float32_weights(precision: str):
    learner = tiny_learner(ema=DECAY, precision=precision, data=tiny_data(256), dropout=0.0)
    learner.fit(4, 3e-2)
    assert all(p.dtype == torch.float32 for p in learner.model.parameters())
    assert learner.history.epochs[-1].valid == learner.validate()
