"""The feature cache: the same results as without it, the frozen layers once a view."""

import math
import os
import signal
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import copy_of, same_state, tiny_data, tiny_learner, tiny_model, tiny_pairs
from torch import Tensor, nn

from finetune import Batch, Callback, DataLoaders, ImageDataLoaders, Learner, Save, Stop
from finetune.data.loaders import TorchLoader
from finetune.randomness import generator, seed_everything, uniforms
from finetune.training.events import EpochEnd, EpochStart, PhaseStart, Precompute, StepEnd
from finetune.training.frozen import feature_cache
from finetune.training.frozen.feature_cache import FeatureCache
from finetune.training.phase import Phase, Plan
from finetune.training.plan import fine_tune_plan
from finetune.training.runtime.runtime import choose_runtime
from finetune.vision import vision_learner

TRAIN, VALID, BATCH, STEPS = 70, 9, 10, 7
CHUNK = 32  # images that run together on a CPU: 70 are three chunks
VIEWS = [None, 1, 2, 3]


class Points:
    """Points with numbers, which is all that the cache asks of images.

    Their first coordinate is positive in training and negative in validation.
    """

    def __init__(self, count: int, batch_size: int, *, shuffle: bool, seed: int) -> None:
        self.points, self.targets = tiny_pairs(count, seed=seed).tensors
        self.points[:, 0] = (self.points[:, 0].abs() + 1) * (1 if shuffle else -1)
        self.batch_size, self.shuffle = batch_size, shuffle

    def __len__(self) -> int:
        return math.ceil(len(self.points) / self.batch_size)

    def order(self, seed: int, epoch: int) -> list[Tensor]:
        order = torch.arange(len(self.points))
        if self.shuffle:
            order = torch.randperm(len(order), generator=generator(seed, "shuffle", epoch))
        return list(order.split(self.batch_size))

    def fetch(self, order: list[Tensor]) -> Iterator[Batch]:
        for numbers in order:
            yield Batch(self.points[numbers], self.targets[numbers], numbers)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        return self.fetch(self.order(seed, epoch)[start:])


class Moved(DataLoaders):
    """Points that every random view moves a little; `views` are those asked for."""

    def __init__(self, *, valid: bool = True) -> None:
        held_out = Points(VALID, 4, shuffle=False, seed=1) if valid else None
        super().__init__(
            Points(TRAIN, BATCH, shuffle=True, seed=0), held_out, classes=["no", "yes"]
        )
        self.views: list[int | None] = []

    def prepare(self, batch: Batch, view: int | None) -> Batch:
        self.views.append(view)
        if view is None:
            return batch
        moves = uniforms(self.seed, "move", view, batch.indices, "abcd").T - 0.5
        return replace(batch, inputs=batch.inputs + moves)


class Told(Callback):
    """Every event; `action` is called at the `count`th one of a kind."""

    def __init__(
        self, kind: type = object, action: Callable[[], Any] = lambda: None, count: int = 0
    ) -> None:
        self.kind, self.action, self.left = kind, action, count
        self.events: list[Any] = []

    def _hear(self, event: object) -> Any:
        self.events.append(event)
        self.left -= isinstance(event, self.kind)
        if isinstance(event, self.kind) and self.left == 0:
            return self.action()
        return None

    on_fit_start = on_phase_start = on_epoch_start = on_precompute = _hear
    on_step_end = on_epoch_end = on_fit_end = _hear

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def points_learner(model: nn.Module | None = None, **options: Any) -> Learner:
    """Three groups; the two that fine_tune freezes have a BatchNorm and a Dropout layer each."""
    if model is None:
        model = tiny_model(3)
        model.train()(3 * torch.randn(64, 4, generator=torch.Generator().manual_seed(5)))
    arguments: dict[str, Any] = {
        "loss": nn.functional.cross_entropy, "metrics": ["accuracy"], "split": [1, 2],
        "device": "cpu", "precision": "fp32", "progress": False, "data": Moved(), **options,
    }  # fmt: skip
    return Learner(arguments.pop("data"), model, **arguments)


def frozen_plan(learner: Learner, epochs: int, views: int | None = None) -> Plan:
    """The first phase of fine_tune alone."""
    plan = fine_tune_plan(
        learner.layer_groups, 1, base_lr=1e-2, freeze_epochs=epochs, freeze_views=views
    )
    return plan[:1]


def train_head(learner: Learner, epochs: int, views: int | None = None, **options: Any) -> Told:
    told = Told()
    learner.fit_plan(frozen_plan(learner, epochs, views), callbacks=[told], **options)
    return told


def images_learner(photos: ImageDataLoaders, **options: Any) -> Learner:
    # folding norms changes the last digits, which training with small batches soon makes larger
    runtime = replace(choose_runtime("cpu", "fp32"), fold=False)
    arguments: dict[str, Any] = {"head": "linear", "runtime": runtime, **options}
    return vision_learner(photos, "test_efficientnet", weights=None, progress=False, **arguments)


@pytest.fixture(scope="module")
def images(photos: Path) -> ImageDataLoaders:
    """Decoded once for all learners here; batches of 2 would make much of a rounding error."""
    return ImageDataLoaders.from_folder(photos, image_size=32, batch_size=6)


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 1e-5) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=1e-4, atol=atol), name


def assert_same_results(one: Learner, other: Learner, atol: float = 1e-5) -> None:
    """Losses, metrics and weights, but for rounding."""
    losses, others = ([row.loss for row in x.history.steps] for x in (one, other))
    assert losses == pytest.approx(others, abs=atol)
    for row, twin in zip(one.history.epochs, other.history.epochs, strict=True):
        assert row.train_loss == pytest.approx(twin.train_loss, abs=atol)
        assert row.valid == pytest.approx(twin.valid, abs=atol)
    assert_close(one.model.state_dict(), other.model.state_dict(), atol)


def was_used(told: Told) -> bool:
    return bool(told.of(Precompute))


# --- the same results


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_images_give_the_results_of_a_run_without_it(images, head, views, epochs):
    # Adam would make much of a rounding error in a gradient that is almost 0
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    cached, uncached = (images_learner(images, head=head, optimizer=sgd) for _ in range(2))
    assert was_used(train_head(cached, epochs, views))
    assert not was_used(train_head(uncached, epochs, views, cache_features=False))
    assert_same_results(cached, uncached)


def test_images_give_the_results_of_a_run_without_it_where_norms_are_folded(images):
    cached, uncached = (images_learner(images, runtime=choose_runtime("cpu")) for _ in "12")
    for layer in cached.model.backbone.modules():
        layer.momentum = 1.0  # statistics that have something to fold
    seed_everything(0, "statistics")
    cached.model.backbone.train()(torch.rand(8, 3, 32, 32))
    uncached.model.load_state_dict(cached.model.state_dict())
    for learner, cache_features in ((cached, True), (uncached, False)):
        for group in learner.layer_groups[:-1]:
            group.norm = "eval"
        train_head(learner, 2, 1, cache_features=cache_features)
    # an adaptive optimizer makes the last digits of small gradients larger
    assert_close(cached.model.state_dict(), uncached.model.state_dict(), atol=1e-3)


@pytest.mark.parametrize("views", VIEWS)
def test_points_in_several_chunks_give_the_results_of_a_run_without_it(views):
    cached, uncached = points_learner(), points_learner()
    assert was_used(train_head(cached, 5, views))
    train_head(uncached, 5, views, cache_features=False)
    assert_same_results(cached, uncached)


def test_in_half_precision_the_results_differ_by_its_rounding_alone():
    cached, uncached = points_learner(precision="bf16"), points_learner(precision="bf16")
    assert was_used(train_head(cached, 2))
    train_head(uncached, 2, cache_features=False)
    assert_same_results(cached, uncached, atol=2e-2)


def test_the_frozen_layers_run_in_the_precision_of_the_run():
    learner, dtypes = points_learner(precision="bf16"), []
    learner.model[0][0].register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
    assert was_used(train_head(learner, 1))
    assert set(dtypes) == {torch.bfloat16}


def test_without_validation_data_the_results_are_the_same():
    cached, uncached = (points_learner(data=Moved(valid=False)) for _ in range(2))
    assert was_used(train_head(cached, 2))
    train_head(uncached, 2, cache_features=False)
    assert cached.history.epochs[0].valid == {}
    assert_same_results(cached, uncached)


def test_the_unfrozen_phase_trains_the_whole_model_from_the_same_state():
    cached, uncached = points_learner(), points_learner()
    before = copy_of(cached.model.state_dict())
    options: dict = {"base_lr": 1e-2, "freeze_epochs": 2, "freeze_views": 1, "unfreeze": "all"}
    cached.fine_tune(2, **options)
    uncached.fine_tune(2, **options, cache_features=False)
    after = dict(cached.model.named_parameters())
    assert not any(torch.equal(before[name], after[name]) for name in after)
    assert_same_results(cached, uncached)


def test_the_earlier_half_of_the_body_gives_the_same_results_in_a_short_run():
    cached, uncached = points_learner(), points_learner()
    told, untold = Told(), Told()
    cached.fine_tune(2, base_lr=1e-2, callbacks=[told], freeze_epochs=1)
    uncached.fine_tune(2, base_lr=1e-2, callbacks=[untold], freeze_epochs=1, cache_features=False)
    assert {event.phase for event in told.of(Precompute)} == {"frozen", "1 and above"}
    assert not was_used(untold)
    assert_same_results(cached, uncached)


def test_a_later_phase_that_freezes_less_gives_the_same_results():
    cached, uncached = points_learner(), points_learner()
    for learner in (cached, uncached):
        (first,) = frozen_plan(learner, 2, 2)
        plan = (first, replace(first, name="second", frozen=1))
        learner.fit_plan(plan, cache_features=learner is cached)
    assert_same_results(cached, uncached)


@pytest.mark.parametrize(
    "options", [{"accumulate": 3}, {"clip_norm": 0.05}, {"accumulate": 2, "clip_norm": 0.05}]
)
def test_accumulation_and_clipping_work_on_it(options):
    plain, cached, uncached = points_learner(), points_learner(**options), points_learner(**options)
    train_head(plain, 2, 2)
    assert was_used(train_head(cached, 2, 2))
    train_head(uncached, 2, 2, cache_features=False)
    assert len(cached.history.steps) == 2 * math.ceil(STEPS / options.get("accumulate", 1))
    assert_same_results(cached, uncached)
    head, plain_head = cached.model[2].weight, plain.model[2].weight
    assert not torch.allclose(head, plain_head, atol=1e-4), "the options change nothing here"


def test_the_history_has_every_row():
    learner = points_learner()
    learner.fine_tune(1, freeze_epochs=3, freeze_views=2)
    phases = [("frozen", epoch) for epoch in range(3)] + [("1 and above", 0)]
    steps = [(row.phase, row.epoch, row.step) for row in learner.history.steps]
    assert steps == [(*phase, step) for phase in phases for step in range(STEPS)]
    assert [(row.phase, row.epoch) for row in learner.history.epochs] == phases
    assert all(row.valid.keys() == {"loss", "accuracy"} for row in learner.history.epochs)


def test_metrics_are_those_of_the_model_that_comes_out():
    learner = points_learner()
    train_head(learner, 2, 1)
    assert learner.validate() == pytest.approx(learner.history.epochs[-1].valid, abs=1e-6)


# --- images that are mixed


@pytest.mark.parametrize("mixing", [{"mixup": 0.4}, {"cutmix": 1.0}, {}], ids=repr)
def test_while_some_of_the_body_trains_images_are_mixed_and_not_kept(images, mixing):
    were_mixed = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            were_mixed.append(targets.is_floating_point())  # shares of classes, not numbers
        return nn.functional.cross_entropy(outputs, targets)

    learner, told = images_learner(images, loss=loss, **mixing), Told()
    learner.fine_tune(1, freeze_epochs=1, callbacks=[told])
    steps = len(images.train)
    assert were_mixed == [False] * steps + [bool(mixing)] * steps
    kept_in = {event.phase for event in told.of(Precompute)}
    assert kept_in == ({"frozen"} if mixing else {"frozen", "body_2 and above"})


def test_mixed_images_give_the_results_of_a_run_without_kept_features():
    cached, uncached = points_learner(mixup=0.4), points_learner(mixup=0.4)
    cached.fine_tune(2, base_lr=1e-2, freeze_epochs=0)
    uncached.fine_tune(2, base_lr=1e-2, freeze_epochs=0, cache_features=False)
    assert_same_results(cached, uncached)


# --- how often the frozen layers run


def count_points(module: nn.Module) -> SimpleNamespace:
    """How many points of training and of validation go into a module."""
    counted = SimpleNamespace(train=0, valid=0)

    def count(_: nn.Module, inputs: tuple[Tensor]) -> None:
        train = int((inputs[0][:, 0] > 0).sum())
        counted.train += train
        counted.valid += len(inputs[0]) - train

    module.register_forward_pre_hook(count)
    return counted


PROBE = 2 + 3 * 3  # points to find the boundary with, and to prove that it is one


@pytest.mark.parametrize(("views", "runs"), [(1, 1), (2, 2), (3, 3), (None, 4), (9, 4)])
def test_the_frozen_layers_run_once_a_view(views, runs):
    learner = points_learner()
    counted = count_points(learner.model[0][0])
    train_head(learner, 4, views)
    assert counted.train == runs * TRAIN + PROBE


@pytest.mark.parametrize("views", VIEWS)
def test_the_frozen_layers_run_once_on_validation_data(views):
    learner = points_learner()
    counted = count_points(learner.model[0][0])
    train_head(learner, 4, views)
    assert counted.valid == VALID


def test_without_it_the_frozen_layers_run_in_every_epoch():
    learner = points_learner()
    counted = count_points(learner.model[0][0])
    train_head(learner, 4, 1, cache_features=False)
    assert (counted.train, counted.valid) == (4 * TRAIN, 4 * VALID)


def test_the_backbone_of_a_vision_learner_runs_once_a_view(images):
    learner, sizes = images_learner(images), []
    learner.model.backbone.conv_stem.register_forward_hook(lambda *args: sizes.append(len(args[2])))
    train_head(learner, 5, 2)
    train, valid = len(images.train_examples), len(images.valid_examples)
    assert sum(sizes) == 2 * train + valid + PROBE


def test_fine_tune_passes_cache_features_on():
    learner, told = points_learner(), Told()
    learner.fine_tune(1, cache_features=False, callbacks=[told])
    assert not was_used(told)


def test_resume_passes_cache_features_on():
    learner, told = points_learner(), Told()
    stop = Told(StepEnd, lambda: Stop("pause"), 3)
    learner.fine_tune(1, callbacks=[stop])
    learner.resume(cache_features=False, callbacks=[told])
    assert was_used(stop)
    assert not was_used(told)


# --- views


@pytest.mark.parametrize(
    ("views", "expected"),
    [(None, [5, 6, 7, 8]), (1, [None]), (2, [5, 6]), (3, [5, 6, 7]), (4, [5, 6, 7, 8])],
)
def test_views_are_numbered_from_the_phases_first_epoch(views, expected):
    learner = points_learner()
    learner.fit(5)
    learner.data.views.clear()
    train_head(learner, 4, views)
    of_training = {None} if views == 1 else set(learner.data.views) - {None}
    assert of_training == set(expected)
    assert views == 1 or None in learner.data.views  # validation
    assert views != 1 or set(learner.data.views) == {None}


@pytest.mark.parametrize("cache_features", [True, False])
@pytest.mark.parametrize(("views", "equal"), [(None, ""), (1, "0123"), (2, "02 13"), (3, "03")])
def test_epochs_see_the_same_points_as_the_views_say(views, equal, cache_features):
    learner, epochs = points_learner(), []
    learner.model[2].register_forward_pre_hook(lambda module, args: seen.append((module, args[0])))
    seen: list[tuple[nn.Module, Tensor]] = []

    class Collect(Callback):
        def on_epoch_start(self, event: EpochStart) -> None:
            seen.clear()

        def on_epoch_end(self, event: EpochEnd) -> None:
            features = torch.cat([x for _, x in seen])
            assert len(features) == TRAIN + VALID
            epochs.append(torch.sort(features[:TRAIN].flatten()).values)

    learner.fit_plan(
        frozen_plan(learner, 4, views), callbacks=[Collect()], cache_features=cache_features
    )
    together = {frozenset(group) for group in equal.split()}
    for i in range(4):
        for j in range(i):
            same = any({str(i), str(j)} <= group for group in together)
            assert torch.allclose(epochs[i], epochs[j], atol=1e-6) == same, (i, j)


@pytest.mark.parametrize("views", [3, 4, 100])
def test_as_many_views_as_epochs_are_new_ones_in_every_epoch(views):
    learner, new_ones = points_learner(), points_learner()
    train_head(learner, 3, views)
    train_head(new_ones, 3, None)
    assert same_state(learner.model.state_dict(), new_ones.model.state_dict())
    assert learner.history.steps == new_ones.history.steps


def test_a_second_fit_sees_new_views():
    learner = points_learner()
    train_head(learner, 2)
    first = set(learner.data.views) - {None}
    learner.data.views.clear()
    train_head(learner, 2)
    assert not first & set(learner.data.views)


# --- the frozen layers


def test_frozen_weights_and_buffers_are_bit_identical():
    learner = points_learner()
    before = copy_of(learner.model[:2].state_dict())
    assert was_used(train_head(learner, 2))
    assert same_state(learner.model[:2].state_dict(), before)


def test_the_head_trains():
    learner = points_learner()
    before = copy_of(learner.model[2].state_dict())
    assert was_used(train_head(learner, 1))
    assert not any(torch.equal(before[n], p) for n, p in learner.model[2].named_parameters())


@pytest.mark.parametrize("views", [1, None])
def test_dropout_is_off_in_the_frozen_layers(views):
    learner, modes = points_learner(), []
    learner.model[0][3].register_forward_hook(lambda module, *_: modes.append(module.training))
    train_head(learner, 3, views)
    assert modes
    assert not any(modes)


def test_stochastic_depth_is_off_in_the_frozen_layers():
    class Shaky(nn.Module):
        """Its own flag decides, as in timm."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x) if self.training else self.inner(x)

    learner = points_learner(nn.Sequential(Shaky(), nn.Linear(4, 2)), split=None)
    inputs: list[Tensor] = []
    learner.model[1].register_forward_hook(lambda _, args, __: inputs.append(args[0]))
    assert was_used(train_head(learner, 1))
    assert all(bool(x.abs().sum() > 0) for x in inputs)


def test_dropout_of_the_head_draws_as_without_it():
    def new() -> Learner:
        torch.manual_seed(0)
        body, head = nn.Linear(4, 6), nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 2))
        return points_learner(nn.Sequential(body, head), split=None)

    cached, uncached = new(), new()
    assert was_used(train_head(cached, 2))
    train_head(uncached, 2, cache_features=False)
    assert_same_results(cached, uncached)


# --- where there is nothing to keep


def test_it_is_not_used_where_nothing_is_frozen():
    learner, told = points_learner(), Told()
    learner.fit(1, callbacks=[told])
    assert not was_used(told)


def test_it_is_used_by_any_fit_of_a_frozen_learner():
    learner, told = points_learner(), Told()
    learner.freeze()
    learner.fit_one_cycle(1, callbacks=[told])
    assert was_used(told)


@pytest.mark.parametrize("valid", [True, False])
def test_it_is_not_used_where_training_data_have_no_numbers(valid):
    data = tiny_data(count=8)
    data.valid = Points(VALID, 4, shuffle=False, seed=1) if valid else None
    learner = tiny_learner(data=data)
    assert isinstance(learner.data.train, TorchLoader)
    assert not was_used(train_head(learner, 2))


def test_it_is_not_used_where_validation_data_have_no_numbers():
    data = Moved()
    data.valid = tiny_data(count=8).valid
    learner = points_learner(data=data)
    assert not was_used(train_head(learner, 2))
    assert len(learner.history.epochs) == 2


def test_it_is_not_used_where_statistics_move(images):
    learner = images_learner(images, norm="train")
    before = copy_of(learner.model.backbone.state_dict())
    assert not was_used(train_head(learner, 1))
    after = learner.model.backbone.state_dict()
    moved = [n for n in before if n.endswith("running_mean")]
    assert moved
    assert not any(torch.equal(before[name], after[name]) for name in moved)


def test_layers_before_those_whose_statistics_move_are_kept():
    cached, uncached = points_learner(norm="train"), points_learner(norm="train")
    counted = count_points(cached.model[0][0])
    train_head(cached, 3, 1)
    train_head(uncached, 3, 1, cache_features=False)
    assert counted.train == TRAIN + PROBE
    assert_same_results(cached, uncached)


class NoSequential(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Doubled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("model", "split"),
    [
        (NoSequential, lambda m: [[m.body], [m.head]]),
        (lambda: Doubled(nn.Linear(4, 4), nn.Linear(4, 2)), None),
    ],
    ids=["no Sequential", "a Sequential with a forward of its own"],
)
def test_the_code_of_the_model_may_be_its_own(model, split):
    def new() -> Learner:
        torch.manual_seed(0)
        return points_learner(model(), split=split)

    cached, uncached = new(), new()
    assert was_used(train_head(cached, 2))
    train_head(uncached, 2, cache_features=False)
    assert_same_results(cached, uncached)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_it_is_not_used_where_a_hook_looks_at_the_whole_model(register):
    learner, calls = points_learner(), []
    getattr(learner.model, register)(lambda *_: calls.append(1))
    assert not was_used(train_head(learner, 2))
    assert len(calls) == 2 * (STEPS + 3)


@pytest.fixture
def alive(monkeypatch) -> weakref.WeakSet:
    """The feature caches that are alive."""
    caches: weakref.WeakSet = weakref.WeakSet()
    begin = FeatureCache.__init__

    def noted(self: FeatureCache, *arguments: Any) -> None:
        begin(self, *arguments)
        caches.add(self)

    monkeypatch.setattr(FeatureCache, "__init__", noted)
    return caches


@pytest.fixture
def without_collector() -> Iterator[None]:
    import gc

    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def test_it_is_not_used_where_there_is_no_room(monkeypatch):
    cached, refused = points_learner(), points_learner()
    train_head(cached, 2)
    monkeypatch.setattr(feature_cache, "memory_bytes", lambda: 0)
    assert not was_used(train_head(refused, 2))
    assert_same_results(cached, refused)


@pytest.mark.parametrize(("views", "kept"), [(None, 1), (1, 1), (2, 2), (3, 3), (9, 5)])
def test_it_needs_room_for_what_it_keeps_at_a_time(monkeypatch, views, kept):
    room = 4 * 4 * (kept * TRAIN + VALID) / feature_cache.MEMORY_FRACTION
    for there, used in ((room, True), (room - 1, False)):
        monkeypatch.setattr(feature_cache, "memory_bytes", lambda there=there: there)
        learner, told = points_learner(), Told()
        learner.fit_plan(frozen_plan(learner, 5, views), callbacks=[told])
        assert was_used(told) == used


def bytes_kept_by(cache: FeatureCache) -> int:
    """Of the features of every epoch of the phase and of validation, each counted once."""
    sizes: dict[int, int] = {}  # by place in memory
    for loader in (cache.setup.data.train, cache.setup.data.valid):
        for epoch in range(cache.first_epoch, cache.first_epoch + cache.phase.epochs):
            with suppress(KeyError):  # not filled yet, or given up
                features = loader.features_of(epoch).inputs
                sizes[features.data_ptr()] = features.nbytes
    return sum(sizes.values())


@pytest.mark.parametrize(("views", "kept"), [(None, 1), (1, 1), (2, 2), (3, 3), (9, 5)])
def test_it_keeps_no_more_than_that(alive, views, kept):
    sizes = []

    class Measure(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            (cache,) = alive
            sizes.append(bytes_kept_by(cache))

    learner = points_learner()
    learner.fit_plan(frozen_plan(learner, 5, views), callbacks=[Measure()])
    assert max(sizes) == 4 * 4 * (kept * TRAIN + VALID)


def test_it_is_not_used_where_the_frozen_layers_give_no_single_tensor():
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x), x

    class TakesPair(nn.Linear):
        def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
            return super().forward(pair[0] + pair[1])

    learner = points_learner(nn.Sequential(Pair(4, 4), TakesPair(4, 2)), split=None)
    assert not was_used(train_head(learner, 1))


def test_targets_are_those_that_prepare_makes():
    class Inverted(Moved):
        def prepare(self, batch: Batch, view: int | None) -> Batch:
            return replace(super().prepare(batch, view), targets=1 - batch.targets)

    cached, uncached = points_learner(data=Inverted()), points_learner(data=Inverted())
    train_head(cached, 1)
    train_head(uncached, 1, cache_features=False)
    assert_same_results(cached, uncached)


# --- memory


class Watch(Callback):
    """How many feature caches are alive when an epoch has begun."""

    def __init__(self, alive: weakref.WeakSet) -> None:
        self.caches = alive
        self.alive: list[int] = []

    def on_epoch_start(self, event: EpochStart) -> None:
        self.alive.append(len(self.caches))


def test_its_memory_is_free_in_the_next_phase(alive, without_collector):
    learner, watch = points_learner(), Watch(alive)
    learner.fine_tune(1, freeze_epochs=1, unfreeze="all", callbacks=[watch])
    assert watch.alive[:2] == [1, 0]


def test_its_memory_is_free_after_the_fit(alive, without_collector):
    train_head(points_learner(), 1)
    assert not len(alive)


def test_only_one_is_alive_at_a_time(alive, without_collector):
    learner, watch = points_learner(), Watch(alive)
    (first,) = frozen_plan(learner, 1)
    learner.fit_plan((first, replace(first, name="second", frozen=1)), callbacks=[watch])
    assert watch.alive == [1, 1]


# --- events


def test_precomputing_is_told_before_the_steps_of_its_epoch():
    told = train_head(points_learner(), 3, 2)
    kinds = [type(event) for event in told.events if not isinstance(event, StepEnd)]
    epochs = ([Precompute] * 4, [Precompute] * 3, [])  # 3 chunks a view, 1 for validation
    expected = [kind for told in epochs for kind in (EpochStart, *told, EpochEnd)]
    assert kinds[2:-1] == expected
    first_step = next(i for i, e in enumerate(told.events) if isinstance(e, StepEnd))
    assert all(not isinstance(e, StepEnd) for e in told.events[:first_step])
    assert isinstance(told.events[first_step - 1], Precompute)


def test_precomputing_reaches_its_total():
    told = train_head(points_learner(), 2, 2)
    assert told.of(Precompute) == [
        *(Precompute("frozen", 1, 2, done, TRAIN) for done in (CHUNK, 2 * CHUNK, TRAIN)),
        Precompute("frozen", None, 2, VALID, VALID),
        *(Precompute("frozen", 2, 2, done, TRAIN) for done in (CHUNK, 2 * CHUNK, TRAIN)),
    ]


@pytest.mark.parametrize(
    ("views", "told_views"), [(None, [1, 2, 3]), (1, [1]), (2, [1, 2]), (9, [1, 2, 3])]
)
def test_views_are_told_from_1_to_their_number(views, told_views):
    told = train_head(points_learner(), 3, views).of(Precompute)
    numbers = dict.fromkeys(event.view for event in told if event.view is not None)
    assert list(numbers) == told_views
    assert {event.views for event in told} == {len(told_views)}


# --- interruptions


def failing() -> None:
    raise ValueError("mine")


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


INTERRUPTIONS = {"ctrl-c": (ctrl_c, KeyboardInterrupt), "error": (failing, ValueError)}


@pytest.fixture(scope="module")
def whole() -> Learner:
    """A run that nothing interrupts."""
    learner = points_learner()
    learner.fine_tune(1, freeze_epochs=3, freeze_views=2)
    return learner


@pytest.mark.parametrize("how", INTERRUPTIONS)
@pytest.mark.parametrize("count", [1, 2, 4, 6])  # of 4 chunks in the first epoch, 3 in the second
def test_a_run_that_ends_while_precomputing_goes_on_exactly(whole, how, count):
    action, error = INTERRUPTIONS[how]
    learner = points_learner()
    told = Told(Precompute, action, count)
    with pytest.raises(error, match=r"^(mine)?$"):
        learner.fine_tune(1, freeze_epochs=3, freeze_views=2, callbacks=[told])
    assert len(told.of(Precompute)) == count
    assert learner.validate()["loss"] > 0
    learner.resume()
    assert same_state(learner.model.state_dict(), whole.model.state_dict())
    assert learner.history.steps == whole.history.steps


def test_an_error_while_precomputing_ends_the_reading_at_once():
    learner, ended = points_learner(), []
    fetch = learner.data.train.fetch

    def watched(order: list[Tensor]) -> Iterator[Batch]:
        try:
            yield from fetch(order)
        finally:
            ended.append(len(order))

    learner.data.train.fetch = watched
    with pytest.raises(ValueError, match=r"^mine$") as caught:
        learner.fine_tune(1, freeze_epochs=1, callbacks=[Told(Precompute, failing, 2)])
    assert ended == [1, 3]  # the probe, and three chunks, while the error still holds its frames
    assert caught.value.__traceback__ is not None


def test_ctrl_c_while_precomputing_leaves_a_checkpoint(whole, tmp_path: Path):
    plan = {"freeze_epochs": 3, "freeze_views": 2, "checkpoint": tmp_path / "run.pt"}
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        points_learner().fine_tune(1, callbacks=[Told(Precompute, ctrl_c, 5)], **plan)
    learner = points_learner()
    learner.fine_tune(1, **plan)
    assert same_state(learner.model.state_dict(), whole.model.state_dict())
    assert learner.history.steps == whole.history.steps


@pytest.mark.parametrize("stop", [3, STEPS, STEPS + 3, 2 * STEPS + 1])
def test_a_run_that_stops_in_a_frozen_epoch_goes_on_exactly(whole, stop):
    learner = points_learner()
    callbacks = [Told(StepEnd, lambda: Stop("pause"), stop)]
    learner.fine_tune(1, freeze_epochs=3, freeze_views=2, callbacks=callbacks)
    assert len(learner.history.steps) == stop
    learner.resume()
    assert same_state(learner.model.state_dict(), whole.model.state_dict())
    assert learner.history.steps == whole.history.steps


def test_stop_while_precomputing_ends_the_fit():
    learner, told = points_learner(), Told(Precompute, lambda: Stop("enough"), 2)
    learner.fine_tune(1, callbacks=[told])
    assert told.events[-1].reason == "stopped: enough"
    assert learner.history.steps == []


def test_stop_while_precomputing_may_end_the_phase_only():
    learner, told = points_learner(), Told(Precompute, lambda: Stop("x", phase_only=True), 2)
    learner.fine_tune(1, unfreeze="all", callbacks=[told])
    assert [row.phase for row in learner.history.epochs] == ["unfrozen"]
    assert [event.phase for event in told.of(PhaseStart)] == ["frozen", "unfrozen"]


def test_save_while_precomputing_writes_a_checkpoint_from_which_the_run_goes_on(whole, tmp_path):
    save = Told(Precompute, lambda: Save(tmp_path / "saved.pt"), 6)
    points_learner().fine_tune(1, freeze_epochs=3, freeze_views=2, callbacks=[save])
    learner = points_learner()
    learner.load(tmp_path / "saved.pt")
    learner.resume()
    assert same_state(learner.model.state_dict(), whole.model.state_dict())


# --- what images need


def test_an_image_loader_gives_an_empty_batch_where_a_process_has_no_share(images):
    (batch,) = images.train.fetch([torch.arange(0)])
    assert len(batch) == 0


def test_images_come_by_their_numbers(images):
    loader = images.train
    numbers = torch.tensor([3, 0, 5])
    (batch,) = loader.fetch([numbers])
    assert torch.equal(batch.indices, numbers)
    assert torch.equal(batch.targets, loader.targets[numbers])
    assert torch.equal(batch.inputs.pixels, loader.cache.images(numbers).pixels)


def test_a_phase_of_a_plan_may_have_views_without_it():
    learner = points_learner()
    phase = Phase("p", 2, 0, {"lr": (1e-3,) * 3}, views=1)
    learner.fit_plan((phase,))
    assert set(learner.data.views) == {None}


# --- the default of freeze_epochs


def epochs_of(learner: Learner) -> list[tuple[str, int]]:
    return [(row.phase, row.epoch) for row in learner.history.epochs]


def test_by_default_the_head_has_four_epochs_on_what_is_kept():
    learner, counted = points_learner(), []
    learner.fine_tune(1, callbacks=[Told(Precompute, lambda: counted.append(1), 1)])
    assert epochs_of(learner) == [("frozen", i) for i in range(4)] + [("1 and above", 0)]
    assert learner.trainer.run.plan[0].views == 1


def test_by_default_the_head_has_one_epoch_where_nothing_is_kept():
    kept_off, no_numbers = points_learner(), tiny_learner()
    kept_off.fine_tune(1, cache_features=False, unfreeze="all")
    no_numbers.fine_tune(1, unfreeze="all")
    for learner in (kept_off, no_numbers):
        assert epochs_of(learner) == [("frozen", 0), ("unfrozen", 0)]
        assert learner.trainer.run.plan[0].views is None


def test_a_body_of_which_only_the_beginning_is_kept_has_one_epoch():
    learner = points_learner(norm="train")
    learner.fine_tune(1, unfreeze="all")
    assert epochs_of(learner) == [("frozen", 0), ("unfrozen", 0)]


class Labelled(Points):
    """Points whose targets are a dict, with something beside the label."""

    def __init__(self, points: Points) -> None:
        vars(self).update(vars(points))
        self.targets = {"label": points.targets, "weight": torch.ones(len(points.points))}

    def fetch(self, order: list[Tensor]) -> Iterator[Batch]:
        for numbers in order:
            targets = {name: values[numbers] for name, values in self.targets.items()}
            yield Batch(self.points[numbers], targets, numbers)


def loss_of_label(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
    losses = nn.functional.cross_entropy(outputs, targets["label"], reduction="none")
    return (losses * targets["weight"]).mean()


def test_targets_in_a_dict_are_kept_with_the_features() -> None:
    learners = []
    for cache_features in (True, False):
        data = Moved()
        data.train, data.valid = Labelled(data.train), Labelled(data.valid)
        learner = points_learner(data=data, loss=loss_of_label)
        told = train_head(learner, 2, views=1, cache_features=cache_features)
        assert was_used(told) == cache_features
        learners.append(learner)
    assert_same_results(*learners)
