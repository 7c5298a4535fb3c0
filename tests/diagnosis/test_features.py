"""Pooled features, by example."""

from pathlib import Path

import pytest
import torch
from support import tiny_learner

from finetune import Learner


def test_features_are_what_the_head_sees(trained: Learner) -> None:
    found = trained.features()
    assert len(found) == len(found.items) == len(found.targets) == len(trained.data.valid_examples)
    trained.model.eval()
    with torch.no_grad():
        logits = trained.model.head(found.values)
    expected = trained.predictions().probabilities
    assert logits.softmax(1).numpy() == pytest.approx(expected, abs=1e-2)
    assert repr(found) == f"Features({len(found)} examples, {found.values.shape[1]} features)"


def test_features_of_training_are_named_by_file(trained: Learner) -> None:
    found = trained.features(trained.data.train)
    classes = [trained.data.classes[i] for i in found.targets.tolist()]
    assert [Path(item).parent.name for item in found.items] == classes


def test_a_model_without_a_backbone_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"no submodule 'backbone'.*OrderedDict\(backbone"):
        tiny_learner().features()
