"""FrozenPrefixes: what is refused, no trace, and one search for planning and training."""

import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import StopAt, copy_of, same_state, setup_of, tiny_learner
from timm.layers import drop_path
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from finetune import Batch, Callback, ImageDataLoaders, Learner, Runtime
from finetune.training.events import FitStart, Precompute
from finetune.training.frozen import prefixes
from finetune.training.frozen.prefix import Suffix
from finetune.training.frozen.prefixes import FrozenPrefixes, find_suffix
from finetune.training.plan import KEPT_EPOCHS, FineTune, fine_tune_plan
from finetune.vision import vision_learner


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False).eval()


def layer() -> nn.Linear:
    return nn.Linear(2, 2)


def find(model: nn.Module) -> Suffix | None:
    points = torch.randn(2, 2, generator=torch.Generator().manual_seed(3))
    return find_suffix(model, points, nullcontext)


class Own(nn.Module):
    """A frozen layer, a trained one, and code between them; `run(self, x)` is its forward."""

    def __init__(self, run: Callable[["Own", Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.run = frozen(layer()), layer(), run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


# --- what is refused


def train_skip(self: Own, x: Tensor) -> Tensor:
    return self.head(self.body(x)) + (x if self.training else 0)


def in_place_before(self: Own, x: Tensor) -> Tensor:
    y = self.first(x)
    y += 1
    return self.head(self.body(y))


UNSOUND = {
    "a skip around it": lambda self, x: self.head(self.body(x) + x),
    "a skip from a layer before it": lambda self, x: self.head(self.body(y := self.first(x)) + y),
    "a skip around it in train mode": train_skip,
    "dropout": lambda self, x: self.head(self.body(dropout(x, 0.5, self.training))),
    "rare dropout": lambda self, x: self.head(self.body(drop_path(x, 1e-6, self.training))),
    "rare numpy": lambda self, x: self.head(self.body(x * (np.random.rand() > 1e-9))),
    "rare python": lambda self, x: self.head(self.body(x * (random.random() > 1e-9))),
    "a generator of its own": lambda self, x: self.head(
        self.body(x + torch.rand((), generator=self.generator))
    ),
    "another scale in train mode": lambda self, x: self.head(
        self.body(x * (1.001 if self.training else 1))
    ),
    "a trained weight before it": lambda self, x: self.head(self.body(linear(x, self.head.weight))),
    "in place on what is passed by": in_place_before,
    "rows of their own": lambda self, x: self.head(self.constant(self.rows).sum(0) + self.body(x)),
    "as many rows of their own": lambda self, x: self.head(
        self.body(x) + self.constant(self.rows).sum(0)
    ),
    "two outputs": lambda self, x: (self.head(self.body(x)), x),
    "an error": lambda self, x: 1 / 0,
}


@pytest.mark.parametrize("run", UNSOUND.values(), ids=UNSOUND)
def test_what_would_not_be_the_same_is_refused(run):
    model = Own(run)
    model.first, model.constant = frozen(layer()), frozen(layer())
    model.rows, model.generator = torch.ones(2, 2), torch.Generator()
    assert find(model) is None


# --- looking leaves no trace


def state_of(model: nn.Module) -> list[Any]:
    names = [
        (name, dict(vars(m)), dict(m._buffers), m.training) for name, m in model.named_modules()
    ]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    grads = [p.grad for p in model.parameters()]
    return [
        [(n, v.keys(), {k: id(b) for k, b in bs.items()}, t) for n, v, bs, t in names],
        hooks,
        grads,
    ]


def noisy(fail: BaseException | None = None, after: int = 0) -> nn.Module:
    """Counts its calls in a buffer, moves statistics in train mode; fails after some calls."""

    def run(self: Own, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = torch.ones(())
        self.seen.append(len(x))
        if fail is not None and len(self.seen) > after:
            raise fail
        return self.head(self.norm(self.body(x)))

    model = Own(run)
    model.norm, model.seen = nn.BatchNorm1d(2), []
    model.register_buffer("calls", torch.zeros(()))
    model.register_buffer("last", torch.zeros(()))
    model.body.training = False
    return model


def seed_all() -> None:
    torch.manual_seed(1), random.seed(1), np.random.seed(1)


def drawn() -> list[float]:
    return [float(torch.rand(())), random.random(), float(np.random.rand())]


@pytest.mark.parametrize("after", range(7))
@pytest.mark.parametrize("error", [None, ValueError("mine"), KeyboardInterrupt()])
def test_looking_leaves_no_trace(error: BaseException | None, after: int):
    model = noisy(error, after)
    before, tensors = state_of(model), copy_of(model.state_dict())
    seed_all()
    expected = drawn()
    seed_all()
    stops = isinstance(error, KeyboardInterrupt) and after < 6
    with pytest.raises(KeyboardInterrupt, match=r"^$") if stops else nullcontext():
        assert (find(model) is None) == (error is not None and after < 6)
    assert len(model.seen) == (6 if error is None else min(6, after + 1))
    assert drawn() == expected
    assert same_state(model.state_dict(), tensors)
    assert state_of(model) == before


# --- learners


@pytest.fixture(scope="module")
def images(photos: Path) -> ImageDataLoaders:
    """18 for training and 6 for validation, decoded once for all learners here."""
    return ImageDataLoaders.from_folder(photos, image_size=32, batch_size=4)


def learner_of(images: ImageDataLoaders, **options: Any) -> Learner:
    """Three groups: body_1, body_2 and head."""
    options = {"head": "linear", "runtime": Runtime("cpu"), **options}
    return vision_learner(images, "test_efficientnet", weights=None, progress=False, **options)


def prefixes_of(learner: Learner, groups: int) -> FrozenPrefixes:
    """With so many groups frozen, as in a phase of a run."""
    learner.freeze_to(groups)
    learner.layer_groups.set_training_modes()
    return FrozenPrefixes(setup_of(learner))


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Suffix | None]:
    """What each search since the start of the test has found."""
    results: list[Suffix | None] = []

    def noted(*arguments: Any) -> Suffix | None:
        results.append(find_suffix(*arguments))
        return results[-1]

    monkeypatch.setattr(prefixes, "find_suffix", noted)
    return results


class Watch(Callback):
    """Whether features are kept; `action` is called once the plan is made."""

    def __init__(self, action: Callable[[], Any] = lambda: None) -> None:
        self.action, self.keeps = action, False

    def on_fit_start(self, event: FitStart) -> None:
        self.action()

    def on_precompute(self, event: Precompute) -> None:
        self.keeps = True


# --- one search for planning and training


PROBE = 2 + 3 * 3
"""Images that a search runs: two to find the boundary with, three times three to prove it."""


def test_frozen_layers_run_for_one_search_and_once_an_image_before_the_unfrozen_phase(images):
    learner, counts, at_phase = learner_of(images), [], []
    first = learner.model.backbone.conv_stem
    first.register_forward_hook(lambda _, __, output: counts.append(len(output)))

    class Sums(Callback):
        def on_phase_start(self, event: Any) -> None:
            at_phase.append(sum(counts))

    learner.fine_tune(1, callbacks=[Sums()])
    assert at_phase == [PROBE, PROBE + 18 + 6]


@pytest.mark.parametrize(
    "options", [{}, {"freeze_epochs": 2}, {"freeze_epochs": 2, "freeze_views": 2}]
)
def test_fine_tune_searches_once(images, searches, options: dict[str, int]):
    watch = Watch()
    learner_of(images).fine_tune(1, unfreeze="all", callbacks=[watch], **options)
    assert watch.keeps
    assert len(searches) == 1


def test_the_earlier_half_of_the_body_is_searched_for_on_its_own(images, searches):
    learner_of(images).fine_tune(1)
    assert len(searches) == 2


def test_without_kept_features_there_is_no_search(images, searches):
    learner = learner_of(images)
    learner.fine_tune(1, cache_features=False)
    learner.fit(1)  # nothing is frozen
    assert searches == []


def test_a_plan_that_does_not_depend_on_it_needs_no_search(images, searches):
    learner = learner_of(images)
    plan = learner.trainer.resolve(FineTune(1), cache_features=False)
    learner.trainer.resolve(FineTune(1, freeze_epochs=2))
    learner.plot_plan(plan)
    assert searches == []


def test_what_planning_finds_is_what_trains(images, searches):
    learner = learner_of(images)
    found = FrozenPrefixes(setup_of(learner))
    planned = found.find_behind_all_but_the_last_group()
    learner.freeze_to(2)
    learner.layer_groups.set_training_modes()
    assert planned is not None
    assert found.find() is planned
    assert searches == [planned]


def test_every_phase_is_proven_anew(images, searches):
    """Something that no comparison sees may have changed the model meanwhile."""
    learner = learner_of(images)
    (head,) = fine_tune_plan(learner.layer_groups, 1, freeze_epochs=1)[:1]
    plan = tuple(
        replace(head, name=str(i), frozen=count) for i, count in enumerate((2, 1, 0, 1, 2))
    )
    learner.fit_plan(plan)
    assert len(searches) == 4


def test_a_run_that_goes_on_searches_again(images, searches):
    learner, watch = learner_of(images, head="mlp"), Watch()
    learner.fine_tune(1, unfreeze="all", callbacks=[StopAt(3)])
    learner.resume(callbacks=[watch])
    assert watch.keeps
    assert len(searches) == 2


def test_every_fit_searches_anew(images, searches):
    learner = learner_of(images)
    for _ in range(2):
        learner.fine_tune(1, unfreeze="all")
    assert len(searches) == 2


# --- what makes it search again


def test_a_hook_that_is_added_after_planning_is_seen(images, searches):
    learner, sizes, outputs = learner_of(images, head="mlp"), [], []

    def listen() -> None:
        learner.model.backbone.conv_stem.register_forward_hook(
            lambda _, __, output: sizes.append(len(output))
        )
        learner.model.register_forward_hook(lambda _, __, output: outputs.append(output))

    watch = Watch(listen)
    learner.fine_tune(1, unfreeze="all", callbacks=[watch])
    assert [result is None for result in searches] == [False, True]
    assert not watch.keeps
    assert [row.phase for row in learner.history.epochs] == ["frozen"] * KEPT_EPOCHS + ["unfrozen"]
    trained = len(learner.data.train) * 4  # training drops the last, short batch
    assert sum(sizes) == (KEPT_EPOCHS + 1) * (trained + len(learner.data.valid.targets))
    assert sum(map(len, outputs)) == sum(sizes)
    assert not any(output.isnan().any() for output in outputs)


def test_what_a_hook_does_that_is_added_after_planning_is_in_what_is_kept(images, searches):
    sgd = partial(torch.optim.SGD, lr=0.1)
    cached, uncached = (learner_of(images, optimizer=sgd, head="mlp") for _ in "12")
    plan = uncached.trainer.resolve(FineTune(1, unfreeze="all"))
    searches.clear()

    def watch(learner: Learner) -> Watch:
        stem = learner.model.backbone.conv_stem
        return Watch(lambda: stem.register_forward_hook(lambda _, __, output: output.flip(-1) * 2))

    watches = watch(cached), watch(uncached)
    cached.fine_tune(1, unfreeze="all", callbacks=[watches[0]])
    uncached.fit_plan(plan, callbacks=[watches[1]], cache_features=False)
    assert [watch.keeps for watch in watches] == [True, False]
    assert len(searches) == 2
    losses, others = (
        [row.loss for row in learner.history.steps if row.phase == "frozen"]
        for learner in (cached, uncached)
    )
    assert losses == pytest.approx(others, abs=1e-5)


def planned(learner: Learner) -> FrozenPrefixes:
    """With the result of planning, and the model as in the phase that it is for."""
    found = FrozenPrefixes(setup_of(learner))
    found.find_behind_all_but_the_last_group()
    learner.freeze_to(2)
    learner.layer_groups.set_training_modes()
    return found


def with_hook(register: str) -> Callable[[nn.Module], Callable[[], Any]]:
    return lambda model: getattr(model.head, register)(lambda *_: None).remove


def with_forward(model: nn.Module) -> Callable[[], Any]:
    model.head.forward = type(model.head).forward.__get__(model.head)
    return partial(delattr, model.head, "forward")


def with_mode(model: nn.Module) -> Callable[[], Any]:
    model.head.training = not model.head.training
    return partial(setattr, model.head, "training", not model.head.training)


def with_flag(model: nn.Module) -> Callable[[], Any]:
    weight = next(model.head.parameters())
    weight.requires_grad_(False)
    return weight.requires_grad_


def with_module(model: nn.Module) -> Callable[[], Any]:
    dropout = model.head[0]
    model.head[0] = nn.Dropout(0.9).train(dropout.training)
    return partial(setattr, model.head, "0", dropout)


def with_another_hook(model: nn.Module) -> Callable[[], Any]:
    """As many as before."""
    hooks = model.head._forward_hooks
    before = dict(hooks)
    hooks.clear()
    handle = model.head.register_forward_hook(lambda *_: None)

    def undo() -> None:
        handle.remove()
        hooks.update(before)

    return undo


def with_attribute(model: nn.Module) -> Callable[[], Any]:
    model.skips = True
    return partial(delattr, model, "skips")


def compiled(model: nn.Module) -> Callable[[], Any]:
    model.head.compile(backend="eager")  # another one would take seconds
    return partial(setattr, model.head, "_compiled_call_impl", None)


CHANGES = {
    "another hook": with_another_hook,
    "an attribute": with_attribute,
    "torch.compile": compiled,
    "a forward hook": with_hook("register_forward_hook"),
    "a hook before forward": with_hook("register_forward_pre_hook"),
    "a backward hook": with_hook("register_full_backward_hook"),
    "a hook before backward": with_hook("register_full_backward_pre_hook"),
    "another forward": with_forward,
    "another mode": with_mode,
    "a weight that is frozen": with_flag,
    "another module": with_module,
}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_result_holds_for_one_state_of_the_model(images, searches, change):
    learner = learner_of(images)
    learner.model.head.register_forward_hook(lambda *_: None)
    found = planned(learner)
    (first,) = searches
    undo = change(learner.model)
    second = found.find()
    assert second is not first
    assert searches == [first, second]
    undo()
    assert found.find() is first
    assert searches == [first, second]


def test_training_keeps_the_result(images, searches):
    learner = learner_of(images)
    found = planned(learner)
    with torch.no_grad():
        for tensor in [*learner.model.parameters(), *learner.model.buffers()]:
            tensor.mul_(2)
    assert searches == [found.find()]


def test_no_prefix_is_a_result_too(images, searches):
    found = planned(learner_of(images, norm="train"))
    assert found.find() is None
    assert searches == [None]


def test_another_runtime_makes_it_search_again(images, searches):
    learner = learner_of(images)
    found, setup = prefixes_of(learner, 2), setup_of(learner)
    first = found.find()
    assert found.of(setup) is found
    other = found.of(replace(setup, runtime=Runtime("cpu", "bf16")))
    assert other.find() is not first
    assert len(searches) == 2
    assert [s.features.number.dtype for s in searches] == [torch.float32, torch.bfloat16]


# --- behind all but the last group


def test_all_groups_but_the_last_must_be_passed_by(images, searches):
    def found(**options: Any) -> Suffix | None:
        learner = learner_of(images, **options)
        return prefixes_of(learner, 1).find_behind_all_but_the_last_group()

    assert found(norm="eval") is not None
    # the first half alone may be passed by; the other half has norms whose statistics move
    assert found(norm={"body_1": "eval", "body_2": "train"}) is None
    assert all(searches)


def test_one_group_has_none_before_it():
    learner = tiny_learner(1)
    assert FrozenPrefixes(setup_of(learner)).find_behind_all_but_the_last_group() is None


def test_examples_without_numbers_have_none(searches):
    learner = tiny_learner()
    assert prefixes_of(learner, 1).find() is None
    assert searches == []


# --- looking at a plan leaves no trace


def state_of_learner(learner: Learner) -> dict[str, Any]:
    """All that must be the same, to be compared, but for the numbers in the tensors."""
    modules, parameters = learner.model.modules(), learner.model.parameters()
    return {
        "modes": [module.training for module in modules],
        "flags": [parameter.requires_grad for parameter in parameters],
        "frozen": [group.frozen for group in learner.layer_groups],
        # identities of modules and tensors, counts of hooks and of changes
        "version": learner.trainer.weights_version(),
        "attributes": state_of(learner.model),
    }


def drawing(learner: Learner) -> Learner:
    """Its data draw from the global generators whenever images are asked for."""
    data = learner.data
    fetch, prepare = data.train.fetch, data.prepare

    def fetch_and_draw(order: list[Tensor]) -> Iterator[Batch]:
        drawn()
        yield from fetch(order)

    def prepare_and_draw(batch: Batch, view: int | None) -> Batch:
        drawn()
        return prepare(batch, view)

    data.train.fetch, data.prepare = fetch_and_draw, prepare_and_draw
    return learner


LOOKS = {
    "resolve": lambda learner: learner.trainer.resolve(FineTune(1)),
    "plot_plan": lambda learner: learner.plot_plan(1),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("norm", ["follow", "train"])
@pytest.mark.parametrize("frozen_groups", [[], [0], [0, 1], [1]], ids=str)
def test_looking_at_a_plan_leaves_no_trace(images, searches, look, norm, frozen_groups: list[int]):
    learner = drawing(learner_of(images, norm=norm))
    for i in frozen_groups:
        learner.layer_groups[i].set_frozen(True)
    for i, module in enumerate(learner.model.modules()):
        module.training = i % 3 > 0  # as neither train() nor eval() leaves them
    before, tensors = state_of_learner(learner), copy_of(learner.model.state_dict())
    seed_all()
    expected = drawn()
    seed_all()
    look(learner)
    assert len(searches) == 1
    assert drawn() == expected
    assert same_state(learner.model.state_dict(), tensors)
    assert state_of_learner(learner) == before


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_at_a_plan_keeps_gradients_and_what_was_frozen_by_hand(images, look):
    learner = learner_of(images)
    first, *others = learner.model.backbone.parameters()
    first.requires_grad_(False)
    gradients = [torch.ones_like(parameter) for parameter in others]
    for parameter, gradient in zip(others, gradients, strict=True):
        parameter.grad = gradient
    look(learner)
    assert not first.requires_grad
    assert all(p.grad is g for p, g in zip(others, gradients, strict=True))


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_looking_at_a_plan_that_fails_leaves_no_trace(images, look, error: type[BaseException]):
    learner = learner_of(images)

    def fail(_: list[Tensor]) -> Iterator[Batch]:
        drawn()
        raise error("mine")
        yield

    learner.data.train.fetch = fail
    before, tensors = state_of_learner(learner), copy_of(learner.model.state_dict())
    seed_all()
    expected = drawn()
    seed_all()
    with pytest.raises(error, match=r"^mine$"):
        look(learner)
    assert drawn() == expected
    assert same_state(learner.model.state_dict(), tensors)
    assert state_of_learner(learner) == before


def test_looking_at_a_plan_changes_no_run(images):
    looked, plain = learner_of(images), learner_of(images)
    for look in LOOKS.values():
        look(looked)
    for learner in (looked, plain):
        learner.fine_tune(1)
    assert same_state(looked.model.state_dict(), plain.model.state_dict())
    assert looked.history.steps == plain.history.steps


def test_a_plan_that_is_looked_at_is_the_one_that_runs(images):
    for options, epochs in (({}, KEPT_EPOCHS), ({"norm": "train"}, 1)):
        learner = learner_of(images, head="mlp", **options)
        plan = learner.trainer.resolve(FineTune(1))
        assert [phase.epochs for phase in plan] == [epochs, 1]
        learner.fine_tune(1)
        assert learner.trainer.run.plan == plan
