"""GroupOptimizer: layer groups times a torch optimizer class, with one step."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import StopAt, copy_of, same_state, setup_of, tiny_data, tiny_learner
from torch import Tensor, nn

from finetune import (
    CheckpointError,
    GroupOptimizer,
    LayerGroups,
    Learner,
    Phase,
    ScaledUpdates,
    adamw,
    muon,
)
from finetune.training.loop import Loop
from finetune.training.plan import fit_plan
from finetune.training.run import Run
from finetune.training.settings import StepSettings

OPTIMIZERS = [
    torch.optim.AdamW,
    torch.optim.Adam,
    torch.optim.SGD,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.NAdam,
    torch.optim.RAdam,
]
by_optimizer = pytest.mark.parametrize("factory", OPTIMIZERS, ids=lambda f: f.__name__)


def model_of_two(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
    return nn.Sequential(body, nn.Linear(4, 2))


def optimizer_of(
    model: nn.Module, factory: Callable[..., Any] = adamw, **options: Any
) -> GroupOptimizer:
    return GroupOptimizer(LayerGroups.from_model(model), factory, **options)


def backward(model: nn.Module, seed: int = 0) -> None:
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    model(inputs).pow(2).sum().backward()


def train(model: nn.Module, optimizer: GroupOptimizer, steps: int, *, first: int = 0) -> None:
    for i in range(first, first + steps):
        optimizer.zero_grad()
        backward(model, seed=i)
        optimizer.step()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return copy_of(dict(model.named_parameters()))


def membership(optimizer: GroupOptimizer) -> list[list[int]]:
    return [[id(p) for p in group["params"]] for group in optimizer.param_groups]


def same_optimizer_state(a: dict[str, dict], b: dict[str, dict]) -> bool:
    return a.keys() == b.keys() and all(same_state(a[name], b[name]) for name in a)


# --- membership


def test_every_parameter_is_a_member_once():
    model = model_of_two()
    members = chain.from_iterable(membership(optimizer_of(model)))
    assert sorted(members) == sorted(id(p) for p in model.parameters())


def test_membership_and_order_survive_freezing_and_training():
    model = model_of_two()
    optimizer = optimizer_of(model)
    before = membership(optimizer)
    for frozen in (1, 0, 1):
        optimizer.groups.freeze_to(frozen)
        train(model, optimizer, 1)
        assert membership(optimizer) == before


def test_an_optimizer_built_while_frozen_trains_all_parameters_later():
    model = model_of_two()
    groups = LayerGroups.from_model(model)
    groups.freeze_to(1)
    optimizer = GroupOptimizer(groups)
    groups.freeze_to(0)
    before = weights(model)
    train(model, optimizer, 1)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    # the bias before BatchNorm has no gradient to speak of
    assert moved >= before.keys() - {"0.0.bias"}


def test_a_tied_weight_is_a_member_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert sum(map(len, membership(optimizer_of(model)))) == 3


# --- defaults and weight decay


def test_the_default_is_adamw_with_known_settings():
    optimizer = optimizer_of(model_of_two()).torch_optimizers[0]
    assert type(optimizer) is torch.optim.AdamW
    settings = {k: optimizer.defaults[k] for k in ("betas", "eps", "weight_decay", "lr")}
    assert settings == {"betas": (0.9, 0.99), "eps": 1e-5, "weight_decay": 0.01, "lr": 1e-3}


class Listed(nn.Module):
    """Has a parameter that its own list takes out of weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.linear = nn.Parameter(torch.ones(4)), nn.Linear(4, 4)

    def no_weight_decay(self) -> set[str]:
        return {"position"}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs + self.position)


def decay_by_name(optimizer: GroupOptimizer, model: nn.Module) -> dict[str, float]:
    optimizer.apply_values()
    name_of = {id(p): name for name, p in model.named_parameters()}
    return {
        name_of[id(p)]: group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
    }


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.01}], ids=["factory's", "given"])
def test_biases_norms_and_listed_parameters_do_not_decay(options: dict):
    model = nn.Sequential(Listed(), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)))
    assert decay_by_name(optimizer_of(model, **options), model) == {
        "0.position": 0, "0.linear.weight": 0.01, "0.linear.bias": 0,
        "1.0.weight": 0, "1.0.bias": 0, "1.1.weight": 0.01, "1.1.bias": 0,
    }  # fmt: skip


def test_a_group_may_decay_by_its_own_value():
    model = model_of_two()
    optimizer = optimizer_of(model, weight_decay=0.1)
    optimizer.groups[0].values["weight_decay"] = 0.5
    decay = decay_by_name(optimizer, model)
    assert (decay["0.0.weight"], decay["0.0.bias"], decay["1.weight"]) == (0.5, 0, 0.1)


def test_a_factory_function_decays_no_bias_either():
    model = model_of_two()
    optimizer = optimizer_of(model, lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1))
    assert decay_by_name(optimizer, model)["1.bias"] == 0


def test_negative_weight_decay_is_an_error():
    with pytest.raises(ValueError, match=r"weight_decay must be finite and at least 0, got -0\.1"):
        optimizer_of(model_of_two(), weight_decay=-0.1)


def test_weight_decay_for_an_optimizer_that_has_none_is_an_error():
    with pytest.raises(ValueError, match="weight_decay"):
        optimizer_of(model_of_two(), torch.optim.Rprop, weight_decay=0.1)


# --- values


def test_the_groups_start_with_the_factorys_values():
    groups = optimizer_of(model_of_two(), partial(torch.optim.SGD, lr=0.5, momentum=0.7)).groups
    values = {"lr": 0.5, "momentum": 0.7, "dampening": 0.0, "weight_decay": 0.0}
    assert [g.values for g in groups] == [values] * 2


def test_values_are_applied_at_the_step():
    model = model_of_two()
    optimizer = optimizer_of(model)
    optimizer.groups.set_values("lr", [1e-4, 1e-2])
    optimizer.groups.set_values("momentum", [0.8, 0.7])
    train(model, optimizer, 1)
    assert [g["lr"] for g in optimizer.param_groups] == [1e-4, 1e-4, 1e-2, 1e-2]
    assert [g["betas"] for g in optimizer.param_groups] == [(0.8, 0.99)] * 2 + [(0.7, 0.99)] * 2


def test_momentum_is_the_momentum_of_sgd():
    model = model_of_two()
    optimizer = optimizer_of(model, partial(torch.optim.SGD, momentum=0.9))
    optimizer.groups.set_values("momentum", [0.8, 0.7])
    optimizer.apply_values()
    assert [g["momentum"] for g in optimizer.param_groups] == [0.8, 0.8, 0.7, 0.7]


@pytest.mark.parametrize(
    ("factory", "expected"),
    [(adamw, True), (torch.optim.SGD, True), (torch.optim.Adagrad, False)],
)
def test_it_knows_whether_there_is_a_momentum(factory: Callable[..., Any], expected: bool):
    assert optimizer_of(model_of_two(), factory).has_momentum is expected


def test_a_rate_changed_by_hand_is_the_rate_of_the_next_step_and_nothing_multiplies_it():
    model = model_of_two()
    optimizer = optimizer_of(model, torch.optim.SGD)
    train(model, optimizer, 1)
    optimizer.groups[0].values["lr"], optimizer.groups[1].values["lr"] = 0.25, 0.5
    for group in optimizer.param_groups:
        group["lr_scale"] = 0.1  # timm's hidden multiplier
    before = weights(model)
    optimizer.zero_grad()
    backward(model)
    optimizer.step()
    for name, parameter in model.named_parameters():
        rate = 0.25 if name.startswith("0.") else 0.5
        torch.testing.assert_close(parameter, before[name] - rate * parameter.grad)


def test_in_a_fit_torch_steps_with_the_rates_of_the_history():
    learner = tiny_learner(3, data=tiny_data(12, 4))
    torch_optimizer = learner.optimizer.torch_optimizers[0]
    used: list[tuple[float, ...]] = []

    def note(*_: object) -> None:
        used.append(tuple(group["lr"] for group in torch_optimizer.param_groups))

    torch_optimizer.register_step_pre_hook(note)
    learner.fine_tune(1)
    twice = [tuple(lr for lr in row.lr for _ in (0, 1)) for row in learner.history.steps]
    assert used == twice
    assert len(set(used)) == 6


# --- kernels


@pytest.mark.parametrize("factory", [adamw, torch.optim.Adam, torch.optim.Adagrad])
def test_fused_kernels_are_used_where_there_are_any(factory: Callable[..., Any]):
    assert optimizer_of(model_of_two(), factory).torch_optimizers[0].defaults["fused"] is True


@pytest.mark.parametrize(
    "asked", [{"fused": False}, {"foreach": True}], ids=["not fused", "foreach"]
)
def test_the_kernels_asked_for_are_used(asked: dict[str, bool]):
    defaults = (
        optimizer_of(model_of_two(), partial(torch.optim.AdamW, **asked))
        .torch_optimizers[0]
        .defaults
    )
    assert not defaults["fused"]
    assert {name: defaults[name] for name in asked} == asked


def test_where_torch_has_no_fused_kernel_it_uses_another():
    factory = partial(torch.optim.AdamW, differentiable=True)  # torch refuses it with fused=True
    assert not optimizer_of(model_of_two(), factory).torch_optimizers[0].defaults["fused"]


# --- steps


@by_optimizer
def test_any_torch_optimizer_takes_a_step(factory: Callable[..., Any]):
    model = model_of_two()
    before = weights(model)
    train(model, optimizer_of(model, factory), 1)
    assert not torch.equal(model[1].weight, before["1.weight"])
    assert all(torch.isfinite(p).all() for p in model.parameters())


@by_optimizer
def test_steps_equal_those_of_plain_torch_with_the_same_settings(factory: Callable[..., Any]):
    ours, plain = model_of_two(), model_of_two()
    optimizer = optimizer_of(ours, factory, weight_decay=0.1)
    optimizer.groups.set_values("lr", [1e-3, 1e-2])
    torch_optimizer = factory(
        [
            {
                "params": [p],
                "lr": 1e-3 if name.startswith("0.") else 1e-2,
                "weight_decay": 0.1 if name in ("0.0.weight", "1.weight") else 0.0,
            }
            for name, p in plain.named_parameters()
        ]
    )
    for i in range(3):
        train(ours, optimizer, 1, first=i)
        torch_optimizer.zero_grad()
        backward(plain, seed=i)
        torch_optimizer.step()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, plain.get_parameter(name), rtol=1e-5, atol=1e-7)


def test_a_frozen_group_takes_no_step_though_it_has_momentum_and_decay():
    model = model_of_two()
    factory = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer = optimizer_of(model, factory)
    train(model, optimizer, 2)
    optimizer.groups.freeze_to(1)
    before = weights(model[0])
    train(model, optimizer, 3)
    assert same_state(weights(model[0]), before)


def test_zero_grad_leaves_no_gradient():
    model = model_of_two()
    backward(model)
    optimizer_of(model).zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("factory", [adamw, torch.optim.RAdam], ids=["fused", "not fused"])
def test_a_gradient_scaler_steps_as_if_it_were_not_there(factory: Callable[..., Any]):
    scaled, plain = model_of_two(), model_of_two()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = optimizer_of(scaled, factory)
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    scaler.scale(scaled(inputs).pow(2).sum()).backward()
    optimizer.step(scaler)
    train(plain, optimizer_of(plain, factory), 1)
    for name, parameter in scaled.named_parameters():
        torch.testing.assert_close(parameter, plain.get_parameter(name))


def test_a_gradient_scaler_skips_the_step_of_an_infinite_gradient():
    model = model_of_two()
    before, optimizer = weights(model), optimizer_of(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model(torch.ones(8, 4)).sum() * float("inf")).backward()
    optimizer.step(scaler)
    scaler.update()
    assert same_state(weights(model), before)
    assert scaler.get_scale() == 512.0


def test_momentum_may_come_after_steps_without():
    model = model_of_two()
    optimizer = optimizer_of(model, torch.optim.RMSprop)
    train(model, optimizer, 1)
    optimizer.groups.set_values("momentum", [0.9, 0.9])
    train(model, optimizer, 1)
    assert all(torch.isfinite(p).all() for p in model.parameters())


# --- state


def test_state_survives_freezing_and_unfreezing():
    model = model_of_two()
    optimizer = optimizer_of(model)
    train(model, optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.groups.freeze_to(1)
    train(model, optimizer, 2)
    optimizer.groups.freeze_to(0)
    after = optimizer.state_dict()
    body = [name for name in before if name.startswith("0.")]
    assert len(body) == 4
    assert all(same_state(after[name], before[name]) for name in body)


def test_state_survives_the_phases_of_fine_tune():
    learner = tiny_learner(2, data=tiny_data(12, 4))
    learner.fit(1)
    learner.freeze()
    learner.fit(1)
    learner.unfreeze()
    learner.fit(1)
    state = learner.optimizer.state_dict()
    steps = {name: int(entries["step"]) for name, entries in state.items()}
    assert steps["0.0.weight"] == 6
    assert steps["1.weight"] == 9


def test_state_is_by_name():
    model = model_of_two()
    optimizer = optimizer_of(model)
    assert optimizer.state_dict() == {}
    train(model, optimizer, 1)
    state = optimizer.state_dict()
    assert state.keys() == dict(model.named_parameters()).keys()
    assert all(state[n]["exp_avg"].shape == p.shape for n, p in model.named_parameters())


@pytest.mark.parametrize("factory", [*OPTIMIZERS, torch.optim.Adafactor], ids=lambda f: f.__name__)
def test_a_restored_optimizer_continues_bit_for_bit(factory: Callable[..., Any]):
    model, other = model_of_two(), model_of_two(seed=1)
    optimizer, restored = optimizer_of(model, factory), optimizer_of(other, factory)
    train(model, optimizer, 2)
    other.load_state_dict(model.state_dict())
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 2, first=2)
    train(other, restored, 2, first=2)
    assert same_state(weights(other), weights(model))
    assert same_optimizer_state(restored.state_dict(), optimizer.state_dict())


def test_restoring_drops_the_state_that_was_there():
    model = model_of_two()
    optimizer = optimizer_of(model)
    train(model, optimizer, 1)
    optimizer.load_state_dict({})
    assert optimizer.state_dict() == {}


def test_restoring_keeps_the_values_of_the_groups():
    model = model_of_two()
    optimizer = optimizer_of(model)
    train(model, optimizer, 1)
    optimizer.groups.set_values("lr", [0.25, 0.5])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 1)
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.25, 0.5, 0.5]


def unknown_name(state: dict[str, dict]) -> None:
    state["2.weight"] = state["1.weight"]


def wrong_shape(state: dict[str, dict]) -> None:
    state["1.weight"]["exp_avg"] = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unknown_name, r"parameters that are not here: \['2.weight'\]"),
        (wrong_shape, r"exp_avg of '1.weight' has shape \(3, 3\), the parameter \(2, 4\)"),
    ],
)
def test_state_that_does_not_fit_is_an_error_and_changes_nothing(
    damage: Callable[[dict], None], message: str
):
    model = model_of_two()
    optimizer = optimizer_of(model)
    train(model, optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    damaged = {name: {k: v + 1 for k, v in entries.items()} for name, entries in before.items()}
    damage(damaged)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(damaged)
    assert same_optimizer_state(optimizer.state_dict(), before)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.AdamW])
def test_weights_of_a_group_may_start_at_different_times(optimizer: Callable[..., Any]):
    """With norm="train" a frozen group's normalisation trains before its other biases do."""
    learner = tiny_learner(3, optimizer=optimizer, norm="train")
    learner.fine_tune(1, base_lr=1e-3)
    assert len(learner.history.steps) == 16


# --- an optimizer per group

sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
MIXED: dict[str, Any] = {"head": adamw, "*": sgd}


def test_every_group_steps_with_its_own_optimizer():
    mixed, by_hand = model_of_two(), model_of_two()
    train(mixed, optimizer_of(mixed, MIXED, weight_decay=0.0), 3)
    body = sgd(by_hand[0].parameters())
    head = adamw(by_hand[1].parameters(), weight_decay=0.0, fused=True)
    for i in range(3):
        by_hand.zero_grad()
        backward(by_hand, seed=i)
        body.step()
        head.step()
    assert same_state(weights(mixed), weights(by_hand))


def test_groups_that_chose_the_same_factory_share_an_optimizer():
    learner = tiny_learner(groups=3, optimizer={"2": adamw, "*": sgd})
    names = [type(one).__name__ for one in learner.optimizer.torch_optimizers]
    assert names == ["SGD", "AdamW"]
    assert [group.optimizer for group in learner.layer_groups] == ["SGD", "SGD", "AdamW"]
    assert [group.values["lr"] for group in learner.layer_groups] == [0.1, 0.1, 1e-3]


def test_one_schedule_and_one_zero_grad_serve_several_optimizers():
    learner = tiny_learner(groups=2, optimizer={"0": sgd, "1": adamw})
    learner.fit_one_cycle(2, [0.1, 0.01])
    rates = {group["lr"] for group in learner.optimizer.param_groups}
    assert rates == set(learner.history.steps[-1].lr)
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def test_a_scaler_skips_the_step_of_all_optimizers():
    model = model_of_two()
    before, optimizer = weights(model), optimizer_of(model, MIXED)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model(torch.ones(8, 4)).sum()).backward()
    model[1].weight.grad[0, 0] = float("inf")
    optimizer.step(scaler)
    scaler.update()
    assert same_state(weights(model), before)
    assert scaler.get_scale() == 512.0


def test_state_of_several_optimizers_is_by_name_and_survives_another_order():
    model, other = model_of_two(), model_of_two()
    optimizer = optimizer_of(model, {"backbone": sgd, "head": adamw})
    train(model, optimizer, 2)
    again = optimizer_of(other, {"head": adamw, "*": sgd})
    other.load_state_dict(model.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 2, first=2)
    train(other, again, 2, first=2)
    assert same_state(weights(model), weights(other))


def test_muon_takes_the_matrices_and_adamw_the_rest():
    model = model_of_two()
    optimizer = optimizer_of(model, {"backbone": muon, "head": adamw})
    name_of = {id(p): name for name, p in model.named_parameters()}
    members = {
        type(one).__name__: [name_of[id(p)] for group in one.param_groups for p in group["params"]]
        for one in optimizer.torch_optimizers
    }
    assert members == {
        "Muon": ["0.0.weight"],
        "AdamW": ["0.0.bias", "0.1.weight", "0.1.bias", "1.weight", "1.bias"],
    }
    assert [group.optimizer for group in optimizer.groups] == ["Muon, AdamW", "AdamW"]


def test_a_run_with_muon_goes_on_bit_for_bit(tmp_path: Path):
    def learner() -> Learner:
        return tiny_learner(groups=3, optimizer={"2": adamw, "*": muon})

    whole, first, second = learner(), learner(), learner()
    whole.fit_one_cycle(2, 1e-2, callbacks=[StopAt(11)])
    first.fit_one_cycle(2, 1e-2, callbacks=[StopAt(11)])
    first.save(tmp_path / "run.pt")
    second.load(tmp_path / "run.pt")
    whole.resume()
    second.resume()
    assert same_state(whole.model.state_dict(), second.model.state_dict())


def test_a_group_without_an_optimizer_is_an_error():
    with pytest.raises(ValueError, match="layer group 'backbone' has no optimizer"):
        optimizer_of(model_of_two(), {"head": adamw})


@pytest.mark.parametrize("optimizer", [sgd, {"0": sgd, "1": partial(torch.optim.SGD, lr=0.1)}])
def test_clipping_under_a_scaler_unscales_once(optimizer: Any):
    def trained(scaled: bool) -> dict[str, Tensor]:
        learner = tiny_learner(optimizer=optimizer, dropout=0.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None
        setup = setup_of(learner, scaler=scaler, settings=StepSettings(clip_norm=1e9))
        Loop(setup, [], lambda path: None).run(Run(fit_plan(learner.layer_groups, 1, 0.1), 0))
        return weights(learner.model)

    scaled, plain = trained(True), trained(False)
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], value)


class Counting(torch.optim.SGD):
    """Keeps what it found out in its param groups, as Prodigy and schedule-free optimizers do."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, lr)
        self.defaults["size"] = 1e-6
        for group in self.param_groups:
            group.setdefault("size", 1e-6)

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            group["size"] *= 10
            group["count"] = group.get("count", 0) + 1


@pytest.mark.parametrize("factory", [Counting, partial(ScaledUpdates, optimizer=Counting)])
def test_what_an_optimizer_counts_in_its_param_groups_stays_and_is_saved(factory, tmp_path: Path):
    learner, again = tiny_learner(optimizer=factory), tiny_learner(optimizer=factory)
    learner.fit(1, 0.1)
    for group in learner.optimizer.param_groups:
        assert group["count"] == 8
        assert group["size"] == pytest.approx(1e2)
    learner.save(tmp_path / "run.pt")
    again.load(tmp_path / "run.pt")
    assert again.optimizer.settings() == learner.optimizer.settings()
    again.fit(1, 0.1)
    learner.fit(1, 0.1)
    assert again.optimizer.settings() == learner.optimizer.settings()
    assert same_state(weights(again.model), weights(learner.model))


class Preconditioned(torch.optim.SGD):
    """With state of another shape than the parameters', as Shampoo."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for parameter in (p for group in self.param_groups for p in group["params"]):
            self.state[parameter]["left"] = torch.eye(len(parameter))


def test_state_of_any_shape_is_loaded(tmp_path: Path):
    learner, again = (tiny_learner(optimizer=Preconditioned) for _ in range(2))
    learner.fit(1, 0.1)
    learner.save(tmp_path / "run.pt")
    again.load(tmp_path / "run.pt")
    for name, state in learner.optimizer.state_dict().items():
        assert torch.equal(again.optimizer.state_dict()[name]["left"], state["left"])


def test_each_optimizer_of_a_group_keeps_its_own_settings_until_they_are_set():
    optimizer = optimizer_of(model_of_two(), {"backbone": muon, "head": adamw})
    optimizer.apply_values()
    # the first param group of either is the backbone's
    body = {type(one).__name__: one.param_groups[0] for one in optimizer.torch_optimizers}
    assert (body["Muon"]["eps"], body["AdamW"]["eps"]) == (1e-7, 1e-5)
    assert body["AdamW"]["betas"][1] == 0.99
    optimizer.groups.set("eps", 0.5)
    optimizer.apply_values()
    assert {group["eps"] for group in body.values()} == {0.5}


def test_another_assignment_of_the_same_optimizers_is_refused(tmp_path: Path):
    learner = tiny_learner(groups=3, optimizer={"0": sgd, "*": adamw})
    learner.save(tmp_path / "run.pt")
    other = tiny_learner(groups=3, optimizer={"2": adamw, "*": sgd})
    with pytest.raises(CheckpointError, match=r"optimizer \['SGD', 'AdamW', 'AdamW'\], here it is"):
        other.load(tmp_path / "run.pt")


def test_some_groups_may_have_no_momentum():
    learner = tiny_learner(optimizer={"0": torch.optim.Adagrad, "1": adamw})
    learner.fit_plan((Phase("p", 1, 0, {"lr": (1e-3, 1e-3)}),))
    learner.fit_one_cycle(1)
    assert "momentum" not in learner.layer_groups[0].values


def test_whole_numbers_are_hyper_parameters_too():
    groups = optimizer_of(model_of_two(), partial(torch.optim.AdamW, weight_decay=1)).groups
    assert [group.values["weight_decay"] for group in groups] == [1.0, 1.0]


@pytest.mark.parametrize("factory", ["adam", torch.optim.SGD([nn.Parameter(torch.ones(1))])])
def test_an_optimizer_that_is_no_factory_is_an_error(factory: Any):
    with pytest.raises(TypeError, match="must be a torch optimizer class"):
        optimizer_of(model_of_two(), factory)


def test_a_second_optimizer_over_the_same_groups_starts_anew():
    groups = LayerGroups.from_model(model_of_two())
    GroupOptimizer(groups, partial(torch.optim.SGD, lr=0.5))
    GroupOptimizer(groups, partial(torch.optim.AdamW, lr=0.1))
    assert [group.values["lr"] for group in groups] == [0.1, 0.1]


class Listing(torch.optim.SGD):
    """Keeps lists of tensors for each parameter, as Kron and SOAP do."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                factors = self.state[parameter].setdefault("factors", [torch.zeros(2)])
                factors[0] += 1
                self.state[parameter]["words"] = ("ab", "c")


def test_state_of_lists_is_saved_and_loaded(tmp_path: Path):
    learner, loaded = (tiny_learner(2, optimizer=partial(Listing, momentum=0.9)) for _ in range(2))
    learner.fit(1, 1e-2)
    learner.save(tmp_path / "learner.pt")
    loaded.load(tmp_path / "learner.pt")
    for state in loaded.optimizer.state_dict().values():
        assert state["factors"][0].tolist() == [8, 8]


def test_settings_in_numbers_of_numpy_are_saved(tmp_path: Path):
    betas = (np.float64(0.9), np.float64(0.99))
    learner = tiny_learner(2, optimizer=partial(torch.optim.AdamW, betas=betas))
    learner.fit(1, 1e-2, checkpoint=tmp_path / "run.pt")
    learner.load(tmp_path / "run.pt")


@pytest.mark.parametrize("factory", [torch.optim.LBFGS, partial(torch.optim.LBFGS, lr=0.1)])
def test_lbfgs_is_refused_with_what_to_take(factory: Any) -> None:
    with pytest.raises(ValueError, match=r"optimizer=LBFGS takes no layer groups.* use AdamW or"):
        tiny_learner(optimizer=factory)
