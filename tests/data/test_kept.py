"""KeptBatches: what was computed once is there for the next who asks, up to a limit."""

import pytest
import torch

from finetune.data import kept
from finetune.data.kept import KeptBatches
from finetune.data.loaders import Batch


def batch(numbers: int) -> Batch:
    return Batch(torch.zeros(numbers), torch.zeros(0))


def test_what_is_kept_is_found_under_its_key_alone():
    batches = KeptBatches()
    first = batch(3)
    batches.put("a", first)
    assert batches.get("a") is first
    assert batches.get("b") is None


def test_the_one_that_was_not_asked_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept, "memory_bytes", lambda: 16 * 4 * 25)  # room for 25 numbers
    batches = KeptBatches()
    batches.put("a", batch(10))
    batches.put("b", batch(10))
    batches.get("a")
    batches.put("c", batch(10))
    assert batches.get("b") is None
    assert batches.get("a") is not None
    assert batches.get("c") is not None


def test_what_is_larger_than_the_room_is_not_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept, "memory_bytes", lambda: 16 * 4 * 25)
    batches = KeptBatches()
    batches.put("a", batch(10))
    batches.put("large", batch(30))
    assert batches.get("large") is None
    assert batches.get("a") is not None
