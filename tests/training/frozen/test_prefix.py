"""The frozen beginning of a model: where it ends, what is refused, and that no trace is left."""

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import copy_of, same_state, setup_of
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from finetune import Callback, ImageDataLoaders, Learner, Runtime, Stop
from finetune.training.events import Precompute, StepEnd
from finetune.training.frozen.feature_cache import FeatureCache
from finetune.training.frozen.prefix import Suffix
from finetune.training.frozen.prefixes import FrozenPrefixes, find_suffix
from finetune.training.phase import Phase
from finetune.training.plan import one_cycle_plan
from finetune.training.runtime.folding import FoldedNorms
from finetune.vision import vision_learner


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False).eval()


def layer() -> nn.Linear:
    return nn.Linear(2, 2)


def points(count: int = 2) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(3))


def find(model: nn.Module) -> Suffix | None:
    return find_suffix(model, points(), nullcontext)


def skipped_modules(model: nn.Module) -> list[nn.Module] | None:
    suffix = find(model)
    return None if suffix is None else list(suffix.skipped)


class Own(nn.Module):
    """A frozen layer, a trained one, and code between them; `run(self, x)` is its forward."""

    def __init__(self, run: Callable[["Own", Tensor], Any], body: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.run = frozen(body or layer()), layer(), run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def results(call: Callable[[Tensor], Any], inputs: Tensor, model: nn.Module) -> list[Tensor]:
    """Outputs and gradients."""
    model.zero_grad()
    outputs = call(inputs)
    outputs.square().sum().backward()
    return [outputs.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_same_results(suffix: Suffix, inputs: Tensor) -> None:
    with suffix.active():
        with torch.no_grad():
            features = suffix.prefix(inputs)
        from_features = results(suffix, features, suffix.model)
    expected = results(suffix.model, inputs, suffix.model)
    assert len(from_features) == len(expected)
    for a, b in zip(from_features, expected, strict=True):
        torch.testing.assert_close(a, b)


# --- where it ends


def test_it_ends_in_a_nested_sequential_before_what_trains():
    inner = nn.Sequential(frozen(layer()), layer(), frozen(layer()))
    model = nn.Sequential(frozen(layer()), nn.Sequential(inner, layer()), layer())
    assert skipped_modules(model) == [model[0], inner[0]]


def test_it_ends_in_modules_that_call_their_parts_by_themselves():
    first = Own(lambda self, x: self.head(self.body(x)))
    model = nn.Sequential(frozen(layer()), first, layer())
    assert skipped_modules(model) == [model[0], first.body]


def test_it_ends_in_a_list_of_modules():
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([frozen(layer()), frozen(layer()), layer()])

        def forward(self, x: Tensor) -> Tensor:
            for part in self.layers:
                x = part(x)
            return x

    model = Listed()
    assert skipped_modules(model) == [*model.layers[:2]]


@pytest.mark.parametrize("part", [nn.Dropout(), nn.ReLU()])
def test_it_ends_before_a_layer_in_train_mode(part: nn.Module):
    model = nn.Sequential(frozen(layer()), part.train(), frozen(layer()), layer())
    assert skipped_modules(model) == [model[0]]


def test_it_ends_before_a_norm_that_looks_at_the_whole_batch():
    norm = nn.BatchNorm1d(2, track_running_stats=False)
    model = nn.Sequential(*(frozen(m) for m in (layer(), norm, layer()))).append(layer())
    assert skipped_modules(model) == [model[0]]


def test_it_ends_before_a_norm_with_parts_whose_statistics_move():
    class Norm(nn.BatchNorm1d):
        """As timm's, but of no weights."""

        def __init__(self) -> None:
            super().__init__(2, affine=False)
            self.act = frozen(nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.act(super().forward(x))

    model = nn.Sequential(frozen(layer()), Norm(), frozen(layer()), layer())
    model[1].training = True
    assert skipped_modules(model) == [model[0]]


def test_layers_without_weights_belong_to_it():
    model = nn.Sequential(nn.Flatten().eval(), frozen(layer()), nn.ReLU().eval(), layer())
    assert skipped_modules(model) == [model[0], model[1], model[2]]


def test_what_is_wholly_frozen_is_passed_by_as_one():
    inner = frozen(nn.Sequential(layer(), nn.Sequential(layer(), layer())))
    assert skipped_modules(nn.Sequential(inner, layer())) == [inner]


@pytest.mark.parametrize(
    "model",
    [
        layer(),
        nn.Sequential(layer(), frozen(layer())),
        frozen(nn.Sequential(layer(), layer())),
        nn.Sequential(nn.Flatten().eval(), layer()),
        nn.Sequential(),
    ],
    ids=["one layer", "frozen last", "all frozen", "no weights", "empty"],
)
def test_a_model_without_one_is_left_alone(model: nn.Module):
    assert find(model) is None


@pytest.mark.parametrize(("trained", "worth_it"), [(18, True), (19, False)])
def test_few_layers_are_not_worth_it(trained: int, worth_it: bool):
    first = [frozen(layer()), frozen(layer())]
    model = nn.Sequential(*first, *(layer() for _ in range(trained)))
    assert skipped_modules(model) == (first if worth_it else None)


# --- where somebody listens


REGISTER = [
    "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
    "register_full_backward_pre_hook",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("register", REGISTER)
def test_it_ends_before_a_module_that_trains_and_has_a_hook(register: str):
    inner = nn.Sequential(frozen(layer()), layer())
    getattr(inner, register)(lambda *_: None)
    model = nn.Sequential(frozen(layer()), inner, layer())
    assert skipped_modules(model) == [model[0]]


def test_it_ends_before_a_module_that_trains_and_has_another_forward():
    inner = nn.Sequential(frozen(layer()), layer())
    inner.forward = lambda x: 2 * nn.Sequential.forward(inner, x)
    model = nn.Sequential(frozen(layer()), inner, layer())
    assert skipped_modules(model) == [model[0]]


def test_it_ends_before_a_module_that_trains_and_is_compiled():
    inner = nn.Sequential(frozen(layer()), layer())
    inner.compile(backend="eager")
    model = nn.Sequential(frozen(layer()), inner, layer())
    assert skipped_modules(model) == [model[0]]


def test_a_hook_on_the_whole_model_is_not_even_called():
    model, calls = nn.Sequential(frozen(layer()), layer()), []
    model.register_forward_hook(lambda *_: calls.append(1))
    assert find(model) is None
    assert not calls


def test_hooks_of_frozen_layers_see_images_only_and_may_change_what_is_kept():
    model, seen = nn.Sequential(frozen(layer()), frozen(layer()), layer()), []
    for part in model[:2]:
        part.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        part.register_forward_hook(lambda _, __, output: 2 * output)
    suffix = find(model)
    assert list(suffix.skipped) == [model[0], model[1]]
    assert_same_results(suffix, points(5))
    seen.clear()
    with suffix.active():
        features = suffix.prefix(points(5))
        assert len(seen) == 2
        suffix(features)
    assert len(seen) == 2
    assert not any(x.isnan().any() for x in seen)


# --- the results are the same


def norms() -> nn.Sequential:
    return nn.Sequential(layer(), nn.BatchNorm1d(2), nn.ReLU(inplace=True), layer())


def twice(self: Own, x: Tensor) -> Tensor:
    return self.head(self.body(x + self.body(x)))


def careful(self: Own, x: Tensor) -> Tensor:
    try:
        return self.head(self.body(x))
    except Exception:
        return self.head(x)


SOUND = {
    "a handler of errors": (careful, None),
    "a frozen scale": (lambda self, x: self.head(self.body(x) * 3), None),
    "a change before it": (lambda self, x: self.head(self.body(x * 2 + 1)), None),
    "in place after it": (lambda self, x: self.head(self.body(x).mul_(2)), None),
    "in place inside": (lambda self, x: self.head(self.body(x)), norms()),
    "a skip inside": (lambda self, x: self.head(self.body(x)), Own(lambda s, x: s.body(x) + x)),
    "only the shape": (lambda self, x: self.head(self.body(x)) * x.shape[1], None),
    "given by name": (lambda self, x: self.head(input=self.body(input=x)), None),
}


@pytest.mark.parametrize(("run", "body"), SOUND.values(), ids=SOUND)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_outputs_and_gradients_are_those_of_the_whole(run, body, count: int):
    suffix = find(Own(run, body))
    assert suffix is not None
    assert_same_results(suffix, points(count))


def test_features_are_not_changed_by_what_follows():
    suffix = find(Own(lambda self, x: self.head(self.body(x).mul_(2))))
    with suffix.active(), torch.no_grad():
        features = suffix.prefix(points())
        before = features.clone()
        suffix(features)
    assert torch.equal(features, before)


def test_a_layer_that_comes_twice_runs_twice():
    relu = nn.ReLU().eval()
    model = nn.Sequential(frozen(layer()), relu, frozen(layer()), relu, layer())
    suffix = find(model)
    assert list(suffix.skipped) == [model[0], model[2]]
    assert_same_results(suffix, points(5))


def test_a_layer_that_gives_no_single_tensor_runs_again():
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x), x

    model = Own(lambda self, x: self.head(self.first(x)[0] * 0 + self.body(x)))
    model.first = frozen(Pair(2, 2))
    assert find(model) is None  # it goes round
    model.run = lambda self, x: self.head(self.body(sum(self.first(x))))
    suffix = find(model)
    assert list(suffix.skipped) == [model.body]
    assert_same_results(suffix, points(5))


def test_rows_that_are_no_images_follow_their_number():
    """As windows do in a Swin transformer."""

    def run(self: Own, x: Tensor) -> Tensor:
        rows = self.first(x.repeat_interleave(3, 0))
        return self.head(self.body(rows.view(-1, 3, 2).sum(1)))

    model = Own(run)
    model.first = frozen(layer())
    suffix = find(model)
    assert list(suffix.skipped) == [model.first, model.body]
    assert_same_results(suffix, points(5))


def test_it_ends_where_every_image_has_one_row():
    model = Own(lambda self, x: self.head(self.body(self.first(x).repeat_interleave(3, 0))))
    model.first = frozen(layer())
    suffix = find(model)
    assert list(suffix.skipped) == [model.first]
    assert_same_results(suffix, points(5))


class Indices(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argsort()


@pytest.mark.parametrize(
    ("part", "run"),
    [
        (layer(), lambda self, x: self.head(self.first(torch.ones(1, 2)) + self.body(x))),
        (Indices(), lambda self, x: self.head(self.body(x * self.first(x).shape[1]))),
    ],
    ids=["one row", "no floats"],
)
def test_what_is_not_like_images_runs_again(part: nn.Module, run: Callable[[Own, Tensor], Any]):
    model = Own(run)
    model.first = frozen(part)
    suffix = find(model)
    assert list(suffix.skipped) == [model.body]
    assert_same_results(suffix, points(5))


# --- what is refused


def test_a_weight_of_the_whole_that_trains_is_refused():
    model = Own(lambda self, x: self.head(self.body(x + self.token)))
    model.token = nn.Parameter(torch.zeros(2))
    assert Suffix.find(model, points()) is None
    model.token.requires_grad_(False)
    assert find(model) is not None


def test_images_that_are_no_floats_are_refused():
    model = nn.Sequential(frozen(nn.Embedding(5, 2)), nn.Flatten(), layer())
    assert find_suffix(model, torch.tensor([[1], [2]]), nullcontext) is None


def test_a_model_that_takes_another_way_later_says_so():
    model = Own(lambda self, x: self.head(x if self.away else self.body(x)))
    model.away = False
    suffix = find(model)
    model.away = True
    with suffix.active(), pytest.raises(RuntimeError, match=r"Own takes another way .*cache_feat"):
        suffix.prefix(points())


# --- no trace


def attributes_of(model: nn.Module) -> list[Any]:
    parts = [(vars(part), part._buffers) for part in model.modules()]
    return [(list(own), {name: id(b) for name, b in bs.items()}) for own, bs in parts]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_active_leaves_no_trace(error: type[BaseException]):
    model = nn.Sequential(frozen(layer()), frozen(layer()), layer())
    suffix, before = find(model), attributes_of(model)
    with pytest.raises(error, match=r"^mine$"), suffix.active():
        raise error("mine") if attributes_of(model) != before else AssertionError
    assert attributes_of(model) == before


def test_a_frozen_layer_that_is_compiled_is_so_again():
    model = nn.Sequential(frozen(layer()), layer())
    model[0].compile(backend="eager")
    compiled_call = model[0]._compiled_call_impl
    suffix = find(model)
    assert_same_results(suffix, points(5))
    assert model[0]._compiled_call_impl is compiled_call


def test_the_model_itself_does_what_it_does_while_active():
    model = nn.Sequential(frozen(layer()), frozen(layer()), layer())
    suffix, expected = find(model), model(points(5))
    with suffix.active():
        features = suffix.prefix(points(3))
        assert torch.equal(model(points(5)), expected)
        suffix(features).sum().backward()
        assert torch.equal(model(points(5)), expected)
        clone = copy.deepcopy(model)
        with pytest.raises(ZeroDivisionError, match="division"):
            suffix(1 / 0)
        assert torch.equal(model(points(5)), expected)
    assert torch.equal(clone(points(5)), expected)
    assert not any("_compiled_call_impl" in vars(part) for part in clone.modules())


# --- activations that are computed again


class Again(nn.Module):
    """Everything in one checkpointed segment, the boundary in its middle."""

    def __init__(self, reentrant: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(frozen(layer()), frozen(layer()), layer(), nn.Tanh(), layer())
        self.reentrant, self.calls = reentrant, []

    def segment(self, x: Tensor) -> Tensor:
        self.calls.append(float(x.detach().sum()))
        return self.layers(x)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.segment, x, use_reentrant=self.reentrant).square()


def test_activations_that_are_computed_again_start_from_the_features():
    suffix = find(Again())
    suffix.model.calls.clear()
    assert_same_results(suffix, points(5))
    calls = suffix.model.calls
    assert len(calls) == 5  # prefix, suffix and whole, the last two again in their backward pass
    assert [math.isnan(x) for x in calls] == [False, True, True, False, False]


def test_in_the_backward_pass_of_the_whole_model_its_own_activations_are_computed_again():
    model = Again()
    suffix, expected = find(model), results(model, points(5), model)
    with suffix.active():
        suffix(suffix.prefix(points(3))).sum().backward()
        whole = results(model, points(5), model)
    assert all(torch.equal(a, b) for a, b in zip(whole, expected, strict=True))


def test_checkpoints_that_have_no_gradient_of_their_own_are_refused():
    assert find(Again(reentrant=True)) is None


# --- with the rest of the house


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
PROBE = 2 + 3 * 3
EPOCHS = 2


@pytest.fixture(scope="module")
def images(photos: Path) -> ImageDataLoaders:
    """Large enough that norms in train mode do not make much of a rounding error."""
    return ImageDataLoaders.from_folder(photos, image_size=64, batch_size=8)


def half_frozen(images: ImageDataLoaders, backbone: str, **options: Any) -> Learner:
    runtime = Runtime("cpu")
    options = {"head": "linear", "optimizer": SGD, "runtime": runtime, **options}
    learner = vision_learner(images, backbone, weights=None, progress=False, **options)
    learner.freeze_to(1)
    return learner


class Watch(Callback):
    def __init__(self) -> None:
        self.filled = 0

    def on_precompute(self, event: Precompute) -> None:
        self.filled += 1


def first_layer(learner: Learner) -> nn.Module:
    modules = learner.model.modules()
    return next(m for m in modules if isinstance(m, nn.Conv2d))


def train(learner: Learner, **options: Any) -> int:
    """Returns how many images went through the first layer."""
    sizes: list[int] = []
    hook = first_layer(learner).register_forward_hook(lambda *args: sizes.append(len(args[2])))
    watch = Watch()
    plan = one_cycle_plan(learner.layer_groups, EPOCHS, 0.05)
    learner.fit_plan(plan, callbacks=[watch], **options)
    hook.remove()
    assert bool(watch.filled) == options.get("cache_features", True)
    return sum(sizes)


FAMILIES = [
    "test_efficientnet", "test_resnet", "test_vit", "test_vit_relpos", "test_convnext",
    "test_byobnet", "test_nfnet", "test_mambaout", "mobilenetv3_small_050",
]  # fmt: skip


@pytest.mark.parametrize("backbone", FAMILIES)
def test_half_a_backbone_gives_the_results_of_a_run_without_it(images, backbone: str):
    cached, uncached = half_frozen(images, backbone), half_frozen(images, backbone)
    before = copy_of(cached.model.state_dict())
    count, valid = len(images.train_examples), len(images.valid_examples)
    assert train(cached) == EPOCHS * count + valid + PROBE
    in_batches = sum(map(len, images.train.order(0, 0)))  # the last one would be short
    assert train(uncached, cache_features=False) == EPOCHS * (in_batches + valid)
    assert_close(cached, uncached)
    after = dict(cached.model.named_parameters())
    for i, group in enumerate(cached.layer_groups):
        moved = [not torch.equal(before[name], after[name]) for name in group.parameters]
        assert any(moved) == (i > 0), group.name


def assert_close(one: Learner, other: Learner, atol: float = 1e-5) -> None:
    for (name, a), b in zip(
        one.model.state_dict().items(), other.model.state_dict().values(), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-4, atol=atol), name
    rows, others = one.history.epochs, other.history.epochs
    assert [r.train_loss for r in rows] == pytest.approx([r.train_loss for r in others], abs=atol)
    assert [r.valid for r in rows] == [pytest.approx(r.valid, abs=atol) for r in others]


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_vit"])
def test_with_checkpointed_activations_the_results_are_the_same(images, backbone: str):
    new = partial(half_frozen, images, backbone, norm="eval")  # in train mode they move twice
    cached, uncached = (new(checkpoint_activations=True) for _ in range(2))
    plain = new()
    train(cached)
    train(uncached, cache_features=False)
    train(plain, cache_features=False)
    assert_close(cached, uncached)
    assert_close(cached, plain)


@pytest.mark.parametrize(
    "runtime",
    [
        Runtime("cpu", channels_last=True),
        Runtime("cpu", fold=True),
        Runtime("cpu", "bf16"),
        Runtime("cpu", "bf16", True, True, True),
    ],
    ids=str,
)
def test_it_goes_with_any_way_of_running(images, runtime: Runtime):
    new = partial(half_frozen, images, "test_efficientnet", runtime=runtime, norm="eval")
    cached, uncached = new(), new()
    train(cached)
    train(uncached, cache_features=False)
    assert_close(cached, uncached, 1e-5 if runtime.precision == "fp32" else 5e-2)


def cache_of(learner: Learner) -> FeatureCache:
    """As a phase of one epoch makes one."""
    learner.layer_groups.set_training_modes()
    setup, phase = setup_of(learner), Phase("p", 1, 1, {"lr": (1e-3,) * 3})
    cache = FeatureCache.create(setup, phase, 0, FrozenPrefixes(setup))
    assert cache is not None
    return cache


def test_features_come_in_the_layout_and_precision_of_the_boundary(images):
    runtime = Runtime("cpu", "bf16", channels_last=True)
    learner = half_frozen(images, "test_efficientnet", runtime=runtime, norm="eval")
    template = cache_of(learner).suffix.features
    values = torch.randn(4, *template.shape)
    with runtime.autocast():
        filled = template.filled(values)
    assert filled.dtype == torch.bfloat16
    assert filled.is_contiguous(memory_format=torch.channels_last)
    assert template.filled(values).dtype == torch.float32  # where nothing converts the weights


def test_norms_behind_the_boundary_are_folded(images):
    suffix = cache_of(half_frozen(images, "test_efficientnet", norm="eval")).suffix
    with suffix.active():
        features = torch.randn(2, *suffix.features.shape)
        folds = FoldedNorms.find(suffix, features).folds
    everywhere = FoldedNorms.find(suffix.model, torch.randn(2, 3, 64, 64)).folds
    assert folds
    assert folds == everywhere


def test_what_trains_runs_without_torch_compile(images):
    learner = half_frozen(images, "test_efficientnet", runtime=Runtime("cpu", compile=True))
    own, whole = cache_of(learner).setup.runtime, learner.runtime
    assert not own.compile
    assert own == replace(whole, compile=False)


class During(Callback):
    """What the model gives while features are in use."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action, self.results = action, []

    def on_step_end(self, event: StepEnd) -> None:
        self.results.append(self.action())

    on_epoch_end = on_step_end


def test_callbacks_may_use_the_model(images):
    learner = half_frozen(images, "test_efficientnet")
    during = During(lambda: learner.validate()["loss"])
    copies = During(lambda: copy.deepcopy(learner.model).eval()(torch.ones(2, 3, 64, 64)))
    learner.fit_one_cycle(1, callbacks=[during, copies])
    assert all(math.isfinite(loss) for loss in during.results)
    assert during.results[-1] == pytest.approx(learner.history.epochs[-1].valid["loss"], abs=1e-5)
    assert torch.equal(copies.results[-1], learner.model(torch.ones(2, 3, 64, 64)))


@pytest.fixture(scope="module")
def undisturbed(images: ImageDataLoaders) -> Learner:
    learner = half_frozen(images, "test_efficientnet")
    learner.fit_one_cycle(EPOCHS)
    return learner


class Ends(Callback):
    def __init__(self, kind: str, action: Callable[[], Any], count: int) -> None:
        setattr(self, f"on_{kind}", self._count)
        self.action, self.left = action, count

    def _count(self, event: object) -> Any:
        self.left -= 1
        return self.action() if self.left == 0 else None


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("kind", "count"), [("precompute", 1), ("precompute", 3), ("step_end", 3)])
@pytest.mark.parametrize("how", [interrupt, lambda: Stop("pause")])
def test_a_run_that_ends_early_goes_on_exactly_and_leaves_no_trace(
    images, undisturbed, how, kind: str, count: int
):
    learner = half_frozen(images, "test_efficientnet")
    raises = pytest.raises(KeyboardInterrupt, match=r"^$") if how is interrupt else nullcontext()
    with raises:
        learner.fit_one_cycle(EPOCHS, callbacks=[Ends(kind, how, count)])
    assert not any("_compiled_call_impl" in vars(part) for part in learner.model.modules())
    learner.resume()
    assert same_state(learner.model.state_dict(), undisturbed.model.state_dict())
    assert learner.history.steps == undisturbed.history.steps
