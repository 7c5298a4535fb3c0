"""OpenVINO reads our ONNX graphs as they are, the smaller ones, too."""

from pathlib import Path

import numpy as np
import pytest

from finetune import Learner
from finetune.export.formats import FormatName

openvino = pytest.importorskip("openvino")
TOLERANCES: dict[FormatName, float] = {"onnx": 1e-4, "onnx_fp16": 0.01, "onnx_int8": 0.15}
FILES = {"onnx": "model.onnx", "onnx_fp16": "model.fp16.onnx", "onnx_int8": "model.int8.onnx"}


@pytest.mark.slow
def test_openvino_gives_our_probabilities(trained: Learner, tmp_path: Path) -> None:
    trained.export(tmp_path / "model", list(TOLERANCES))
    predictor = trained.predictor()
    inputs, _ = next(predictor.labelled_images().batches())
    mean, std = trained.data.preprocessing.normalisation(inputs.device)
    pixels = (inputs * std.view(3, 1, 1) + mean.view(3, 1, 1)).numpy()
    expected = predictor.probabilities(trained.data.valid_examples.items)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    for name, tolerance in TOLERANCES.items():
        compiled = openvino.Core().compile_model(tmp_path / "model" / FILES[name], "CPU", options)
        found = compiled({"images": pixels})[0]
        np.testing.assert_allclose(found, expected, atol=tolerance, err_msg=name)
