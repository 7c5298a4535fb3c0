"""The evaluation: means over examples, and no trace in the model."""

import pytest
import torch
from support import tiny_data, tiny_learner, tiny_pairs
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from finetune import DataLoaders, Learner


def test_evaluation_is_the_mean_over_examples_of_unequal_batches():
    pairs = tiny_pairs(10)
    data = DataLoaders(DataLoader(pairs, 4), DataLoader(pairs, 4), classes=["no", "yes"])

    def accuracy_by_hand(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float().mean()

    learner = tiny_learner(data=data, metrics=["accuracy", accuracy_by_hand])
    results = learner.validate()
    learner.model.eval()
    outputs = learner.model(pairs.tensors[0])
    loss = nn.functional.cross_entropy(outputs, pairs.tensors[1]).item()
    accuracy = (outputs.argmax(1) == pairs.tensors[1]).float().mean().item()
    assert results == pytest.approx(
        {"loss": loss, "accuracy": accuracy, "accuracy_by_hand": accuracy}
    )


def test_evaluation_starts_the_metrics_anew():
    learner = tiny_learner(metrics=["accuracy"])
    assert learner.validate() == learner.validate()


def test_evaluation_uses_no_dropout_and_moves_no_statistics():
    learner = tiny_learner()
    learner.model.train()
    before = learner.model[0][1].running_mean.clone()
    assert learner.validate() == learner.validate()
    assert learner.model.training
    assert torch.equal(before, learner.model[0][1].running_mean)


class Remembering(nn.Module):
    """Makes a table at its first call, as rotary position embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.table: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.ones(4) * 2
        return self.layer(inputs) * self.table


def test_a_model_that_remembers_tensors_trains_after_an_evaluation():
    model = nn.Sequential(Remembering(), nn.Linear(4, 2))
    learner = Learner(
        tiny_data(), model, loss=nn.functional.cross_entropy, device="cpu", progress=False
    )
    learner.validate()
    learner.fit(1)
    assert len(learner.history.steps) == 8


def test_a_collection_of_metrics_gives_its_own_names():
    both = MetricCollection({"top1": MulticlassAccuracy(2), "f1": MulticlassF1Score(2)})
    found = tiny_learner(metrics=both).validate()
    assert set(found) == {"loss", "top1", "f1"}
