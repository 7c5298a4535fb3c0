"""Before each fit the groups and the model's parameters are the same; what is set by hand stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support import StopAt, copy_of, same_state, tiny_data, tiny_learner, tiny_model
from torch import nn

from finetune import LayerGroups, Learner


def moved(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return not same_state(module.state_dict(), before)


# --- parameters that come and go


def test_a_replaced_head_trains_and_is_in_the_table():
    learner = tiny_learner(2)
    learner.model[1] = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    before = copy_of(learner.model[1].state_dict())
    learner.fit_one_cycle(1, 1e-2)
    assert moved(learner.model[1][0], {k[2:]: v for k, v in before.items() if k[0] == "0"})
    assert list(learner.layer_groups[1].parameters) == [
        *("1.0.weight", "1.0.bias", "1.2.weight", "1.2.bias"),
    ]
    assert "1.0 .. 1.2" in str(learner.layer_groups)


def test_a_replaced_head_trains_as_in_a_learner_that_was_made_with_it():
    replaced, made = tiny_learner(2), None
    torch.manual_seed(3)
    head = nn.Linear(4, 2)
    replaced.model[1] = head
    model = tiny_model(2)
    model[1].load_state_dict(head.state_dict())
    made = Learner(
        tiny_data(),
        model,
        loss=nn.functional.cross_entropy,
        split=[1],
        device="cpu",
        progress=False,
    )
    for learner in (replaced, made):
        learner.fine_tune(1)
    assert same_state(replaced.model.state_dict(), made.model.state_dict())


@pytest.mark.parametrize("place", ["behind the model", "in the head"])
def test_an_appended_layer_trains(place: str):
    learner = tiny_learner(3)
    layer = nn.Linear(2, 2)
    if place == "behind the model":
        learner.model.append(layer)
    else:
        learner.model[2] = nn.Sequential(learner.model[2], layer)
    before = copy_of(layer.state_dict())
    learner.fit_one_cycle(1, 1e-2)
    assert moved(layer, before)
    assert len(learner.layer_groups[2].parameters) == 4


def test_parameters_that_stay_keep_their_optimizer_state_under_a_new_name():
    learner = tiny_learner(2)
    learner.fit_one_cycle(1, 1e-2)
    before = learner.optimizer.state_dict()
    learner.model[1] = nn.Sequential(learner.model[1], nn.Linear(2, 2))
    after = learner.optimizer.state_dict()
    assert after.keys() == (before.keys() - {"1.weight", "1.bias"}) | {"1.0.weight", "1.0.bias"}
    assert torch.equal(after["1.0.weight"]["exp_avg"], before["1.weight"]["exp_avg"])


def test_parameters_that_are_gone_leave_no_state():
    learner = tiny_learner(2)
    learner.fit_one_cycle(1, 1e-2)
    learner.model[1] = nn.Linear(4, 2)
    assert "1.weight" not in learner.optimizer.state_dict()


def test_values_that_were_set_hold_for_what_is_new():
    learner = tiny_learner(2)
    learner.layer_groups.set("weight_decay", 0.25)
    learner.model[1] = nn.Linear(4, 2)
    learner.fit_one_cycle(1, 1e-2)
    decays = [group["weight_decay"] for group in learner.optimizer.param_groups]
    assert decays == [0.25, 0.0, 0.25, 0.0]


def test_a_parameter_between_two_groups_is_an_error_that_names_it():
    learner = tiny_learner(3)
    learner.model.insert(1, nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"2 new parameters .*: 1.weight, 1.bias; .*split="):
        learner.fit_one_cycle(1, 1e-2)


def test_a_group_that_would_be_empty_is_an_error():
    learner = tiny_learner(2)
    learner.model[1] = nn.Identity()
    with pytest.raises(ValueError, match="layer group '1' has no parameter left"):
        learner.fit_one_cycle(1, 1e-2)


def test_what_is_new_in_a_frozen_group_is_frozen():
    learner = tiny_learner(3)
    learner.freeze()
    learner.model[0][0] = nn.Linear(4, 4)
    before = copy_of(learner.model[0][0].state_dict())
    learner.fit_one_cycle(1, 1e-2)
    assert not moved(learner.model[0][0], before)


def test_the_movement_of_a_replaced_head_is_from_where_it_began():
    learner = tiny_learner(2)
    learner.fit_one_cycle(1, 1e-2)
    learner.model[1] = nn.Linear(4, 2)
    start = learner.model[1].weight.detach().clone()
    learner.fit_one_cycle(1, 1e-3)
    row = learner.movement()[-1]
    distance = (learner.model[1].weight.detach() - start).norm().item()
    assert row.module == "1"
    assert distance <= row.moved < 2 * distance + 0.1


def test_a_replaced_head_survives_save_and_load(tmp_path: Path):
    learner = tiny_learner(2)
    learner.model[1] = nn.Sequential(nn.Linear(4, 2))
    learner.fit_one_cycle(1, 1e-2)
    learner.save(tmp_path / "a.ckpt")
    again = tiny_learner(2)
    again.model[1] = nn.Sequential(nn.Linear(4, 2))
    again.load(tmp_path / "a.ckpt")
    for each_learner in (learner, again):
        each_learner.fit_one_cycle(1, 1e-2)
    assert same_state(learner.model.state_dict(), again.model.state_dict())


def test_an_interrupted_run_goes_on_with_another_head_and_an_average():
    learner = tiny_learner(2, ema=0.9)
    learner.fit_one_cycle(2, 1e-2, callbacks=[StopAt(4)])
    learner.model[1] = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    learner.resume()
    assert len(learner.history.steps) == 16


# --- what is frozen by hand


def test_what_is_frozen_by_hand_stays_through_freezing_and_unfreezing():
    learner = tiny_learner(3)
    learner.model[0].requires_grad_(False)
    before = copy_of(learner.model[0].state_dict())
    learner.fine_tune(1, base_lr=1e-2)
    learner.freeze()
    learner.unfreeze()
    learner.fit_one_cycle(1, 1e-2)
    assert not moved(learner.model[0], before)  # its running statistics neither


def test_the_table_shows_what_is_frozen_by_hand():
    learner = tiny_learner(2)
    assert "frozen by hand" not in str(learner.layer_groups)
    learner.model[0][0].weight.requires_grad_(False)
    header, _, first, second = str(learner.layer_groups).splitlines()[:4]
    assert header.rstrip().endswith("frozen by hand")
    assert first.split()[-1] == "16"
    assert second.split()[-1] == "0"


def test_what_is_released_by_hand_trains_again():
    learner = tiny_learner(2)
    weight = learner.model[0][0].weight.requires_grad_(False)
    learner.fit_one_cycle(1, 1e-2)
    weight.requires_grad_(True)
    before = weight.detach().clone()
    learner.fit_one_cycle(1, 1e-2)
    assert not torch.equal(weight, before)


def test_a_body_that_is_frozen_before_the_learner_is_made_stays_frozen():
    model = tiny_model(2)
    model[0].requires_grad_(False)
    before = copy_of(model[0].state_dict())
    learner = Learner(
        tiny_data(), model, loss=nn.functional.cross_entropy, device="cpu", progress=False
    )
    learner.fine_tune(1, base_lr=1e-2)
    assert not moved(model[0], before)


def test_a_mapping_may_name_what_is_frozen_by_hand_or_leave_it_out():
    model = tiny_model(2)
    model[0][0].requires_grad_(False)
    for names in ({"0": "body", "1": "head"}, {"0.1": "body", "1": "head"}):
        assert LayerGroups.from_model(model, names).names == ("body", "head")


def test_a_resumed_run_keeps_what_was_frozen_by_hand(tmp_path: Path):
    learner = tiny_learner(2)
    learner.model[0].requires_grad_(False)
    learner.fit_one_cycle(1, 1e-2)
    learner.save(tmp_path / "a.ckpt")
    again = tiny_learner(2)
    again.load(tmp_path / "a.ckpt")
    before = copy_of(again.model[0].state_dict())
    again.fit_one_cycle(1, 1e-2)
    assert not moved(again.model[0], before)


def test_a_phase_in_which_nothing_would_train_is_an_error():
    learner = tiny_learner(2)
    learner.model[1].requires_grad_(False)
    with pytest.raises(ValueError, match="nothing trains in phase 'frozen'"):
        learner.fine_tune(1)


# --- what is held in eval mode


class WithTeacher(nn.Sequential):
    """A body and a head, and a teacher whose outputs are added."""

    def __init__(self) -> None:
        super().__init__(*tiny_model(2))
        self.teacher = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self[1](self[0](inputs)) + self.teacher(inputs)


def with_teacher(model: nn.Module, **options: Any) -> Learner:
    return Learner(
        tiny_data(),
        model,
        loss=nn.functional.cross_entropy,
        device="cpu",
        progress=False,
        split={"0": "body", "1": "head", "teacher": "teacher"},
        **options,
    )


class Modes(StopAt):
    """Notes the modes of modules at the end of every step."""

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = modules
        self.seen: set[tuple[bool, ...]] = set()

    def on_step_end(self, event: Any) -> None:
        self.seen.add(tuple(module.training for module in self.modules))


def test_a_teacher_in_eval_mode_stays_so_in_every_fit():
    model = WithTeacher()
    model.teacher.eval()
    statistics = model.teacher[1].running_var.clone()
    learner = with_teacher(model, norm="train")
    modes = Modes(model.teacher[1], model.teacher[2], model[0][3])
    learner.fine_tune(1, callbacks=[modes])
    learner.validate()
    learner.fit_one_cycle(1, callbacks=[modes])
    assert (False, False, True) in modes.seen
    assert not any(norm or dropout for norm, dropout, _ in modes.seen)
    assert torch.equal(model.teacher[1].running_var, statistics)


def test_a_module_that_keeps_itself_in_eval_mode_is_obeyed():
    class Still(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> "Still":
            return super().train(False)

    learner = tiny_learner(2, norm="train")
    learner.model[0][1] = Still(4)
    modes = Modes(learner.model[0][1], learner.model[0][3])
    learner.fit_one_cycle(1, callbacks=[modes])
    assert modes.seen == {(False, True)}


def test_what_was_held_in_eval_mode_is_released_by_train():
    model = WithTeacher()
    model.teacher.eval()
    learner = with_teacher(model)
    learner.fit_one_cycle(1)
    model.train()
    modes = Modes(model.teacher[2])
    learner.fit_one_cycle(1, callbacks=[modes])
    assert modes.seen == {(True,)}


def test_a_whole_model_in_eval_mode_is_trained():
    learner = tiny_learner(2)
    learner.model.eval()
    modes = Modes(learner.model[0][3])
    learner.fit_one_cycle(1, callbacks=[modes])
    assert modes.seen == {(True,)}


def test_a_frozen_group_is_not_taken_for_one_that_is_held_in_eval_mode():
    learner = tiny_learner(2)
    learner.freeze()
    learner.layer_groups.set_training_modes()
    learner.unfreeze()
    modes = Modes(learner.model[0][1], learner.model[0][3])
    learner.fit_one_cycle(1, callbacks=[modes])
    assert modes.seen == {(True, True)}
