"""What metrics make of targets in other units, and of those of another task."""

import pytest
import torch
from sklearn import metrics as sklearn_metrics
from test_metrics import CPU, LOGITS, value_for

from finetune.metrics import create_metrics


@pytest.mark.parametrize(
    ("scale", "shift"), [(1, 0), (1e-2, 0), (1e-6, 0), (1e-12, 0), (1e6, 0), (1e-2, 100), (1, 1e5)]
)
def test_r2_does_not_depend_on_the_unit(scale: float, shift: float) -> None:
    noise = torch.Generator().manual_seed(0)
    targets = torch.randn(40, 2, generator=noise) * scale + shift
    outputs = targets + torch.randn(40, 2, generator=noise) * scale / 3
    expected = sklearn_metrics.r2_score(targets.double().numpy(), outputs.double().numpy())
    assert value_for("regression", "r2", outputs, targets) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("off", "expected"), [(0.0, 1), (1e-3, 0)])
def test_r2_of_a_target_that_is_always_the_same(off: float, expected: float) -> None:
    targets = torch.full((7, 1), 0.1)
    assert value_for("regression", "r2", targets + off, targets) == expected


@pytest.mark.parametrize("name", ["accuracy", "f1", "auroc"])
@pytest.mark.parametrize(
    "targets", [torch.zeros(4, 3), torch.zeros(4, 3).long(), torch.tensor([0.0, 1, 1, 2])]
)
def test_targets_of_another_task_are_refused(name: str, targets: torch.Tensor) -> None:
    metric = create_metrics([name], 3, CPU)[name]
    with pytest.raises(ValueError, match=r"needs class numbers \[B\] as targets, .*'multi_label'"):
        metric.update(LOGITS[:4], targets)


def test_class_numbers_may_be_of_every_pixel() -> None:
    metric = create_metrics(["accuracy"], 3, CPU)["accuracy"]
    metric.update(torch.eye(3)[None].repeat(2, 1, 1), torch.tensor([[0, 1, 2], [0, 1, 0]]))
    assert float(metric.compute()) == pytest.approx(5 / 6)
