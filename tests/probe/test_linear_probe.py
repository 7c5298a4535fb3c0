"""The probe: an optimum, its strength chosen on training examples alone, in the features' unit."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.probe.linear_probe import fit_probe
from finetune.tasks import MultiLabel, Regression, SingleLabel, Task

NAMES = ("a", "b", "c")


def examples(count: int = 60, features: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features whose scales differ, and class numbers that depend on them."""
    drawer = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, features, generator=drawer) * torch.logspace(-1, 1, features)
    directions = torch.randn(features, 3, generator=drawer)
    noise = torch.randn(count, 3, generator=drawer)
    return rows + 3, ((rows / torch.logspace(-1, 1, features)) @ directions + noise).argmax(1)


def scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    variance = rows.var(dim=0, correction=0)
    scale = (variance + variance.mean()).sqrt()
    return (rows - rows.mean(dim=0)) / scale, scale


@pytest.mark.parametrize("count", [60, 6], ids=["many examples", "fewer examples than features"])
def test_softmax_regression_ends_where_the_gradient_is_zero(count: int):
    rows, targets = examples(count)
    probe = fit_probe(rows, targets, SingleLabel(), NAMES, folds=2)
    standardised, scale = scaled(rows)
    weight = (probe.weight * scale).requires_grad_()
    loss = F.cross_entropy(
        standardised @ weight.T + probe.bias + rows.mean(0) @ probe.weight.T, targets
    )
    penalised = loss + probe.strength / 2 * weight.square().sum()
    (gradient,) = torch.autograd.grad(penalised, weight)
    assert gradient.abs().max() < 1e-3


def test_ridge_regression_is_the_closed_form():
    rows, _ = examples()
    targets = (rows @ torch.linspace(-1, 1, 8) + 100)[:, None]
    probe = fit_probe(rows, targets, Regression(), ("price",))
    standardised, scale = scaled(rows)
    unit = targets.std(correction=0)
    covariance = standardised.T @ standardised / len(rows)
    right_side = standardised.T @ ((targets - targets.mean()) / unit) / len(rows)
    exact = torch.linalg.solve(covariance + probe.strength * torch.eye(8), right_side)
    torch.testing.assert_close(
        probe.weight, (exact * unit / scale[:, None]).T, rtol=1e-3, atol=1e-3
    )
    expected = (standardised @ exact) * unit + targets.mean()
    torch.testing.assert_close(probe.outputs(rows), expected, rtol=1e-4, atol=1e-2)


def test_several_labels_are_logistic_regressions_of_their_own():
    rows, classes = examples()
    targets = F.one_hot(classes, 3).float()
    probe = fit_probe(rows, targets, MultiLabel(), NAMES)
    alone = fit_probe(rows, targets[:, :1], MultiLabel(), NAMES[:1])
    if alone.strength == probe.strength:
        torch.testing.assert_close(probe.weight[:1], alone.weight, rtol=1e-2, atol=1e-2)
    standardised, scale = scaled(rows)
    weight = (probe.weight * scale).requires_grad_()
    outputs = standardised @ weight.T + probe.bias + rows.mean(0) @ probe.weight.T
    loss = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(1).mean()
    penalised = loss + probe.strength / 2 * weight.square().sum()
    (gradient,) = torch.autograd.grad(penalised, weight)
    assert gradient.abs().max() < 1e-3


def test_the_strength_has_the_smallest_held_out_loss():
    rows, targets = examples()
    probe = fit_probe(rows, targets, SingleLabel(), NAMES)
    best = min(probe.path, key=lambda row: row.loss)
    assert probe.strength == best.strength
    held_out_loss = float(F.cross_entropy(probe.held_out, targets))
    assert probe.loss == pytest.approx(held_out_loss, rel=1e-5)


def test_held_out_outputs_know_nothing_of_their_labels():
    rows, targets = examples()
    shuffled = targets[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    probe = fit_probe(rows, shuffled, SingleLabel(), NAMES)
    assert (probe.held_out.argmax(1) == shuffled).float().mean() < 0.6


def test_noise_gets_a_stronger_penalty_than_a_clear_signal():
    rows, targets = examples()
    shuffled = targets[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    clear = fit_probe(rows, targets, SingleLabel(), NAMES)
    noise = fit_probe(rows, shuffled, SingleLabel(), NAMES)
    assert noise.strength > clear.strength


def test_a_weight_of_two_is_an_example_that_is_there_twice():
    rows, targets = examples()
    weights = torch.ones(60)
    weights[:10] = 2
    weighted = fit_probe(rows, targets, SingleLabel(), NAMES, example_weights=weights)
    assert weighted.strength > 0
    standardised, scale = scaled(rows)
    weight = (weighted.weight * scale).requires_grad_()
    outputs = standardised @ weight.T + weighted.bias + rows.mean(0) @ weighted.weight.T
    twice = torch.cat([torch.arange(60), torch.arange(10)])
    loss = F.cross_entropy(outputs[twice], targets[twice])
    penalised = loss + weighted.strength / 2 * weight.square().sum()
    (gradient,) = torch.autograd.grad(penalised, weight)
    assert gradient.abs().max() < 1e-3


def test_the_same_call_gives_the_same_probe():
    rows, targets = examples()
    first = fit_probe(rows, targets, SingleLabel(), NAMES, seed=3)
    second = fit_probe(rows, targets, SingleLabel(), NAMES, seed=3)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.held_out, second.held_out)


def test_the_same_view_twice_changes_nothing():
    rows, targets = examples()
    once = fit_probe(rows, targets, SingleLabel(), NAMES)
    twice = fit_probe(torch.stack([rows, rows]), targets, SingleLabel(), NAMES)
    assert twice.strength == once.strength
    torch.testing.assert_close(twice.weight, once.weight, rtol=1e-2, atol=1e-2)


def test_the_scale_of_a_block_does_not_matter():
    rows, targets = examples()
    blocks = [3, 5]
    usual = fit_probe(rows, targets, SingleLabel(), NAMES, blocks=blocks)
    factors = torch.tensor([100.0] * 3 + [1.0] * 5)
    larger = fit_probe(rows * factors, targets, SingleLabel(), NAMES, blocks=blocks)
    torch.testing.assert_close(larger.weight * factors, usual.weight, rtol=1e-2, atol=1e-3)


def test_a_class_with_one_example_is_never_held_out():
    rows, targets = examples()
    targets = targets.clone()
    targets[targets == 2] = 0
    targets[7] = 2
    probe = fit_probe(rows, targets, SingleLabel(), NAMES)
    assert probe.was_held_out.logical_not().nonzero().flatten().tolist() == [7]
    assert bool(probe.weight.isfinite().all())


def test_a_feature_that_never_varies_does_no_harm():
    rows, targets = examples()
    rows = rows.clone()
    rows[:, 3] = 1e3
    probe = fit_probe(rows, targets, SingleLabel(), NAMES)
    assert bool(probe.outputs(rows).isfinite().all())


def test_nan_features_are_refused():
    rows, targets = examples()
    rows = rows.clone()
    rows[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit_probe(rows, targets, SingleLabel(), NAMES)


def test_a_task_without_a_convex_loss_says_what_to_define():
    rows, targets = examples()

    class Other(SingleLabel):
        name = "other"
        probe_losses = Task.probe_losses

    with pytest.raises(ValueError, match="define `probe_losses`"):
        fit_probe(rows, targets, Other(), NAMES)
