"""Weights in between: which point is taken, what is kept for it, and that a resume is exact."""

from pathlib import Path

import pytest
import torch
from support import StopAt, copy_of, same, same_state, tiny_data, tiny_learner
from torch import Tensor, nn

from finetune import Callback, CheckpointError, DataLoaders, Learner, Phase, SaveBest
from finetune.training import checkpoint
from finetune.training.between import FRACTIONS
from finetune.training.events import EpochEnd, PhaseStart, PointBetween, Save, StepEnd

POINTS = sorted([*FRACTIONS, 1.0])


class Ends(Callback):
    """The weights at the beginning of the last phase, and after its last step."""

    def __init__(self) -> None:
        self.learner: Learner | None = None
        self.start: dict[str, Tensor] = {}
        self.end: dict[str, Tensor] = {}

    def on_phase_start(self, event: PhaseStart) -> None:
        assert self.learner is not None
        self.start = copy_of(self.learner.model.state_dict())

    def on_step_end(self, event: StepEnd) -> None:
        assert self.learner is not None
        self.end = copy_of(self.learner.model.state_dict())


def tuned(epochs: int = 2, base_lr: float = 3e-1, **options: object) -> tuple[Learner, Ends]:
    ends = Ends()
    learner = tiny_learner(3, callbacks=[ends], metrics=["accuracy"], **options)
    ends.learner = learner
    learner.fine_tune(epochs, base_lr, unfreeze="all", interpolate=True)
    return learner, ends


def taken(learner: Learner) -> PointBetween:
    between = learner.history.epochs[-1].between
    assert between is not None
    return between


@pytest.fixture(scope="module")
def harmed() -> tuple[Learner, Ends]:
    """Rates that are too high, so that a point between is better than the end."""
    return tuned()


def test_the_best_point_is_taken_and_is_no_worse_than_either_end(harmed):
    learner, _ = harmed
    between = taken(learner)
    assert sorted(between.compared) == POINTS
    accuracies = {point: row["accuracy"] for point, row in between.compared.items()}
    assert accuracies[between.fraction] >= max(accuracies[0.0], accuracies[1.0])
    assert between.fraction < 1


def test_the_model_has_the_point_between_the_two_ends(harmed):
    learner, ends = harmed
    fraction = taken(learner).fraction
    for name, tensor in learner.model.state_dict().items():
        if tensor.is_floating_point():
            expected = ends.start[name] + fraction * (ends.end[name] - ends.start[name])
            torch.testing.assert_close(tensor, expected)
        else:
            assert torch.equal(tensor, ends.end[name])


def test_the_epoch_has_the_results_of_the_weights_that_were_taken(harmed):
    learner, _ = harmed
    assert learner.validate() == learner.history.epochs[-1].valid == taken(learner).results


def test_training_itself_is_the_same(harmed):
    _, ends = harmed
    plain = tiny_learner(3, metrics=["accuracy"])
    plain.fine_tune(2, 3e-1, unfreeze="all")
    assert same_state(plain.model.state_dict(), ends.end)
    assert plain.history.epochs[-1].between is None


def taken_where(best_loss: float, best_metric: float | None = None) -> float:
    """The point that is taken where loss and accuracy are the best at these points of the way."""
    start = tiny_learner(1, dropout=0.0).model[0].weight.detach().clone()
    whole = tiny_learner(1, dropout=0.0)
    whole.fit(1, 1e-2)
    end = whole.model[0].weight.detach()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return nn.functional.cross_entropy(outputs, targets)
        return (weight.detach() - start.lerp(end, best_loss)).norm()

    def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
        assert best_metric is not None
        return -(weight.detach() - start.lerp(end, best_metric)).norm()

    metrics = [] if best_metric is None else [accuracy]
    learner = tiny_learner(1, dropout=0.0, loss=loss, metrics=metrics)
    weight = learner.model[0].weight
    learner.fit_plan((interpolating(learner),))
    fraction = taken(learner).fraction
    assert torch.equal(weight, start.lerp(end, fraction))
    return fraction


@pytest.mark.parametrize("best", POINTS)
def test_whichever_point_has_the_lowest_loss_is_taken(best: float):
    assert taken_where(best) == best


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_no_loss_outweighs_a_metric_that_is_below_an_end(end: float):
    assert taken_where(best_loss=0.5, best_metric=end) == end


def test_of_points_that_are_below_no_end_the_loss_decides():
    assert taken_where(best_loss=0.75, best_metric=0.5) == 0.75


def interpolating(learner: Learner, lr: float = 1e-2) -> Phase:
    """A phase as that of `fit(1, lr)`."""
    groups = len(learner.layer_groups)
    return Phase("fit", 1, 0, {"lr": (lr,) * groups, "momentum": (0.9,) * groups}, interpolate=True)


def test_of_equal_points_the_end_is_taken():
    def accuracy(outputs: Tensor, targets: Tensor) -> float:
        return 1.0

    def constant(outputs: Tensor, targets: Tensor) -> Tensor:
        # a gradient, and yet the same value everywhere
        return 0 * outputs.sum() + 1

    learner = tiny_learner(metrics=[accuracy], loss=constant, weight_decay=0.1)
    learner.fine_tune(1, interpolate=True)
    assert taken(learner).fraction == 1


def test_of_equal_metrics_the_lower_loss_is_taken():
    def accuracy(outputs: Tensor, targets: Tensor) -> float:
        return 1.0

    learner = tiny_learner(metrics=[accuracy])
    learner.fine_tune(2, 3e-1, interpolate=True)
    losses = [row["loss"] for row in taken(learner).compared.values()]
    assert taken(learner).results["loss"] == min(losses)


def test_without_a_frozen_phase_the_beginning_is_that_of_the_fit():
    learner = tiny_learner(metrics=["accuracy"])
    before = learner.validate()
    learner.fine_tune(1, freeze_epochs=0, interpolate=True)
    assert taken(learner).compared[0.0] == before


def test_both_ends_are_averages_where_weights_are_averaged():
    learner, plain = tiny_learner(3, ema=0.9), tiny_learner(3, ema=0.9)
    learner.fine_tune(2, 1e-1, interpolate=True)
    plain.fine_tune(2, 1e-1)
    frozen, *_, end = plain.history.epochs
    assert taken(learner).compared[0.0] == frozen.valid
    assert taken(learner).compared[1.0] == end.valid
    assert learner.validate() == taken(learner).results


class ArcLike(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs * self.scale, targets)


def test_parameters_of_a_loss_go_the_same_way():
    loss = ArcLike()
    learner = tiny_learner(loss=loss)
    before = learner.validate()
    learner.fine_tune(1, 1e-1, freeze_epochs=0, interpolate=True)
    assert taken(learner).compared[0.0] == before


@pytest.mark.parametrize(("ema", "unfreeze"), [(None, "all"), (0.9, "all"), (0.9, None)])
def test_wherever_a_run_is_cut_off_it_takes_the_same_point(
    tmp_path: Path, ema: float | None, unfreeze: str | None
):
    class Saves(Callback):
        count = 0

        def save(self, event: object) -> Save:
            self.count += 1
            return Save(tmp_path / f"{self.count:02d}")

        on_phase_start = on_step_end = save

    def new() -> Learner:
        return tiny_learner(3, data=tiny_data(12, 4), metrics=["accuracy"], ema=ema)

    whole = new()
    whole.fine_tune(1, 1e-1, unfreeze=unfreeze, interpolate=True, callbacks=[Saves()])
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for file in files:
        learner = new()
        learner.load(file)
        learner.resume()
        assert same_state(learner.model.state_dict(), whole.model.state_dict()), file
        assert taken(learner) == taken(whole)


@pytest.mark.parametrize(("unfreeze", "first"), [("all", 0), (None, 1)])
def test_the_file_has_the_first_weights_while_they_are_needed(unfreeze: str | None, first: int):
    learner = tiny_learner(3)
    learner.fine_tune(1, unfreeze=unfreeze, interpolate=True, callbacks=[StopAt(8)])
    assert learner.trainer.state_dict()["between"] == {}  # the head alone trains
    learner.resume(callbacks=[StopAt(1)])
    expected = set()
    for name, tensor in learner.model.state_dict().items():
        if tensor.is_floating_point() and int(name[0]) >= first:
            expected.add(name)
    assert learner.trainer.state_dict()["between"].keys() == expected
    learner.resume()
    assert learner.trainer.state_dict()["between"] == {}


def test_a_finished_run_loads_what_was_taken(tmp_path: Path):
    def new() -> Learner:
        learner = tiny_learner(3, metrics=["accuracy"])
        learner.fine_tune(2, 3e-1, unfreeze="all", interpolate=True, checkpoint=tmp_path / "run.pt")
        return learner

    first, second = new(), new()
    assert taken(first).fraction < 1
    assert same(copy_of(first.model.state_dict()), copy_of(second.model.state_dict()))
    assert taken(first) == taken(second)


def test_the_same_call_without_it_is_another_run(tmp_path: Path):
    tiny_learner().fine_tune(1, interpolate=True, checkpoint=tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="belongs to another plan"):
        tiny_learner().fine_tune(1, checkpoint=tmp_path / "run.pt")


def test_the_best_epoch_of_a_run_is_that_of_the_weights_taken(tmp_path: Path):
    learner = tiny_learner(3, metrics=["accuracy"])
    best = SaveBest(tmp_path / "best.pt", "accuracy")
    learner.fine_tune(1, 3e-1, interpolate=True, callbacks=[best])
    other = tiny_learner(3, metrics=["accuracy"])
    other.load(tmp_path / "best.pt")
    assert other.validate()["accuracy"] == max(
        row.valid["accuracy"] for row in learner.history.epochs
    )


def test_a_validation_that_fails_leaves_the_end_and_can_be_repeated():
    failing = [True]

    def accuracy(outputs: Tensor, targets: Tensor) -> float:
        if failing and calls:
            raise RuntimeError("now")
        calls.append(1)
        return 1.0

    calls: list[int] = []
    learner = tiny_learner(metrics=[accuracy])
    whole = tiny_learner(metrics=[accuracy])
    with pytest.raises(RuntimeError, match="now"):
        learner.fine_tune(1, 3e-1, freeze_epochs=0, interpolate=True)
    failing.clear()
    learner.resume()
    whole.fine_tune(1, 3e-1, freeze_epochs=0, interpolate=True)
    assert same_state(learner.model.state_dict(), whole.model.state_dict())


def test_without_validation_data_it_is_an_error():
    data = DataLoaders(tiny_data().train, classes=["no", "yes"])
    learner = tiny_learner(data=data)
    with pytest.raises(ValueError, match="validation likes best, and there is no validation data"):
        learner.fine_tune(1, interpolate=True)
    assert not learner.history.epochs


def test_only_the_last_phase_may_interpolate():
    learner = tiny_learner()
    phase = interpolating(learner)
    with pytest.raises(ValueError, match=r"'fit' has interpolate=True, which is for the last"):
        learner.fit_plan((phase, Phase("last", 1, 0, phase.peaks)))


def test_a_file_with_first_weights_of_another_shape_is_refused(tmp_path: Path):
    learner = tiny_learner()
    learner.fine_tune(1, freeze_epochs=0, interpolate=True, callbacks=[StopAt(2)])
    learner.save(tmp_path / "run.pt")
    content = checkpoint.read(tmp_path / "run.pt")
    content["between"]["1.bias"] = torch.zeros(3)
    checkpoint.write(tmp_path / "run.pt", content)
    with pytest.raises(CheckpointError, match=r"its entry 'between.1.bias' can't be"):
        tiny_learner().load(tmp_path / "run.pt")


def test_a_plan_is_stored_with_it_and_older_plans_load_without_it():
    phase = interpolating(tiny_learner())
    assert Phase.from_dict(phase.to_dict()) == phase
    plain = Phase("fit", 1, 0, phase.peaks)
    assert "interpolate" not in plain.to_dict()
    assert Phase.from_dict(plain.to_dict()) == plain


def test_callbacks_see_the_weights_that_were_taken():
    seen: list[dict[str, float]] = []

    class Validates(Callback):
        def on_epoch_end(self, event: EpochEnd) -> None:
            seen.append(learner.validate())

    learner = tiny_learner(3, metrics=["accuracy"], callbacks=[Validates()])
    learner.fine_tune(1, 3e-1, interpolate=True)
    assert seen[-1] == taken(learner).results
