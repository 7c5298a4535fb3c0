"""Minutes: which plans may be chosen, that a run keeps the one it has, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from support import copy_of, same_state, setup_of, tiny_learner

from finetune import ImageDataLoaders, Learner, vision_learner
from finetune.models.layer_groups import LayerGroups
from finetune.training.budget import Budget, Pace
from finetune.training.phase import Plan
from finetune.training.plan import FineTune

PLENTY, NOTHING = 60.0, 1e-6
"""Minutes."""


def image_learner() -> Learner:
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(16)]
    data = ImageDataLoaders.from_lists(images, ["cat", "dog"] * 8, image_size=32, batch_size=4)
    return vision_learner(data, "test_resnet", weights=None, progress=False)


def plans(groups: LayerGroups, *, keeps: bool = True, **options: object) -> list[Plan]:
    budget = Budget(1, FineTune(1, **options))
    return list(budget.plans(groups, head="kept features" if keeps else "steps"))


def in_short(plan: Plan) -> list[tuple[int, int, int | None]]:
    """Frozen groups, epochs and views of each phase but that of the head."""
    return [(phase.frozen, phase.epochs, phase.views) for phase in plan if phase.name != "frozen"]


def test_the_head_comes_first_then_the_later_half_then_everything():
    steps = [in_short(plan) for plan in plans(tiny_learner(3).layer_groups)]
    # a single view would be that of validation, without augmentation
    later_half = [[(1, 1, None)], [(1, 2, 2)], [(1, 3, 2)], [(1, 4, 2)]]
    everything = [[(0, 4, None)], [(0, 5, None)]]
    assert steps[:7] == [[], *later_half, *everything]


@pytest.mark.parametrize(
    ("groups", "keeps", "options"),
    [
        (2, True, {}),
        (3, False, {}),
        (3, True, {"unfreeze": "all"}),
        (3, True, {"lr_mult": 10.0}),
    ],
)
def test_without_halves_everything_trains_from_the_first_epoch_on(groups, keeps, options):
    layer_groups = tiny_learner(groups).layer_groups
    steps = [in_short(plan) for plan in plans(layer_groups, keeps=keeps, **options)]
    assert steps[:3] == [[], [(0, 1, None)], [(0, 2, None)]]


def test_what_the_caller_unfreezes_is_all_that_trains():
    layer_groups = tiny_learner(3).layer_groups
    name = layer_groups.names[1]
    assert all(phases[-1].frozen >= 1 for phases in plans(layer_groups, unfreeze=name))


@pytest.mark.parametrize("keeps", [True, False])
def test_each_plan_is_estimated_to_take_longer_than_the_one_before(keeps):
    learner = tiny_learner(3)
    pace = Pace(decoding=0.4, forward=0.5, step=1.8, later_step=1.1)
    setup = setup_of(learner)
    seconds = [
        pace.seconds(plan, setup, head="kept features" if keeps else "steps")
        for plan in plans(learner.layer_groups, keeps=keeps)
    ]
    assert seconds == sorted(set(seconds))


def test_where_nothing_else_fits_the_head_trains():
    learner = image_learner()
    learner.fine_tune(minutes=NOTHING)
    assert {row.phase for row in learner.history.epochs} == {"probe"}
    assert learner.layer_groups.frozen_count == 0  # a later fit trains everything


def test_with_plenty_of_time_everything_trains_and_measuring_moves_nothing():
    learner = image_learner()
    before = copy_of(learner.model.state_dict())
    plan = learner.trainer.plan_within(Budget(PLENTY, FineTune(1)), None)
    assert in_short(plan)[-1][0] == 0
    assert same_state(before, learner.model.state_dict())


def test_a_run_that_goes_on_keeps_its_plan(tmp_path):
    checkpoint = tmp_path / "run.ckpt"
    first = image_learner()
    first.fine_tune(minutes=NOTHING, checkpoint=checkpoint)
    again = image_learner()
    budget = Budget(PLENTY, FineTune(1))
    assert again.trainer.plan_within(budget, Path(checkpoint)) == first.trainer.run.plan


@pytest.mark.parametrize("arguments", [{}, {"epochs": 1, "minutes": 1}])
def test_epochs_or_minutes(arguments):
    with pytest.raises(ValueError, match="pass epochs or minutes"):
        tiny_learner(2).fine_tune(**arguments)


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_minutes_are_positive(minutes):
    with pytest.raises(ValueError, match="minutes"):
        tiny_learner(2).fine_tune(minutes=minutes)
