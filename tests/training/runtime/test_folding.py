"""Folded norms: the same outputs and gradients, for the layers that may be folded, and no trace."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from support import copy_of, same_state
from timm.layers import DropPath
from torch import Tensor, nn

from finetune import ImageDataLoaders, Learner, Runtime, vision_learner
from finetune.training.runtime import folding
from finetune.training.runtime.folding import FoldedNorms

CPU = torch.device("cpu")


def estimated(model: nn.Module) -> nn.Module:
    """With statistics and affine parameters that are no longer 0 and 1, in eval mode."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def small(**options: object) -> nn.Sequential:
    return estimated(nn.Sequential(nn.Conv2d(3, 4, 3, **options), nn.BatchNorm2d(4), nn.ReLU()))


def results(model: nn.Module, inputs: Tensor, folded: FoldedNorms) -> dict[str, Tensor]:
    model.zero_grad()
    with folded.active():
        outputs = model(inputs)
    outputs.square().mean().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"outputs": outputs.detach(), **gradients}


def images(side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("test_efficientnet", None),
        ("tf_efficientnet_lite0", 49),
        ("resnet18", 20),
        ("mobilenetv3_small_050", None),
        ("regnety_002", None),
        ("densenet121", None),
        ("convnext_atto", 0),
    ],
)
def test_outputs_and_gradients_are_those_of_the_separate_layers(name: str, pairs: int | None):
    torch.manual_seed(0)
    model = estimated(timm.create_model(name, num_classes=5))
    folded = FoldedNorms.find(model, images())
    assert len(folded.folds) == pairs if pairs is not None else folded.folds
    together, separate = (results(model, images(), f) for f in (folded, FoldedNorms([])))
    assert together.keys() == separate.keys()
    for key, value in separate.items():
        scale = float(value.abs().max()) + 1e-6
        torch.testing.assert_close(together[key], value, rtol=1e-3, atol=1e-3 * scale, msg=key)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_biases_and_norms_without_weights_are_folded_too(bias: bool, affine: bool):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4, affine=affine))
    folded = FoldedNorms.find(estimated(model), images())
    assert len(folded.folds) == 1
    together, separate = (results(model, images(), f) for f in (folded, FoldedNorms([])))
    for key, value in separate.items():
        torch.testing.assert_close(together[key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_a_norm_in_train_mode_is_left_alone():
    assert not FoldedNorms.find(small().train(), images()).folds


def test_a_norm_without_statistics_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert not FoldedNorms.find(model.eval(), images()).folds


def test_a_frozen_convolution_is_left_alone():
    assert not FoldedNorms.find(small().requires_grad_(False), images()).folds


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "densenet121"])
def test_all_are_folded_in_evaluation_and_give_the_same(name: str):
    torch.manual_seed(0)
    model = estimated(timm.create_model(name, num_classes=5)).requires_grad_(False)
    folded = FoldedNorms.find(model, images(), training=False)
    assert len(folded.folds) >= 49
    with torch.no_grad():
        separate = model(images())
        with folded.active():
            torch.testing.assert_close(model(images()), separate, rtol=1e-3, atol=1e-5)


def test_an_evaluation_is_the_same_with_it(photos):
    def learner(fold: bool) -> Learner:
        data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
        settings = {"weights": None, "progress": False, "runtime": Runtime(CPU, fold=fold)}
        learner = vision_learner(data, "test_efficientnet", **settings)
        estimated(learner.model.backbone)
        return learner

    with_it, without = learner(True), learner(False)
    state = copy_of(with_it.model.state_dict())
    scores = with_it.validate()
    assert scores == pytest.approx(without.validate(), rel=1e-4)
    assert same_state(state, with_it.model.state_dict())
    assert not any("forward" in vars(module) for module in with_it.model.modules())


class Branching(nn.Module):
    """The convolution's output goes another way, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x)))


class Hidden(nn.Module):
    """The other way is so weak that it does not show in the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.gain = nn.Parameter(torch.tensor(1e-5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + self.gain * (self.norm(y) + y)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.clamp_(-1e9, 1e9)  # does nothing now
        return self.norm(y)


class Dropped(nn.Sequential):
    """In eval mode the dropout hands on what it got."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.3), nn.BatchNorm2d(4))


class SometimesDropped(nn.Sequential):
    """The same, seen by no torch function."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), DropPath(0.3), nn.BatchNorm2d(4))


class Again(nn.Module):
    """Computes its convolution again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.first = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.utils.checkpoint.checkpoint(self.conv, self.first(x), use_reentrant=False)
        return self.norm(y)


@pytest.mark.parametrize(
    "kind", [Branching, Twice, Hidden, InPlace, Dropped, SometimesDropped, Again]
)
def test_a_convolution_that_serves_others_is_left_alone(kind: type[nn.Module]):
    assert not FoldedNorms.find(estimated(kind()), images()).folds


@pytest.mark.parametrize("kind", [Branching, Twice, Hidden, InPlace, Dropped, SometimesDropped])
def test_every_other_use_of_a_convolutions_output_is_seen(kind: type[nn.Module]):
    model = estimated(kind())
    norms = {module for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    assert folding._find_folds(model, images(), norms) == []


def test_a_network_that_saves_memory_by_itself_is_left_alone():
    torch.manual_seed(0)
    model = torchvision.models.densenet121(memory_efficient=True, num_classes=3)
    assert not FoldedNorms.find(estimated(model), images()).folds


def test_finding_draws_no_random_number():
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0 * torch.rand_like(x)

    model, inputs = nn.Sequential(small(), Noisy()), images()
    random = torch.get_rng_state()
    assert FoldedNorms.find(model, inputs).folds
    assert torch.equal(random, torch.get_rng_state())


def test_finding_does_not_tell_the_layers_to_change_mode():
    class Merging(nn.Conv2d):
        def train(self, mode: bool = True) -> "Merging":
            raise AssertionError("weights would be merged")

    FoldedNorms.find(nn.Sequential(small(), Merging(4, 4, 1)), images())


def test_a_norm_that_is_in_train_mode_by_now_is_itself():
    model = small()
    folded = FoldedNorms.find(model, images())
    model.train()
    twin = copy.deepcopy(model)
    with folded.active():
        output = model(images())
    assert torch.equal(output, twin(images()))


@pytest.mark.parametrize(
    "listen",
    [
        lambda model: model[0].register_forward_hook(lambda *_: None),
        lambda model: model[1].register_forward_pre_hook(lambda *_: None),
        lambda model: model[1].register_full_backward_hook(lambda *_: None),
    ],
)
def test_a_layer_that_somebody_listens_to_is_left_alone(listen: Callable):
    model = small()
    listen(model)
    assert not FoldedNorms.find(model, images()).folds


def test_a_model_that_computes_again_in_the_backward_pass_is_left_alone():
    model = estimated(timm.create_model("resnet18", num_classes=5))
    model.set_grad_checkpointing(True)
    assert not FoldedNorms.find(model, images()).folds


def test_finding_leaves_no_trace():
    model = nn.Sequential(small(), nn.BatchNorm2d(4).train(), nn.Dropout(0.5).train())
    modes = [module.training for module in model.modules()]
    state, random = copy_of(model.state_dict()), torch.get_rng_state()
    assert FoldedNorms.find(model, images()).folds
    assert modes == [module.training for module in model.modules()]
    assert same_state(state, model.state_dict())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_layers_are_themselves_again_afterwards_even_after_an_error():
    model = small()
    folded = FoldedNorms.find(model, images())
    weight, before = model[0].weight, model(images())
    with pytest.raises(RuntimeError, match="expected"), folded.active():
        model(torch.ones(1, 5, 8, 8))
    assert model[0].weight is weight
    assert torch.equal(model(images()), before)


def test_weights_keep_their_names_while_they_are_folded():
    model = small()
    names = set(model.state_dict())
    with FoldedNorms.find(model, images()).active():
        assert set(model.state_dict()) == names


def test_a_folded_norm_keeps_no_input_for_the_backward_pass():
    model = small()

    def saved_numbers(folded: FoldedNorms) -> int:
        sizes: list[int] = []
        packed = torch.autograd.graph.saved_tensors_hooks(
            lambda t: (sizes.append(t.numel()), t)[1], lambda t: t
        )
        with packed, folded.active():
            model(images())
        return sum(sizes)

    outputs = model(images()).numel()
    folded = FoldedNorms.find(model, images())
    gain = saved_numbers(FoldedNorms([])) - saved_numbers(folded)
    assert gain > 0.9 * outputs  # the weights' scales are saved instead, which are small


def test_training_with_it_is_training_without_it(photos):
    def trained(fold: bool) -> list[float]:
        data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
        learner = vision_learner(
            data, "test_efficientnet", weights=None, norm="eval", head="mlp", progress=False,
            runtime=Runtime(CPU, fold=fold),
        )  # fmt: skip
        estimated(learner.model.backbone)
        learner.fine_tune(1, base_lr=1e-3)
        return [row.loss for row in learner.history.steps]

    assert trained(True) == pytest.approx(trained(False), rel=1e-4)


def test_only_where_the_runtime_says_so(monkeypatch):
    from support import tiny_learner

    asked = []

    def find(cls: type, model: nn.Module, inputs: Tensor, *, training: bool) -> FoldedNorms:
        asked.append((len(inputs), training))
        return FoldedNorms([])

    monkeypatch.setattr(FoldedNorms, "find", classmethod(find))
    tiny_learner(device=None, runtime=Runtime(CPU)).fit(1)
    assert not asked
    tiny_learner(device=None, runtime=Runtime(CPU, fold=True)).fit(1)
    assert asked == [(2, True), (2, False)]
