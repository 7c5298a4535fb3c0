"""Which layers of a model give the classes."""

import timm
import torch
from torch import nn

from finetune.models.classifier_layers import classifier_layers


def test_the_last_layer_of_a_head_gives_the_classes_and_nothing_before_it():
    model = nn.Module()
    model.body = nn.Linear(2, 2)
    model.classifier = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    assert classifier_layers(model) == [model.classifier[2]]


def test_a_classifier_put_in_later_is_found():
    with torch.device("meta"):
        model = timm.create_model("test_resnet")
        model.fc = nn.Linear(model.num_features, 7)
    assert classifier_layers(model) == [model.fc]


def test_a_classifier_for_distillation_is_found_beside_the_other():
    with torch.device("meta"):
        model = timm.create_model("deit_tiny_distilled_patch16_224")
    assert classifier_layers(model) == [model.head, model.head_dist]


def test_a_model_without_a_head_has_none():
    assert classifier_layers(nn.Sequential(nn.Linear(2, 2))) == []
