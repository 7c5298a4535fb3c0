"""MixUp, CutMix and label smoothing: what they make of a training batch, and of no other."""

from pathlib import Path

import pytest
import torch
from support import same_state, tiny_data, tiny_learner
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from finetune import Batch, DataLoaders, ImageDataLoaders, Learner, vision_learner
from finetune.training.mixing import Mixer, training_loss

CLASSES = ("no", "yes", "maybe")


def images(count: int = 6, size: int = 8) -> Batch:
    """Image i is i everywhere, so that a pixel shows whose it is."""
    numbers = torch.arange(float(count))
    return Batch(numbers.view(-1, 1, 1, 1).expand(-1, 3, size, size).clone(), torch.arange(count))


class Recorder:
    """Cross-entropy that notes which targets it got."""

    def __init__(self) -> None:
        self.targets: list[Tensor] = []

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.targets.append(targets)
        return cross_entropy(outputs, targets)


def is_mixed(targets: Tensor) -> bool:
    """What is not mixed stays a class number."""
    return targets.is_floating_point()


# --- batches


def test_mixup_mixes_each_image_with_the_one_before_and_its_targets_alike():
    torch.manual_seed(0)
    batch = images()
    mixed = Mixer(1.0, 0.0, list("abcdef"))(batch)
    share = float(mixed.targets[0, 0])
    assert 0 < share < 1
    expected = share * batch.inputs + (1 - share) * batch.inputs.roll(1, 0)
    assert torch.allclose(mixed.inputs, expected)
    one_hot = torch.eye(6)
    assert torch.allclose(mixed.targets, share * one_hot + (1 - share) * one_hot.roll(1, 0))
    assert torch.equal(batch.inputs, images().inputs)  # kept images must not change


def test_cutmix_takes_a_window_of_the_one_before_and_its_share_of_the_target():
    torch.manual_seed(1)
    batch = images()
    mixed = Mixer(0.0, 1.0, list("abcdef"))(batch)
    foreign = mixed.inputs != batch.inputs
    assert torch.equal(mixed.inputs[foreign], batch.inputs.roll(1, 0)[foreign])
    share = foreign[0, 0].float().mean()
    assert 0 < share < 1
    assert torch.allclose(mixed.targets.diagonal(), 1 - share)
    assert torch.allclose(mixed.targets.roll(-1, 0).diagonal(), share)
    assert torch.equal(batch.inputs, images().inputs)


def test_with_both_each_batch_has_one_of_them():
    mixer, seen = Mixer(1.0, 1.0, list("abcdef")), []
    for i in range(40):
        torch.manual_seed(i)
        values = mixer(images()).inputs[3].unique()
        whole = all(float(v).is_integer() for v in values)  # a window keeps the pixels
        seen.append("cutmix" if whole else "mixup")
    assert 10 < seen.count("mixup") < 30


def test_without_them_a_batch_stays_as_it_is():
    batch = images()
    assert Mixer(0.0, 0.0, None)(batch) is batch


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 4)])
def test_float_targets_are_mixed_as_they_are(shape: tuple[int, ...]):
    targets = torch.randn(shape)
    mixed = Mixer(1.0, 0.0, None)(Batch(images().inputs, targets))
    assert mixed.targets.shape == targets.shape
    own = float(mixed.inputs[1, 0, 0, 0])  # of image 1; the one before is 0
    assert torch.allclose(mixed.targets, own * targets + (1 - own) * targets.roll(1, 0))


def test_mixup_takes_inputs_of_any_shape():
    points, targets = torch.randn(6, 4), torch.arange(6)
    mixed = Mixer(1.0, 0.0, list("abcdef"))(Batch(points, targets))
    share = float(mixed.targets[0, 0])
    assert torch.allclose(mixed.inputs, share * points + (1 - share) * points.roll(1, 0))


NUMBERS = torch.arange(6)


@pytest.mark.parametrize(
    ("alphas", "inputs", "targets", "classes", "message"),
    [
        ((1, 0), images().inputs, NUMBERS, None, r"mixup needs the number of classes; pass Data"),
        ((0, 1), torch.ones(6, 4), NUMBERS, CLASSES, r"cutmix takes images .* gets \[6, 4\]"),
        ((1, 1), torch.ones(6, 4), NUMBERS, CLASSES, r"cutmix takes images"),
        ((1, 0), (torch.ones(6),), NUMBERS, CLASSES, r"one tensor of inputs, .* gets a tuple"),
        ((1, 0), torch.ones(6, 3, 8, 8).byte(), NUMBERS, CLASSES, r"floats, .* torch.uint8"),
        ((1, 0), torch.ones(6, 4), (NUMBERS,), CLASSES, r"one tensor of targets, .* a tuple"),
        ((1, 1), images().inputs, NUMBERS.view(6, 1), CLASSES, r"mixup and cutmix takes class"),
        ((0, 1), images().inputs, torch.ones(6, 1, 8, 8), CLASSES, r"\[6, 1, 8, 8\]"),
    ],
)
def test_what_cannot_be_mixed_is_told(alphas, inputs, targets, classes, message):
    with pytest.raises(ValueError, match=message):
        Mixer(*alphas, classes)(Batch(inputs, targets))


# --- the loss


def test_label_smoothing_is_torchs_own():
    outputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = cross_entropy(outputs, targets, label_smoothing=0.2)
    assert training_loss(cross_entropy, 0.2, mixes=False)(outputs, targets) == expected
    weight = torch.tensor([1.0, 2.0, 3.0])
    given = nn.CrossEntropyLoss(weight)
    expected = cross_entropy(outputs, targets, weight, label_smoothing=0.2)
    assert training_loss(given, 0.2, mixes=False)(outputs, targets) == expected
    assert given.label_smoothing == 0


def test_without_them_the_loss_stays_as_it_is():
    loss = Recorder()
    assert training_loss(loss, 0.0, mixes=False) is loss


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.NLLLoss(), "the loss is NLLLoss; put the smoothing into the loss"),
        (nn.functional.mse_loss, "the loss is mse_loss"),
        (
            nn.CrossEntropyLoss(label_smoothing=0.3),
            "0.1 was given, and the loss has 0.3",
        ),
    ],
)
def test_a_loss_that_cannot_smooth_is_told_at_once(loss, message: str):
    with pytest.raises(ValueError, match=message):
        tiny_learner(loss=loss, label_smoothing=0.1)


def test_a_loss_of_class_numbers_is_told_that_it_gets_probabilities():
    learner = tiny_learner(loss=nn.NLLLoss(), mixup=0.2)
    message = r"loss NLLLoss failed on targets \[4, 2\] that mixup= .* must take floats, as"
    with pytest.raises(ValueError, match=message):
        learner.fit(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": -0.1}, "mixup must be .* of at least 0, got -0.1"),
        ({"cutmix": True}, "cutmix must be .* of at least 0, got True"),
        ({"cutmix": float("nan")}, "cutmix must be .* of at least 0, got nan"),
        ({"label_smoothing": 1.0}, "label_smoothing must be .* at least 0 and below 1, got 1.0"),
        ({"ema": 1.0}, "ema must be .* above 0 and below 1, got 1.0"),
        ({"ema": 0}, "ema must be .* above 0 and below 1, got 0"),
    ],
)
def test_values_out_of_range_are_told(options: dict, message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        tiny_learner(**options)


# --- in training


def small_images(**options: object) -> Learner:
    """A convolution on random images [4, 3, 6, 6] in two classes."""
    torch.manual_seed(0)
    pairs = TensorDataset(torch.randn(16, 3, 6, 6), torch.arange(16) % 2)
    data = DataLoaders(
        DataLoader(pairs, 4, shuffle=True), DataLoader(pairs, 16), classes=["a", "b"]
    )
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    arguments: dict = {"loss": cross_entropy, "device": "cpu", "progress": False, **options}
    return Learner(data, nn.Sequential(body, nn.Linear(4, 2)), **arguments)


def test_training_is_on_mixtures_and_validation_is_not():
    loss = Recorder()
    learner = small_images(loss=loss, mixup=0.4, cutmix=1.0)
    learner.fit(1)
    *training, validation = loss.targets
    assert all(map(is_mixed, training))
    assert len(training) == 4
    assert validation.dtype == torch.int64


def test_validation_is_without_label_smoothing():
    learner = small_images(label_smoothing=0.9)
    learner.fit(1, 1e-9)
    inputs, targets = learner.data.valid.loader.dataset.tensors
    outputs = learner.model(inputs)
    plain = float(cross_entropy(outputs, targets).detach())
    smooth = float(cross_entropy(outputs, targets, label_smoothing=0.9).detach())
    row = learner.history.epochs[0]
    assert row.valid["loss"] == pytest.approx(plain, abs=1e-5)
    assert row.train_loss == pytest.approx(smooth, abs=1e-4)
    assert abs(plain - smooth) > 1e-3


def test_a_mixture_is_a_function_of_seed_and_step():
    states = []
    for noise in (0, 1):
        learner = small_images(mixup=0.4, cutmix=1.0)
        torch.manual_seed(noise)
        learner.fit(2)
        states.append(learner.model.state_dict())
    assert same_state(*states)


def test_each_batch_of_a_step_is_mixed_on_its_own():
    loss = Recorder()
    small_images(loss=loss, mixup=1.0, accumulate=2).fit(1)
    shares = {float(targets[targets > 0].min()) for targets in loss.targets[:4]}
    assert len(shares) == 4


@pytest.mark.parametrize("cache_features", [True, False])
def test_kept_features_are_of_images_that_are_not_mixed(photos: Path, cache_features: bool):
    loss = Recorder()
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(
        data, "test_efficientnet", weights=None, loss=loss, mixup=0.4, cutmix=1.0, progress=False
    )
    learner.freeze()
    learner.fine_tune(1, freeze_epochs=1, cache_features=cache_features)
    steps = len(data.train)
    frozen, unfrozen = loss.targets[:steps], loss.targets[steps + 1 : 2 * steps + 1]
    assert [is_mixed(t) for t in frozen] == [not cache_features] * steps
    assert all(map(is_mixed, unfrozen))


def test_mixtures_train():
    learner = tiny_learner(data=tiny_data(256), mixup=0.2, label_smoothing=0.1, dropout=0.0)
    learner.fit(8, 3e-2)
    assert learner.history.epochs[-1].valid["loss"] < 0.4
