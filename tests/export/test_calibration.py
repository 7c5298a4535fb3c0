"""Temperature and priors in the weights of a linear layer, and out of them again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from finetune.export import ModelDescription, weights
from finetune.export.calibration import Calibration
from finetune.tasks import PostProcessing, SingleLabel

CALIBRATION = Calibration(1.7, (0.5, -0.25, 0.0))


def test_a_calibrated_layer_does_what_post_processing_does(
    tiny_description: ModelDescription,
) -> None:
    names = tiny_description.classes
    training = dict(zip(names, (0.2, 0.3, 0.5), strict=True))
    priors = SingleLabel().priors("uniform", training)
    settings = PostProcessing(temperature=1.7, priors=priors)
    calibration = Calibration.of(replace(tiny_description, post_processing=settings))
    layer, features = nn.Linear(4, 3), torch.randn(5, 4)
    weight, bias = calibration.put_into(layer.weight, layer.bias)
    expected = settings.shifted(layer(features), names) / 1.7
    torch.testing.assert_close(nn.functional.linear(features, weight, bias), expected)


def test_it_comes_out_again() -> None:
    weight, bias = torch.randn(3, 4), torch.randn(3)
    there_and_back = CALIBRATION.take_out_of(*CALIBRATION.put_into(weight, bias))
    torch.testing.assert_close(there_and_back, (weight, bias), rtol=1e-6, atol=1e-6)


def test_without_temperature_and_priors_not_a_bit_changes(
    tiny_description: ModelDescription,
) -> None:
    weight, bias = torch.randn(3, 4), torch.randn(3)
    calibrated = Calibration.of(tiny_description).put_into(weight, bias)
    assert calibrated[0] is weight
    assert calibrated[1] is bias


@pytest.mark.parametrize("calibration", [CALIBRATION, Calibration(), Calibration(0.3)])
def test_a_file_says_what_is_in_its_weights(tmp_path: Path, calibration: Calibration) -> None:
    def model() -> nn.Sequential:
        made = nn.Sequential()
        made.add_module("backbone", nn.Flatten())
        made.add_module("head", nn.Sequential(nn.Dropout(), nn.Linear(4, 3)))
        return made.eval()

    first, second = model(), model()
    weights.save(first, tmp_path / "w.safetensors", "fc", calibration)
    weights.load(second, tmp_path / "w.safetensors")
    features = torch.randn(5, 4)
    torch.testing.assert_close(first(features), second(features))
