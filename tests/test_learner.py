"""The Learner's contract on any model and any loader."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from support import (
    StopAt,
    copy_of,
    same_state,
    tiny_data,
    tiny_learner,
    tiny_model,
    tiny_pairs,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

from finetune import Callback, DataLoaders, Learner
from finetune.inference.predictor import Predictor
from finetune.training.events import FitEnd, StepEnd
from finetune.training.phase import Phase
from finetune.training.plan import gradual_unfreeze_plan

FITS: dict[str, Callable[[Learner], None]] = {
    "fit": lambda learner: learner.fit(3),
    "one cycle": lambda learner: learner.fit_one_cycle(3),
    "flat cosine": lambda learner: learner.fit_flat_cos(3),
    "restarts": lambda learner: learner.fit_sgdr(2, 1),
    "fine_tune": lambda learner: learner.fine_tune(2),
}


def short_learner(**options: object) -> Learner:
    """Two steps an epoch."""
    return tiny_learner(data=tiny_data(count=8), **options)


# --- layer groups


def frozen(learner: Learner) -> list[bool]:
    return [group.frozen for group in learner.layer_groups]


def test_freeze_leaves_the_last_group():
    learner = tiny_learner(groups=3)
    learner.freeze()
    assert frozen(learner) == [True, True, False]
    flags = [p.requires_grad for p in learner.model.parameters()]
    assert flags == [False] * 8 + [True] * 2


def test_unfreeze_frees_everything():
    learner = tiny_learner(groups=3)
    learner.freeze()
    learner.unfreeze()
    assert frozen(learner) == [False] * 3
    assert all(p.requires_grad for p in learner.model.parameters())


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (2, 2), (-1, 2), (-2, 1)])
def test_freeze_to_counts_from_either_end(count: int, expected: int):
    learner = tiny_learner(groups=3)
    learner.freeze_to(count)
    assert frozen(learner) == [i < expected for i in range(3)]


@pytest.mark.parametrize("count", [3, -3, 7])
def test_freeze_to_names_its_range(count: int):
    message = rf"needs 0 <= count <= 2 for 3 groups \(0, 1, 2\), got {count}"
    with pytest.raises(ValueError, match=message):
        tiny_learner(groups=3).freeze_to(count)


def test_frozen_weights_and_buffers_do_not_move():
    learner = tiny_learner(groups=3)
    learner.fit(1)
    before = copy_of(learner.model[:2].state_dict())
    learner.freeze()
    learner.fit(2, 0.1)
    assert same_state(before, learner.model[:2].state_dict())


def test_optimizer_state_survives_freezing_and_unfreezing():
    learner = tiny_learner(groups=3)
    learner.fit(1)
    state = learner.optimizer.state_dict()["0.0.weight"]
    before = copy_of(state)
    learner.freeze()
    learner.fit(1)
    learner.unfreeze()
    assert same_state(before, learner.optimizer.state_dict()["0.0.weight"])


def test_layer_groups_print_as_a_table():
    learner = tiny_learner(groups=3)
    learner.freeze()
    lines = str(learner.layer_groups).splitlines()
    header = ["group", "modules", "parameters", "trainable", "norm"]
    assert lines[0].split() == header
    assert lines[2].split() == ["0", "0.0", "..", "0.1", "28", "0", "follow"]
    assert lines[4].split() == ["2", "2", "10", "10", "follow"]
    assert lines[5] == " all groups: AdamW, momentum 0.9, weight decay 0.01"
    learner.fit_one_cycle(1, [1e-4, 1e-3, 1e-2])
    lines = str(learner.layer_groups).splitlines()
    assert lines[0].split() == [*header, "learning", "rate"]
    assert lines[4].split()[-1] == "0.01"


def test_the_table_of_groups_shows_planned_rates():
    learner = tiny_learner(groups=3)
    rates = {"frozen": [None, None, 2e-3], "unfrozen": [1e-5, 1e-4, 1e-3]}
    lines = learner.layer_groups.table(rates).text(notes=True).splitlines()
    assert lines[1].split()[-2:] == ["frozen", "unfrozen"]
    assert lines[3].split()[-2:] == ["frozen", "1e-05"]
    assert lines[5].split()[-2:] == ["0.002", "0.001"]


# --- fits


@pytest.mark.parametrize("name", FITS)
def test_every_fit_runs_three_epochs_and_tells(name: str):
    learner = short_learner(groups=3, metrics=["accuracy"])
    FITS[name](learner)
    assert len(learner.history.epochs) == 3
    assert len(learner.history.steps) == 6
    for row in learner.history.epochs:
        assert row.train_loss > 0
        assert row.seconds > 0
        assert set(row.valid) == {"loss", "accuracy"}


def test_training_lowers_the_loss():
    learner = tiny_learner()
    before = learner.validate()["loss"]
    learner.fine_tune(10, base_lr=3e-2)
    assert learner.validate()["loss"] < 0.8 * before


def test_fits_leave_the_frozen_groups_as_the_caller_set_them():
    learner = short_learner(groups=3)
    learner.freeze_to(1)
    learner.fit_one_cycle(1)
    assert frozen(learner) == [True, False, False]


def test_a_plan_of_ones_own_runs():
    learner = short_learner(groups=3)
    rates = {"lr": (1e-4, 1e-3, 1e-2)}
    learner.fit_plan(tuple(Phase(f"from {n}", 1, n, rates) for n in (2, 1, 0)))
    assert [row.phase for row in learner.history.epochs] == ["from 2", "from 1", "from 0"]
    assert learner.history.steps[-1].lr == (1e-4, 1e-3, 1e-2)


def test_one_group_can_not_be_fine_tuned():
    with pytest.raises(ValueError, match=r"one group only; pass split= to say where groups begin"):
        tiny_learner(groups=1).fine_tune(1)


def test_one_group_can_be_fitted():
    learner = tiny_learner(groups=1)
    learner.fit_one_cycle(1)
    assert len(learner.history.epochs) == 1


def test_a_model_that_does_not_split_itself_says_how():
    with pytest.raises(ValueError, match=r"this model is a Linear .* Say where groups begin with"):
        Learner(tiny_data(), nn.Linear(4, 2), loss=nn.functional.cross_entropy)


@pytest.mark.parametrize("epochs", [0, -1, 1.5])
def test_epochs_are_a_positive_whole_number(epochs: float):
    rule = f"epochs must be a whole number of at least 1, got {epochs}"
    with pytest.raises((TypeError, ValueError), match=rule):
        tiny_learner().fit(epochs)


def test_callbacks_are_for_every_fit_or_for_one():
    class Count(Callback):
        fits = 0

        def on_fit_end(self, event: FitEnd) -> None:
            self.fits += 1

    every, one = Count(), Count()
    learner = short_learner(callbacks=[every])
    learner.fit(1, callbacks=[one])
    learner.fit(1)
    assert (every.fits, one.fits) == (2, 1)


def test_a_constant_fit_does_not_depend_on_the_one_before():
    # a hyper-parameter of a step is a function of seed, plan and step alone
    learner = short_learner()
    learner.fit(1)
    learner.fit_one_cycle(1)
    learner.fit(1)
    first, last = learner.history.steps[0], learner.history.steps[-1]
    assert (first.lr, first.momentum) == (last.lr, last.momentum)


def test_any_fit_may_follow_any_other_with_an_optimizer_that_has_no_momentum_by_default():
    # RMSprop makes its momentum buffers at the first step, or never
    learner = short_learner(optimizer=torch.optim.RMSprop)
    learner.fit(1)
    learner.fit_one_cycle(1)
    assert len(learner.history.epochs) == 2


# --- randomness


def orders(learner: Learner) -> list[list[float]]:
    """The first feature of every example, batch by batch, as training sees them."""
    seen: list[list[float]] = []
    learner.model.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0][:, 0].tolist()) if module.training else None
    )
    return seen


def test_every_epoch_and_every_fit_has_its_own_order():
    learner = short_learner()
    seen = orders(learner)
    learner.fit(2)
    learner.fit(1)
    epochs = [seen[0:2], seen[2:4], seen[4:6]]
    examples = [sorted(itertools.chain(*epoch)) for epoch in epochs]
    assert examples[0] == examples[1] == examples[2]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_same_seed_twice_is_the_same_bit_for_bit():
    a, b = tiny_learner(groups=3), tiny_learner(groups=3)
    for learner in (a, b):
        learner.fine_tune(1)
    assert same_state(a.model.state_dict(), b.model.state_dict())
    assert a.history.steps == b.history.steps


def test_another_seed_is_another_run():
    a, b = tiny_learner(data=tiny_data(seed=0)), tiny_learner(data=tiny_data(seed=1))
    for learner in (a, b):
        learner.fit(1)
    assert not same_state(a.model.state_dict(), b.model.state_dict())


def test_the_global_seed_changes_nothing():
    a, b = tiny_learner(), tiny_learner()
    a.fit(1)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    b.fit(1)
    assert same_state(a.model.state_dict(), b.model.state_dict())


def test_validating_in_between_changes_nothing():
    a, b = tiny_learner(), tiny_learner()
    a.fit(2)
    b.fit(1)
    b.validate()
    b.fit(1)
    assert same_state(a.model.state_dict(), b.model.state_dict())


def test_validation_leaves_the_global_random_numbers_alone():
    learner = tiny_learner()
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    learner.validate()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(np.random.get_state()))


# --- results


def test_validate_is_the_loss_and_every_metric():
    learner = tiny_learner(metrics=["accuracy"])
    inputs, targets = tiny_pairs().tensors
    results = learner.validate()
    outputs = learner.model.eval()(inputs).detach()
    loss = nn.functional.cross_entropy(outputs, targets).item()
    accuracy = (outputs.argmax(1) == targets).float().mean().item()
    assert results == pytest.approx({"loss": loss, "accuracy": accuracy}, rel=1e-4)


def test_validate_in_the_middle_of_a_fit_leaves_the_modes_of_training():
    learner, modes = tiny_learner(), []

    class Validating(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            learner.validate()
            modes.append(learner.model.training)

    learner.fit(1, callbacks=[Validating()])
    assert modes == [True] * len(learner.data.train)


def test_validate_needs_validation_data():
    data = DataLoaders(DataLoader(tiny_pairs(), 4))
    with pytest.raises(ValueError, match=r"no validation data; pass DataLoaders\(train, valid\)"):
        tiny_learner(data=data).validate()


def test_predict_names_the_class():
    learner = tiny_learner()
    learner.fine_tune(20, base_lr=3e-2)
    items = [torch.full((4,), 2.0), torch.full((4,), -2.0)]
    assert [prediction.label for prediction in learner.predict(items)] == ["yes", "no"]
    assert learner.predict(items[0]).label == "yes"


def test_predict_needs_class_names():
    data = DataLoaders(DataLoader(tiny_pairs(), 4))
    with pytest.raises(ValueError, match="no class names to predict; pass DataLoaders"):
        tiny_learner(data=data).predict(torch.ones(4))


def test_predict_folder_is_that_of_the_predictor(trained: Learner, photos: Path):
    rows = list(trained.predict_folder(photos, batch_size=5, progress=False))
    assert rows == list(trained.predictor().predict_folder(photos, batch_size=5))
    assert len(rows) == 24


@pytest.mark.parametrize("options", [{}, {"batch_size": 5, "progress": False}])
def test_predict_folder_passes_its_options_on(monkeypatch: pytest.MonkeyPatch, options: dict):
    seen = []
    monkeypatch.setattr(
        Predictor, "predict_folder", lambda self, files, **given: seen.append((files, given))
    )
    tiny_learner().predict_folder("new", **options)
    assert seen == [("new", {"batch_size": 64, "progress": True, **options})]


def test_a_foreign_model_is_not_exported(tmp_path: Path):
    with pytest.raises(ValueError, match=r"only a learner made by vision_learner .*state_dict\(\)"):
        tiny_learner().export(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_save_and_load_bring_everything_back(tmp_path: Path):
    learner = tiny_learner(groups=3)
    learner.fine_tune(1)
    learner.freeze_to(1)
    learner.save(tmp_path / "run.pt")
    other = tiny_learner(groups=3)
    other.load(str(tmp_path / "run.pt"))
    assert same_state(learner.model.state_dict(), other.model.state_dict())
    assert frozen(other) == [True, False, False]
    assert other.history.steps == learner.history.steps
    for a in (learner, other):
        a.fit(1)
    assert same_state(learner.model.state_dict(), other.model.state_dict())


def test_a_loss_of_ones_own_is_used():
    def zero(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * 0

    learner = tiny_learner(loss=zero)
    learner.fit(1)
    assert learner.history.epochs[0].train_loss == 0


def test_a_tied_weight_trains_once():
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(4, 2)), nn.Linear(4, 2)
    head.weight = body[0].weight

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, head

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + self.head(x)

    learner = Learner(
        tiny_data(), Tied(), loss=nn.functional.cross_entropy, split=["head"],
        device="cpu", progress=False,
    )  # fmt: skip
    learner.fine_tune(1)
    assert learner.model.head.weight is learner.model.body[0].weight
    flat = [p for group in learner.optimizer.param_groups for p in group["params"]]
    assert len(flat) == 3


def test_the_callers_model_is_trained_in_place():
    model = tiny_model()
    before = copy_of(model.state_dict())
    learner = Learner(
        tiny_data(), model, loss=nn.functional.cross_entropy, device="cpu", progress=False
    )
    learner.fit(1)
    assert learner.model is model
    assert not same_state(before, model.state_dict())


# --- images


def phases_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def lines_of(figure: Figure) -> list[list[float]]:
    return [list(line.get_ydata()) for axes in figure.axes for line in axes.lines]


def test_a_number_of_epochs_plots_what_fine_tune_would_do() -> None:
    learner = tiny_learner(3)
    before = copy_of(learner.model.state_dict())
    planned = learner.plot_plan(2)
    assert same_state(learner.model.state_dict(), before)
    learner.fine_tune(2)
    assert lines_of(planned) == lines_of(learner.plot_rates())
    assert phases_of(planned) == ["frozen", "1 and above"]
    assert [axes.get_ylabel() for axes in planned.axes] == ["learning rate", "momentum"]
    assert planned.axes[-1].get_xlim() == (0, learner.trainer.run.epochs_done)


def test_a_plan_can_be_plotted() -> None:
    learner = tiny_learner(3)
    plan = gradual_unfreeze_plan(learner.layer_groups)
    assert phases_of(learner.plot_plan(plan)) == ["2", "1 and above", "all"]


def test_without_a_plan_it_is_that_of_the_last_run_or_of_one_epoch_of_fine_tune() -> None:
    learner = tiny_learner()
    assert phases_of(learner.plot_plan()) == ["frozen", "unfrozen"]
    learner.fit_one_cycle(2)
    assert phases_of(learner.plot_plan()) == ["one cycle"]


def test_a_plan_for_other_groups_is_an_error() -> None:
    plan = gradual_unfreeze_plan(tiny_learner(3).layer_groups)
    with pytest.raises(ValueError, match="phase '2' has 3 values of lr for 2 groups"):
        tiny_learner().plot_plan(plan)


def test_without_a_momentum_none_is_plotted() -> None:
    learner = tiny_learner(optimizer=torch.optim.Adagrad)
    assert len(learner.plot_plan(1).axes) == 1
    learner.fit(1)
    assert len(learner.plot_rates().axes) == 1


def test_two_fits_of_one_name_are_two_phases() -> None:
    learner = tiny_learner()
    learner.freeze()
    learner.fit_one_cycle(1)
    learner.unfreeze()
    learner.fit_one_cycle(1)
    assert phases_of(learner.plot_rates()) == ["one cycle", "one cycle"]
    assert phases_of(learner.plot_losses()) == ["one cycle", "one cycle"]


def test_losses_have_validation_and_metrics_after_every_epoch() -> None:
    learner = tiny_learner(metrics=["accuracy"])
    learner.fit(2)
    learner.fit(1, callbacks=[StopAt(3)])
    figure = learner.plot_losses()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    expected = [row.valid["accuracy"] for row in learner.history.epochs]
    assert list(figure.axes[1].lines[0].get_ydata()) == expected
    assert figure.axes[1].get_xlim() == (0, 3)


@pytest.mark.parametrize("name", ["plot_rates", "plot_losses", "plot_movement", "movement"])
def test_before_the_first_fit_there_is_nothing_to_show(name: str) -> None:
    with pytest.raises(ValueError, match="before the first fit"):
        getattr(tiny_learner(), name)()


def test_movement_is_from_before_the_first_fit() -> None:
    learner = tiny_learner(3, dropout=0.0)
    start = copy_of(learner.model.state_dict())
    learner.freeze_to(1)
    learner.fit(1)
    learner.fit(1)
    rows = {row.module: row for row in learner.movement()}
    assert list(rows) == ["0.0", "0.1", "1.0", "1.1", "2"]
    assert [row.group for row in rows.values()] == ["0", "0", "1", "1", "2"]
    assert rows["0.0"].distance == rows["0.1"].distance == 0
    now = learner.model.state_dict()
    both = [torch.cat([s["2.weight"].flatten(), s["2.bias"]]) for s in (start, now)]
    expected = (both[1] - both[0]).norm() / both[0].norm()
    assert rows["2"].distance == pytest.approx(expected.item(), rel=1e-5)
    assert len(learner.plot_movement().axes[0].patches) == 5


def test_movement_of_a_loaded_run_is_from_before_it_was_loaded(tmp_path: Path) -> None:
    trained, loaded = tiny_learner(), tiny_learner()
    trained.fit(1)
    trained.save(tmp_path / "checkpoint")
    loaded.load(tmp_path / "checkpoint")
    assert loaded.movement() == trained.movement()
