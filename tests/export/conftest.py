"""A description to begin with; tests take `dataclasses.replace` to what they are about."""

import pytest

from finetune.data.images.preprocessing import Preprocessing
from finetune.export import ModelDescription
from finetune.models.classifier import Architecture
from finetune.tasks import PostProcessing, SingleLabel


@pytest.fixture(scope="session")
def tiny_description() -> ModelDescription:
    """Three classes, images of 8 pixels, weights only; of data and training nothing is known."""
    return ModelDescription(
        architecture=Architecture("test_resnet", classes=3, image_size=8),
        classes=("a", "b", "c"),
        task=SingleLabel(),
        preprocessing=Preprocessing(8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        post_processing=PostProcessing(),
        formats=("safetensors",),
    )
