"""Optimizers that need a closure (SAM), and those that evaluate other weights than they train."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import StopAt, same_state, tiny_data, tiny_learner
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer

from finetune import Callback, Learner, Runtime, SaveBest, ScaledUpdates
from finetune.training.events import EpochEnd


class SAM(Optimizer):
    """As the usual package has it (davda54/sam, MIT): a base optimizer, and two steps."""

    def __init__(self, params: Any, base_optimizer: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base_optimizer(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def first_step(self) -> None:
        gradients = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["old_p"] = p.data.clone()
                    p.add_(p.grad * (group["rho"] / (norm + 1e-12)))

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["old_p"]
        self.base_optimizer.step()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is not None, "Sharpness Aware Minimization requires closure"
        closure = torch.enable_grad()(closure)
        self.first_step()
        closure()
        self.second_step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.base_optimizer.param_groups = self.param_groups


class ScheduleFree(Optimizer):
    """Schedule-free SGD (Defazio et al. 2024), with the interface of the official package."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "betas": (momentum, 0.99), "train_mode": False, "k": 0})

    @torch.no_grad()
    def _switch(self, is_training: bool) -> None:
        for group in self.param_groups:
            beta = group["betas"][0]
            weight = 1 - beta if is_training else 1 - 1 / beta
            if group["train_mode"] != is_training:
                for p in group["params"]:
                    if "z" in self.state[p]:
                        p.lerp_(self.state[p]["z"], weight)
            group["train_mode"] = is_training

    def train(self) -> None:
        self._switch(True)

    def eval(self) -> None:
        self._switch(False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if not self.param_groups[0]["train_mode"]:
            raise RuntimeError("Optimizer was not in train mode when step is called")
        for group in self.param_groups:
            beta = group["betas"][0]
            group["k"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, 1 / group["k"])
                p.add_(p.grad, alpha=group["lr"] * (beta * (1 - 1 / group["k"]) - 1))
                z.sub_(p.grad, alpha=group["lr"])


sam = partial(SAM, base_optimizer=AdamW, lr=1e-3)
sam_of_adamw = partial(ScaledUpdates, optimizer=partial(SAM, base_optimizer=AdamW, lr=1e-2))


# --- closures


class Counting(nn.Module):
    """Cross-entropy that counts its batches, by assignment as a running mean may do it."""

    batches: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.batches = self.batches + 1
        return cross_entropy(outputs, targets)


def test_a_loss_counts_a_batch_once_that_sam_looks_at_twice():
    loss = Counting()
    tiny_learner(2, optimizer=sam, loss=loss).fit(1)
    assert loss.batches == 8


def test_sam_takes_the_gradients_at_the_weights_that_it_asks_for():
    learner = tiny_learner(2, optimizer=partial(SAM, base_optimizer=SGD, lr=0.1), dropout=0.0)
    model = nn.Sequential(nn.Sequential(*learner.model[0]), learner.model[1])
    expected = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    batch = next(iter(learner.data.train.epoch(0, 0)))

    def gradients(weights: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        statistics = {name: b.clone() for name, b in model.named_buffers()}
        outputs = torch.func.functional_call(model.train(), {**weights, **statistics}, batch.inputs)
        return list(torch.autograd.grad(cross_entropy(outputs, batch.targets), [*weights.values()]))

    first = gradients(expected)
    norm = torch.stack([gradient.norm() for gradient in first]).norm()
    moved = {
        name: (p + 0.05 * g / norm).detach().requires_grad_()
        for (name, p), g in zip(expected.items(), first, strict=True)
    }
    second = gradients(moved)
    learner.fit(1, 0.1, callbacks=[StopAt(1)])
    for (name, p), gradient in zip(expected.items(), second, strict=True):
        assert torch.allclose(learner.model.get_parameter(name), p - 0.1 * gradient, atol=1e-6)


def test_sam_counts_each_batch_once_in_running_statistics():
    learner = tiny_learner(2, optimizer=sam, norm="train")
    learner.fit(1, 1e-3)
    assert learner.model[0][1].num_batches_tracked == 8


@pytest.mark.parametrize("factory", [sam, sam_of_adamw])
def test_sam_resumes_bit_for_bit(tmp_path: Path, factory: Any):
    whole, half, rest = (tiny_learner(2, optimizer=factory, clip_norm=1.0) for _ in range(3))
    whole.fit_one_cycle(2, 1e-2)
    half.fit_one_cycle(2, 1e-2, callbacks=[StopAt(5)])
    half.save(tmp_path / "half.ckpt")
    rest.load(tmp_path / "half.ckpt")
    rest.resume()
    assert same_state(whole.model.state_dict(), rest.model.state_dict())


def test_sam_beside_another_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"must be the only one.*got AdamW, SAM"):
        tiny_learner(2, optimizer=[AdamW, sam])


def test_sam_in_half_precision_with_scaled_gradients_is_refused():
    with pytest.raises(ValueError, match=r"needs a closure.*precision='bf16'"):
        tiny_learner(2, optimizer=sam, device=None, runtime=Runtime("cpu", "fp16"))


# --- weights of training and of evaluation


def schedule_free(name: str) -> Any:
    if name == "ours":
        return ScheduleFree
    return pytest.importorskip("schedulefree").AdamWScheduleFree


NAMES = ["ours", "official"]


def x_of(learner: Learner) -> list[torch.Tensor]:
    """The weights of evaluation by their definition, of what is in the model."""
    weights = []
    for optimizer in learner.optimizer.torch_optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                x = p.detach().clone()
                if group["train_mode"]:
                    x.lerp_(optimizer.state[p]["z"], 1 - 1 / group["betas"][0])
                weights.append(x)
    return weights


@pytest.mark.parametrize("name", NAMES)
def test_the_model_has_the_weights_of_evaluation_after_a_fit(name: str):
    learner = tiny_learner(2, optimizer=schedule_free(name), dropout=0.0)
    learner.fit(2, 0.05)
    for optimizer in learner.optimizer.torch_optimizers:
        assert not any(group["train_mode"] for group in optimizer.param_groups)
    assert learner.validate()["loss"] == pytest.approx(learner.history.epochs[-1].valid["loss"])


@pytest.mark.parametrize("name", NAMES)
def test_validation_changes_nothing_of_the_training(name: str):
    data = tiny_data()
    learners = []
    for valid in (data.valid, None):
        data.valid = valid
        learner = tiny_learner(2, data=data, optimizer=schedule_free(name))
        learner.fit(3, 0.05)
        learners.append(learner)
    assert same_state(learners[0].model.state_dict(), learners[1].model.state_dict())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["after a fit", "inside a fit"])
def test_a_schedule_free_run_resumes_bit_for_bit(tmp_path: Path, name: str, where: str):
    factory = schedule_free(name)
    whole, half, again = (tiny_learner(2, optimizer=factory) for _ in range(3))
    whole.fit(2, 0.05)
    path = tmp_path / "half.ckpt"
    if where == "inside a fit":

        class SaveAt(StopAt):
            def on_step_end(self, event: Any) -> Any:
                self.left -= 1
                if self.left == 0:
                    half.save(path)

        half.fit(2, 0.05, callbacks=[SaveAt(5)])
    else:
        half.fit(2, 0.05, callbacks=[StopAt(5)])
        half.save(path)
    again.load(path)
    for optimizer in again.optimizer.torch_optimizers:
        assert not any(group["train_mode"] for group in optimizer.param_groups)
    again.resume()
    assert same_state(whole.model.state_dict(), again.model.state_dict())


def test_weights_that_were_changed_between_two_fits_are_the_ones_that_train():
    learner = tiny_learner(2, optimizer=ScheduleFree)
    learner.fit(1, 0.05)
    with torch.no_grad():
        learner.model[1].weight.fill_(7.0)
    learner.fit(1, 1e-9)
    assert learner.model[1].weight.min() > 2  # a mean of 7 and what was trained, far from it alone


def test_the_rate_finder_takes_a_schedule_free_optimizer():
    learner = tiny_learner(2, optimizer=ScheduleFree)
    assert learner.lr_find(steps=20).lrs


def test_a_cycle_leaves_the_beta_of_a_schedule_free_optimizer_alone():
    learner = tiny_learner(2, optimizer=ScheduleFree)
    learner.fit_one_cycle(1, 0.05)
    assert {group["betas"][0] for group in learner.optimizer.param_groups} == {0.9}


class ValidateAndSave(Callback):
    """Validates and saves at the end of each epoch."""

    def __init__(self, learner: Learner, path: Path) -> None:
        self.learner, self.path = learner, path
        self.losses: list[float] = []

    def on_epoch_end(self, event: EpochEnd) -> None:
        self.losses.append(self.learner.validate()["loss"])
        self.learner.save(self.path)


@pytest.mark.parametrize("name", NAMES)
def test_a_callback_has_what_was_validated_and_saves_it(tmp_path: Path, name: str):
    learner = tiny_learner(2, optimizer=schedule_free(name))
    callback = ValidateAndSave(learner, tmp_path / "saved.ckpt")
    learner.fit(2, 0.05, callbacks=[callback])
    assert callback.losses == [row.valid["loss"] for row in learner.history.epochs]
    loaded = tiny_learner(2, optimizer=schedule_free(name))
    loaded.load(callback.path)
    assert loaded.validate()["loss"] == callback.losses[-1]


@pytest.mark.parametrize("name", NAMES)
def test_the_best_epoch_comes_back_as_it_was_validated(tmp_path: Path, name: str):
    learner = tiny_learner(2, optimizer=schedule_free(name))
    learner.fit(3, 0.05, callbacks=[SaveBest(tmp_path / "best.ckpt", mode="max")])
    losses = [row.valid["loss"] for row in learner.history.epochs]
    assert losses.index(max(losses)) < 2
    loaded = tiny_learner(2, optimizer=schedule_free(name))
    loaded.load(tmp_path / "best.ckpt")
    assert loaded.validate()["loss"] == max(losses)
    loaded.resume()
    assert same_state(learner.model.state_dict(), loaded.model.state_dict())


def test_weights_are_not_averaged_twice():
    with pytest.raises(ValueError, match=r"ema=0\.9 averages weights.*leave ema out"):
        tiny_learner(2, optimizer=ScheduleFree, ema=0.9)
