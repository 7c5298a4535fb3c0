"""What the losses of torch are means over: batches add up to the loss of the whole."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.tasks import LossWeight, batch_loss

EXAMPLES, CLASSES = 23, 3
WEIGHTS = torch.tensor([1.0, 5.0, 20.0])


def draw(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape)))


LOGITS = draw(EXAMPLES, CLASSES) * 4
NUMBERS = torch.arange(EXAMPLES) ** 2 % CLASSES
SOME_IGNORED = NUMBERS.where(torch.arange(EXAMPLES) > 7, -100)
SHARES = LOGITS.flip(0).softmax(1)
MAPS = draw(EXAMPLES, CLASSES, 4, 4)
PIXELS = (draw(EXAMPLES, 4, 4) * CLASSES).long().where(MAPS[:, 0] > 0.3, 255)
YES = (draw(EXAMPLES, CLASSES) > 0.5).float()

LOSSES: dict[str, tuple[Any, Tensor, Tensor]] = {
    "cross-entropy": (F.cross_entropy, LOGITS, NUMBERS),
    "cross-entropy, default index ignored": (F.cross_entropy, LOGITS, SOME_IGNORED),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHTS), LOGITS, NUMBERS),
    "class weights and ignored": (nn.CrossEntropyLoss(weight=WEIGHTS), LOGITS, SOME_IGNORED),
    "class ignored": (nn.CrossEntropyLoss(ignore_index=1), LOGITS, NUMBERS),
    "partial": (partial(F.cross_entropy, weight=WEIGHTS, ignore_index=0), LOGITS, NUMBERS),
    "smoothed": (nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.2), LOGITS, SOME_IGNORED),
    "probabilities": (nn.CrossEntropyLoss(weight=WEIGHTS), LOGITS, SHARES),
    "pixels": (nn.CrossEntropyLoss(weight=WEIGHTS, ignore_index=255), MAPS, PIXELS),
    "negative log-likelihood": (nn.NLLLoss(weight=WEIGHTS), LOGITS.log_softmax(1), SOME_IGNORED),
    "sum": (nn.CrossEntropyLoss(weight=WEIGHTS, reduction="sum"), LOGITS, NUMBERS),
    "sum of squares": (partial(F.mse_loss, reduction="sum"), LOGITS, YES),
    "squares": (nn.MSELoss(), LOGITS, YES),
    "absolute": (F.l1_loss, LOGITS, YES),
    "Huber": (nn.HuberLoss(), LOGITS, YES),
    "smooth absolute": (nn.SmoothL1Loss(), LOGITS, YES),
    "yes or no": (nn.BCEWithLogitsLoss(weight=WEIGHTS, pos_weight=WEIGHTS), LOGITS, YES),
    "yes or no of probabilities": (nn.BCELoss(), SHARES, YES),
    "margin": (nn.MultiMarginLoss(weight=WEIGHTS), LOGITS, NUMBERS),
    "soft margin": (nn.MultiLabelSoftMarginLoss(weight=WEIGHTS), LOGITS, YES),
    "divergence": (nn.KLDivLoss(reduction="batchmean"), LOGITS.log_softmax(1), SHARES),
    "Poisson": (nn.PoissonNLLLoss(), LOGITS, YES),
}


@pytest.mark.parametrize("size", [1, 5, 8, 23])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_batches_add_up_to_the_loss_of_the_whole(name: str, size: int) -> None:
    loss, outputs, targets = LOSSES[name]
    weight = LossWeight.of(loss)
    loss_sum, weight_sum = torch.zeros(()), torch.zeros(())
    for rows in torch.split(torch.arange(EXAMPLES), size):
        batch_weight = torch.as_tensor(weight.of_batch(targets[rows], len(rows)))
        if batch_weight > 0:
            value = loss(outputs[rows], targets[rows])
            loss_sum += value if weight.is_sum else value * batch_weight
        weight_sum += batch_weight
    total = loss_sum if weight.is_sum else loss_sum / weight_sum
    assert float(total) == pytest.approx(float(loss(outputs, targets)), rel=1e-5)


@pytest.mark.parametrize(
    "loss", [nn.MSELoss(reduction="none"), partial(F.mse_loss, reduction="none")]
)
def test_loss_of_each_example_is_refused(loss: Any) -> None:
    with pytest.raises(ValueError, match=r"reduction='none'.*pass reduction='mean'"):
        LossWeight.of(loss)


def test_subclass_with_a_forward_of_its_own_counts_by_examples() -> None:
    class Focal(nn.CrossEntropyLoss):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(outputs, targets, reduction="none").square().mean()

    assert LossWeight.of(Focal(weight=WEIGHTS)).of_batch(NUMBERS, EXAMPLES) == EXAMPLES


def test_loss_that_gives_several_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one number for a batch, got a tensor \[23\]"):
        batch_loss(lambda outputs, targets: outputs[:, 0], LOGITS, NUMBERS)
    with pytest.raises(TypeError, match="the loss must give a tensor, got float"):
        batch_loss(lambda outputs, targets: 1.0, LOGITS, NUMBERS)


def test_loss_of_one_number_may_have_a_dimension() -> None:
    assert batch_loss(lambda outputs, targets: outputs[:1, 0], LOGITS, NUMBERS).ndim == 0


def test_class_number_without_an_output_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"from 0 to 1, .*2 outputs, and the targets go from 0 to 2"
    ):
        batch_loss(nn.CrossEntropyLoss(), LOGITS[:, :2], torch.tensor([0, 1, 2] * 7 + [0, 0]))
