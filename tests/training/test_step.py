"""One step: what counts as one batch, in which precision, and how far back gradients go."""

import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from support import setup_of, tiny_pairs
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from finetune import Callback, DataLoaders, Learner
from finetune.tasks import LossWeight
from finetune.training.events import StepEnd
from finetune.training.settings import StepSettings
from finetune.training.setup import forward
from finetune.training.step import TrainStep

plain_sgd = partial(torch.optim.SGD, lr=0.1)


def linear_learner(data: DataLoaders, **options: object) -> Learner:
    """Two linear layers without dropout or BatchNorm, in float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    arguments = {"loss": nn.functional.cross_entropy, "precision": "fp32", **options}
    return Learner(data, model, device="cpu", progress=False, **arguments)


def batches_of(size: int, count: int = 256, shuffle: bool = True) -> DataLoaders:
    return DataLoaders(DataLoader(tiny_pairs(count), size, shuffle=shuffle))


def largest_difference(a: Learner, b: Learner) -> float:
    pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


# --- settings


@pytest.mark.parametrize("accumulate", [0, -1, 1.5])
def test_accumulate_is_a_positive_number_of_batches(accumulate: float):
    rule = f"accumulate must be a whole number of at least 1, got {accumulate}"
    with pytest.raises((TypeError, ValueError), match=rule):
        StepSettings(accumulate=accumulate)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("nan")])
def test_clip_norm_is_positive(clip_norm: float):
    with pytest.raises(ValueError, match="clip_norm must be a finite number above 0"):
        StepSettings(clip_norm=clip_norm)


# --- accumulation and clipping


@pytest.mark.parametrize("optimizer", [plain_sgd, torch.optim.AdamW])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_two_batches_of_32_are_one_of_64(optimizer, clip_norm):
    options = {"optimizer": optimizer, "clip_norm": clip_norm}
    two, one = (
        linear_learner(batches_of(32), accumulate=2, **options),
        linear_learner(batches_of(64), **options),
    )
    for learner in (two, one):
        learner.fit(2, 1e-2)
    assert len(two.history.steps) == len(one.history.steps) == 8
    assert largest_difference(two, one) < 1e-6
    assert [row.loss for row in two.history.steps] == pytest.approx(
        [row.loss for row in one.history.steps], abs=1e-6
    )


def test_the_rest_of_an_epoch_is_a_step_of_its_own_true_size():
    pairs = tiny_pairs(21)  # batches of 8, 8 and 5 examples: steps of 16 and 5
    learner = linear_learner(
        DataLoaders(DataLoader(pairs, 8)), accumulate=2, optimizer=plain_sgd, weight_decay=0.0
    )
    expected = linear_learner(batches_of(8))
    inputs, targets = pairs.tensors
    for part in (slice(0, 16), slice(16, 21)):
        loss = nn.functional.cross_entropy(expected.model(inputs[part]), targets[part])
        expected.model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in expected.model.parameters():
                parameter -= 0.1 * parameter.grad
    learner.fit(1, 0.1)
    assert len(learner.history.steps) == 2
    assert largest_difference(learner, expected) < 1e-6


def test_unequal_batches_of_a_window_weigh_by_their_examples():
    pairs = tiny_pairs(12)
    learner = linear_learner(
        DataLoaders(DataLoader(pairs, 8)), accumulate=2, optimizer=plain_sgd, weight_decay=0.0
    )
    whole = linear_learner(
        DataLoaders(DataLoader(pairs, 12)), optimizer=plain_sgd, weight_decay=0.0
    )
    learner.fit(1, 0.1)
    whole.fit(1, 0.1)
    assert largest_difference(learner, whole) < 1e-6


def test_clip_norm_bounds_the_gradient():
    learner = linear_learner(batches_of(256), optimizer=plain_sgd, weight_decay=0.0, clip_norm=0.01)
    before = [p.detach().clone() for p in learner.model.parameters()]
    learner.fit(1, 1.0)
    moved = torch.cat(
        [(p - b).flatten() for p, b in zip(learner.model.parameters(), before, strict=True)]
    )
    assert float(moved.detach().norm()) == pytest.approx(0.01, rel=1e-3)


# --- what the loss is a mean over

CLASS_WEIGHTS = torch.tensor([1.0, 9.0])


def ignoring(count: int = 20) -> TensorDataset:
    """The tiny pairs; the first 8 have the target -100, which torch's losses ignore."""
    inputs, targets = tiny_pairs(count).tensors
    return TensorDataset(inputs, targets.where(torch.arange(count) >= 8, -100))


@pytest.mark.parametrize(
    ("loss", "pairs"),
    [
        (nn.CrossEntropyLoss(weight=CLASS_WEIGHTS), tiny_pairs(20)),
        (partial(nn.functional.cross_entropy, weight=CLASS_WEIGHTS), tiny_pairs(20)),
        (nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, label_smoothing=0.1), ignoring()),
        (nn.functional.cross_entropy, ignoring()),
        (nn.CrossEntropyLoss(reduction="sum"), tiny_pairs(20)),
    ],
)
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_four_batches_of_5_are_one_of_20(loss: object, pairs: TensorDataset, clip_norm):
    options = {"loss": loss, "optimizer": plain_sgd, "clip_norm": clip_norm}
    four = linear_learner(DataLoaders(DataLoader(pairs, 5)), accumulate=4, **options)
    one = linear_learner(DataLoaders(DataLoader(pairs, 20)), **options)
    for learner in (four, one):
        learner.fit(3, 0.1)
    assert largest_difference(four, one) < 1e-6
    assert [row.loss for row in four.history.steps] == pytest.approx(
        [row.loss for row in one.history.steps], rel=1e-5
    )


def test_weights_that_stay_on_an_accelerator_give_the_same(monkeypatch: pytest.MonkeyPatch):
    pairs = ignoring()
    options = {"loss": nn.CrossEntropyLoss(weight=CLASS_WEIGHTS), "optimizer": plain_sgd}
    one = linear_learner(DataLoaders(DataLoader(pairs, 20)), **options)
    one.fit(3, 0.1)
    of_batch = LossWeight.of_batch

    def on_device(*arguments: object, **options: object) -> Tensor:
        return torch.as_tensor(of_batch(*arguments, **options))

    monkeypatch.setattr(LossWeight, "of_batch", on_device)
    five = linear_learner(DataLoaders(DataLoader(pairs, 4)), accumulate=5, **options)
    five.fit(3, 0.1)
    assert largest_difference(five, one) < 1e-6


def test_targets_in_a_dict_weigh_by_their_examples():
    def loss(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets["label"])

    inputs, numbers = tiny_pairs(12).tensors
    rows = [(x, {"label": y}) for x, y in zip(inputs, numbers, strict=True)]
    options = {"loss": loss, "optimizer": plain_sgd}
    two = linear_learner(DataLoaders(DataLoader(rows, 8)), accumulate=2, **options)
    one = linear_learner(DataLoaders(DataLoader(rows, 12)), **options)
    for learner in (two, one):
        learner.fit(1, 0.1)
    assert largest_difference(two, one) < 1e-6


def test_a_step_none_of_whose_targets_count_moves_nothing():
    learner = linear_learner(DataLoaders(DataLoader(ignoring(16), 8)), weight_decay=0.1)
    before = [p.detach().clone() for p in learner.model.parameters()]
    moved = []

    class Watch(Callback):
        def on_step_end(self, event: StepEnd) -> None:
            pairs = zip(learner.model.parameters(), before, strict=True)
            moved.append(not all(torch.equal(p, b) for p, b in pairs))

    learner.fit(1, 0.1, callbacks=[Watch()])
    assert moved == [False, True]
    first, second = learner.history.steps
    assert math.isnan(first.loss)
    assert learner.history.epochs[0].train_loss == second.loss
    assert learner.plot_losses()


def test_a_range_test_goes_on_after_a_step_without_a_loss():
    learner = linear_learner(DataLoaders(DataLoader(ignoring(16), 8)))
    curve = learner.lr_find(steps=40)
    assert len(curve.losses) == 20
    assert all(map(math.isfinite, curve.losses))


def test_loss_of_each_example_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match="reduction='none'"):
        linear_learner(batches_of(8), loss=nn.CrossEntropyLoss(reduction="none"))


def test_more_classes_than_outputs_are_named():
    pairs = TensorDataset(tiny_pairs(6).tensors[0], torch.arange(6) % 3)
    learner = linear_learner(DataLoaders(DataLoader(pairs, 6)), loss=nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"from 0 to 1, .*targets go from 0 to 2"):
        learner.fit(1)


# --- precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_half_precision_trains_float32_weights(precision: str, clip_norm: float | None):
    learner = linear_learner(batches_of(32), precision=precision, clip_norm=clip_norm)
    learner.fit(5, 3e-2)
    assert learner.history.epochs[-1].train_loss < 0.5 * learner.history.epochs[0].train_loss
    assert all(p.dtype == torch.float32 for p in learner.model.parameters())


def test_the_loss_is_computed_in_float32():
    seen = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(outputs.dtype)
        return nn.functional.cross_entropy(outputs, targets)

    linear_learner(batches_of(128), precision="bf16", loss=loss).fit(1)
    assert set(seen) == {torch.float32}


# --- the frozen prefix


class Witness(nn.Module):
    """Two layers whose inner width, 17, is found nowhere else in the model."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 17), nn.BatchNorm1d(17), nn.ReLU(), nn.Linear(17, 5)
        )
        self.needs_backward: list[bool] = []

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.layers(inputs)
        if torch.is_grad_enabled():
            self.needs_backward.append(outputs.requires_grad)
        return outputs


def test_a_frozen_prefix_keeps_no_activations_and_gets_no_backward():
    witness = Witness()
    learner = Learner(
        batches_of(32), nn.Sequential(witness, nn.Linear(5, 2)),
        loss=nn.functional.cross_entropy, device="cpu", progress=False, precision="fp32",
    )  # fmt: skip
    kept: list[torch.Size] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        learner.freeze()
        learner.fit(1)
        assert kept  # the head's
        assert not any(17 in shape for shape in kept)
        assert not any(witness.needs_backward)
        learner.unfreeze()
        learner.fit(1)
        assert any(17 in shape for shape in kept)
        assert witness.needs_backward[-1]


# --- inputs


def test_inputs_are_a_tensor_the_parts_of_a_tuple_or_the_entries_of_a_dict():
    class Difference(nn.Module):
        def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
            return a if b is None else a - b

    one, two = torch.ones(1), torch.full((1,), 2.0)
    assert forward(Difference(), two) == 2
    assert forward(Difference(), (one, two)) == -1
    assert forward(Difference(), {"b": one, "a": two}) == 1


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, points: Tensor, scale: Tensor) -> Tensor:
        return self.head(self.body(points) * scale)


def collate(kind: type, items: list[tuple[Tensor, Tensor]]) -> tuple[object, Tensor]:
    points, targets = (torch.stack(part) for part in zip(*items, strict=True))
    scale = torch.ones(len(items), 1)
    inputs = (points, scale) if kind is tuple else {"scale": scale, "points": points}
    return inputs, targets


@pytest.mark.parametrize("kind", [tuple, dict])
def test_a_model_of_several_inputs_trains(kind: type):
    loader = DataLoader(tiny_pairs(), 8, collate_fn=partial(collate, kind))
    learner = Learner(
        DataLoaders(loader, loader), TwoInputs(), loss=nn.functional.cross_entropy,
        split=["head"], device="cpu", progress=False,
    )  # fmt: skip
    learner.fine_tune(5, 3e-2)
    assert learner.history.epochs[-1].valid["loss"] < learner.history.epochs[0].valid["loss"]


def test_targets_need_not_be_classes():
    points = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    pairs = TensorDataset(points, points.sum(1, keepdim=True).repeat(1, 2))
    data = DataLoaders(DataLoader(pairs, 8), DataLoader(pairs, 8))
    learner = linear_learner(data, loss=nn.functional.mse_loss)
    learner.fit(10, 3e-2)
    assert learner.history.epochs[-1].valid["loss"] < 0.1


# --- memory


class SmallMemory(nn.Linear):
    """Runs out of memory with more than `rows` rows."""

    def __init__(self, rows: int) -> None:
        super().__init__(4, 2)
        self.rows, self.sizes = rows, []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.rows:
            raise torch.OutOfMemoryError("no memory left")
        return super().forward(x)


def short_of_memory(rows: int, **options: object) -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), SmallMemory(rows))
    arguments = {"loss": nn.functional.cross_entropy, "optimizer": plain_sgd, **options}
    data = DataLoaders(DataLoader(tiny_pairs(72), 24, shuffle=True), classes=["no", "yes"])
    return Learner(data, model, device="cpu", progress=False, **arguments)


WEIGHTED = {"loss": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0]))}


@pytest.mark.parametrize(
    "options", [{}, {"accumulate": 2}, {"clip_norm": 0.1}, {"mixup": 1.0}, WEIGHTED]
)
def test_a_batch_too_large_for_the_memory_goes_through_in_parts(options: dict):
    small, large = short_of_memory(7, **options), short_of_memory(24, **options)
    with pytest.warns(UserWarning, match=r"too small for a batch of 24.* in [24] parts"):
        small.fit(2, 0.1)
    large.fit(2, 0.1)
    assert largest_difference(small, large) < 1e-6
    losses = [[row.loss for row in learner.history.steps] for learner in (small, large)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_the_number_of_parts_is_kept_for_the_next_step():
    learner = short_of_memory(12)
    with pytest.warns(UserWarning, match="in 2 parts"):
        learner.fit(1, 0.1)
    assert learner.model[1].sizes == [24] + [12] * 6


def test_a_memory_too_small_for_one_example_is_an_error():
    learner = short_of_memory(0)
    warned = pytest.warns(UserWarning, match="parts now")
    with warned, pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        learner.fit(1, 0.1)
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def test_what_dropout_draws_does_not_depend_on_an_attempt_that_failed():
    steps = []
    for known in (1, 2):
        learner = short_of_memory(12)
        learner.model.insert(1, nn.Dropout(0.5))
        step = TrainStep(learner.model, setup_of(learner))
        step._batch_parts = known  # as in a run that found out earlier
        learner.model.train()
        batch = next(iter(learner.data.train.epoch(0, 0)))
        with pytest.warns(UserWarning, match="2 parts") if known == 1 else nullcontext():
            steps.append(step([batch], 0, epoch=0, step=0).item())
    assert steps[0] == steps[1]


def test_no_part_of_a_batch_is_a_single_example():
    learner = short_of_memory(5)
    with pytest.warns(UserWarning, match="parts"), pytest.raises(torch.OutOfMemoryError):
        short_of_memory(2).fit(1, 0.1)  # 16 parts would do, some of a single example
    with pytest.warns(UserWarning, match=r"in [248] parts"):
        learner.fit(1, 0.1)
    assert min(learner.model[1].sizes) >= 3
