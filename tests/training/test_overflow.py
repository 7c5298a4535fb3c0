"""Float16 gradients that overflow: a run in which no weight moved says so."""

import pytest
import torch
from support import tiny_learner
from torch import Tensor, nn

from finetune import DivergenceError, Runtime


class Overflowing:
    """A loss that is finite, with gradients that are not in the first `steps` calls."""

    def __init__(self, steps: int) -> None:
        self.steps_left = steps

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(outputs, targets)
        if not torch.is_grad_enabled():
            return loss
        self.steps_left -= 1
        # the gradient of a root at 0 is infinite
        return loss + (loss * 0).sqrt() if self.steps_left >= 0 else loss


def half_precision(steps: int):  # type: ignore[no-untyped-def]
    return tiny_learner(loss=Overflowing(steps), runtime=Runtime("cpu", "fp16"), device=None)


def test_a_run_in_which_no_weight_moved_says_so() -> None:
    learner = half_precision(steps=100)
    before = [p.detach().clone() for p in learner.model.parameters()]
    with pytest.warns(UserWarning, match=r"no weight moved: .* all of 8 steps; .*precision='bf16'"):
        learner.fit(1, 1e-2)
    assert all(torch.equal(p, b) for p, b in zip(learner.model.parameters(), before, strict=True))


def test_the_first_steps_may_overflow() -> None:
    learner = half_precision(steps=12)
    learner.fit(2, 1e-2)
    assert len(learner.history.epochs) == 2


def test_gradients_that_no_scale_makes_finite_end_the_run() -> None:
    learner = half_precision(steps=100)
    with pytest.raises(DivergenceError, match=r"none of the last 8 steps .* no weight moved; pass"):
        learner.fit(10, 1e-2)
    assert len(learner.history.epochs) == 2  # the scale is 65536 / 2**16 after them
