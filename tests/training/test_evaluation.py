"""The evaluation: means over examples, and no trace in the model."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import sklearn.metrics
import torch
from support import tiny_data, tiny_learner, tiny_pairs
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassF1Score,
)

from finetune import DataLoaders, Learner, Runtime
from finetune.nested import main_output, tensors_in
from finetune.tasks import LossWeight


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


# --- the same, however examples are batched

CLASS_WEIGHTS = torch.tensor([1.0, 9.0])


class Rows(Dataset):
    """The tiny pairs with targets in another structure."""

    def __init__(self, structure: Callable[[Tensor], Any], count: int = 20) -> None:
        self.inputs, self.numbers = tiny_pairs(count).tensors
        self.structure = structure

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, number: int) -> tuple[Tensor, Any]:
        return self.inputs[number], self.structure(self.numbers[number])


def validated(
    batch_size: int, loss: Any, structure: Callable[[Tensor], Any] = lambda y: y, **options: Any
) -> dict[str, float]:
    rows = Rows(structure)
    data = DataLoaders(DataLoader(rows, 4), DataLoader(rows, batch_size), classes=["no", "yes"])
    return tiny_learner(data=data, loss=loss, precision="fp32", **options).validate()


def of_label(outputs: Tensor, targets: Any) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets["label"])


def weighted(outputs: Tensor, targets: Any) -> Tensor:
    losses = nn.functional.cross_entropy(outputs, targets[0], reduction="none")
    return (losses * targets[1]).mean()


@pytest.mark.parametrize(
    ("loss", "structure"),
    [
        (nn.CrossEntropyLoss(weight=CLASS_WEIGHTS), lambda y: y),
        (partial(nn.functional.cross_entropy, weight=CLASS_WEIGHTS), lambda y: y),
        (nn.CrossEntropyLoss(ignore_index=1), lambda y: y),
        (nn.CrossEntropyLoss(reduction="sum"), lambda y: y),
        (of_label, lambda y: {"label": y}),
        (weighted, lambda y: (y, y + 1.5)),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 7, 19])
def test_results_are_those_of_one_batch(loss: Any, structure: Any, batch_size: int):
    of_one_batch = validated(20, loss, structure, metrics="accuracy")
    assert validated(batch_size, loss, structure, metrics="accuracy") == pytest.approx(of_one_batch)


def test_a_loss_of_nothing_is_no_number_and_leaves_the_others_alone():
    ignoring = nn.CrossEntropyLoss(ignore_index=0)
    assert math.isnan(validated(4, ignoring, lambda y: y * 0)["loss"])


def test_a_function_sees_all_examples_at_once():
    sizes = []

    def spread(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        sizes.append((len(outputs), len(targets["label"])))
        return outputs.std()

    first = validated(3, of_label, lambda y: {"label": y}, metrics=spread)
    assert sizes == [(20, 20)]
    assert first == pytest.approx(validated(20, of_label, lambda y: {"label": y}, metrics=spread))


class Several(nn.Module):
    """A model with several outputs, in any structure."""

    def __init__(self, structure: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.structure = structure

    def forward(self, inputs: Tensor) -> Any:
        return self.structure(self.head(self.body(inputs)))


@pytest.mark.parametrize(
    "structure",
    [
        lambda logits: (logits, logits.sum()),
        lambda logits: {"logits": logits, "more": logits},
        lambda logits: {"out": (logits, [logits])},
    ],
)
def test_outputs_in_any_structure_reach_the_loss_in_float32_and_are_measured(structure: Any):
    seen = set()

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        seen.update(tensor.dtype for tensor in tensors_in(outputs))
        return nn.functional.cross_entropy(main_output(outputs), targets)

    learner = Learner(
        tiny_data(),
        Several(structure),
        loss=loss,
        metrics=["accuracy", "auroc", MulticlassAccuracy(2)],
        split=lambda model: [[model.body], [model.head]],
        runtime=Runtime("cpu", "bf16"),
        progress=False,
    )
    learner.fit(1, 1e-2)
    assert seen == {torch.float32}
    table = learner.predictions()
    assert table.accuracy == pytest.approx(learner.validate()["accuracy"])
    assert learner.predict(torch.zeros(4)).label in ("no", "yes")


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), nn.BCELoss()])
@pytest.mark.parametrize("batch_size", [2, 7, 60])
def test_one_output_is_a_logit_unless_the_loss_takes_probabilities(loss: Any, batch_size: int):
    inputs, numbers = tiny_pairs(60).tensors
    pairs = TensorDataset(inputs, numbers.float())
    torch.manual_seed(0)
    last = nn.Sigmoid() if isinstance(loss, nn.BCELoss) else nn.Identity()
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 1), nn.Flatten(0), last))
    metrics = {"auc": BinaryAUROC(), "share": BinaryAccuracy()}
    data = DataLoaders(DataLoader(pairs, 8), DataLoader(pairs, batch_size))
    learner = Learner(data, model, loss=loss, metrics=metrics, progress=False, precision="fp32")
    outputs = model(inputs).detach()
    scores = outputs if isinstance(loss, nn.BCELoss) else outputs.sigmoid()
    expected = {
        "auc": sklearn.metrics.roc_auc_score(numbers, scores),
        "share": float(((scores > 0.5) == numbers).float().mean()),
    }
    results = learner.validate()
    assert {name: results[name] for name in expected} == pytest.approx(expected)


def test_the_loss_of_kept_outputs_is_that_of_validation():
    learner = tiny_learner(loss=nn.CrossEntropyLoss(weight=CLASS_WEIGHTS))
    predictor = learner.predictor()
    assert predictor.evaluate(predictor.outputs())["loss"] == pytest.approx(
        learner.validate()["loss"]
    )


def test_weights_that_stay_on_an_accelerator_give_the_same(monkeypatch: pytest.MonkeyPatch):
    loss = nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, ignore_index=0)
    expected = validated(20, loss)
    of_batch = LossWeight.of_batch
    monkeypatch.setattr(
        LossWeight, "of_batch", lambda *arguments: torch.as_tensor(of_batch(*arguments))
    )
    assert validated(2, loss) == pytest.approx(expected)


def test_outputs_that_do_not_fit_the_classes_are_told_in_validation() -> None:
    learner = tiny_learner()
    learner.model[-1] = nn.Linear(4, 5)
    with pytest.raises(ValueError, match="the model has 5 outputs for 2 classes"):
        learner.validate()
