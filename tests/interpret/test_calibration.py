"""Calibration: bins, the expected error, the diagram."""

import numpy as np
import pytest

from finetune.interpret.calibration import Calibration


def test_the_error_is_the_mean_gap_by_count() -> None:
    confidences = np.array([0.9, 0.9, 0.9, 0.6])
    calibration = Calibration.of(confidences, np.array([True, True, False, True]), bins=5)
    assert calibration.error == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.4)


def test_the_error_equals_that_of_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    scores = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 2
    targets = torch.randint(0, 4, (500,), generator=torch.Generator().manual_seed(1))
    probability, predicted = scores.softmax(1).max(1)
    calibration = Calibration.of(probability.numpy(), (predicted == targets).numpy(), bins=10)
    expected = multiclass_calibration_error(scores.softmax(1), targets, 4, n_bins=10)
    assert calibration.error == pytest.approx(float(expected), abs=1e-6)


def test_perfect_calibration_has_no_error() -> None:
    assert Calibration.of(np.full(4, 0.75), np.array([True, True, True, False])).error == 0


def test_the_table_and_the_diagram_leave_out_empty_bins() -> None:
    calibration = Calibration.of(np.array([0.55, 0.95]), np.array([False, True]), bins=10)
    assert "0.50 .. 0.60" in repr(calibration)
    assert "0.60 .. 0.70" not in repr(calibration)
    assert "expected calibration error 0.3000" in calibration._repr_html_()
    top, bottom = calibration.plot().axes
    assert [bar.get_height() for bar in top.patches] == [0.0, 1.0]
    assert len(bottom.patches) == 10
