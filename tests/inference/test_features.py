"""Pooled features, by example."""

from pathlib import Path

import pytest
import torch
from support import tiny_learner

from finetune import ImageDataLoaders, Learner, vision_learner
from finetune.inference.features import compute_features
from finetune.inference.reading import Reader
from finetune.models.evaluation_view import evaluation_view


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


def test_weights_before_the_first_fit_come_with_their_statistics(photos: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_resnet", weights=None, progress=False, norm="train")
    before = learner.features().values
    learner.fit(1, 1e-2)
    source = Reader(data, data.classes, data.task).open(learner.data.valid)
    model = evaluation_view(learner.model)
    now, then = (
        compute_features(model, source, learner.data, learner.runtime, weights=weights).values
        for weights in (None, learner.trainer.origin.weights())
    )
    assert torch.allclose(then, before, rtol=1e-2, atol=1e-4)
    assert not torch.allclose(now, before, rtol=1e-1, atol=1e-2)


def test_a_model_without_a_backbone_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"no submodule 'backbone'.*OrderedDict\(backbone"):
        tiny_learner().features()
