import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.images.preprocessing import Preprocessing
from finetune.export import ModelDescription
from finetune.export.recipes import read_source

RAW = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


@pytest.mark.parametrize("value_range", [12, 16, (0.0, 5000.0), None])
def test_the_code_reads_images_of_more_than_eight_bits_as_we_do(
    tiny_description: ModelDescription,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value_range: tuple[float, float] | int | None,
) -> None:
    description = replace(
        tiny_description, preprocessing=Preprocessing(8, value_range=value_range, **RAW)
    )
    # up to 4095, and in a guess by the image alone more
    white = 40_000 if value_range is None else 4095
    ramp = np.linspace(0, white, 100).astype(np.uint16).reshape(10, 10)
    Image.fromarray(ramp).save(tmp_path / "photo.jpg", format="TIFF")
    (tmp_path / "model.json").write_text(json.dumps(description.to_dict()))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(read_source(description), names)
    expected = description.preprocessing.inputs(["photo.jpg"], torch.device("cpu"))
    assert np.allclose(names["images"], expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(("value_range", "white"), [((-4.0, 9.0), 12), (None, 1)])
def test_the_code_reads_floats_as_we_do(
    tiny_description: ModelDescription,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value_range: tuple[float, float] | None,
    white: float,
) -> None:
    description = replace(
        tiny_description, preprocessing=Preprocessing(8, value_range=value_range, **RAW)
    )
    ramp = np.linspace(0, white, 100).astype(np.float32).reshape(10, 10)
    Image.fromarray(ramp).save(tmp_path / "photo.jpg", format="TIFF")
    (tmp_path / "model.json").write_text(json.dumps(description.to_dict()))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(read_source(description), names)
    expected = description.preprocessing.inputs(["photo.jpg"], torch.device("cpu"))
    assert np.allclose(names["images"], expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "uint8"])
@pytest.mark.parametrize("value_range", [((0, 3000), (9, 70), (-1, 1), (5, 9)), (0, 1), 16, None])
def test_the_code_reads_bands_as_we_do(
    tiny_description: ModelDescription,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value_range: Any,
    dtype: str,
) -> None:
    preprocessing = Preprocessing(8, channels=4, value_range=value_range)
    values = np.random.default_rng(0).random((12, 16, 4))
    if dtype != "float32":
        values = values * 255
    if dtype == "uint16":
        values[0, 0, 0] = 65535  # so that a guess by the image alone is 16 bits
    np.save(tmp_path / "photo.npy", values.astype(dtype))
    description = replace(tiny_description, preprocessing=preprocessing)
    (tmp_path / "model.json").write_text(json.dumps(description.to_dict()))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(read_source(description), names)
    inputs = preprocessing.inputs(["photo.npy"], torch.device("cpu"))
    mean, std = preprocessing.normalisation(torch.device("cpu"))
    expected = inputs * std.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1)
    assert np.allclose(names["images"], expected.numpy(), atol=1e-6)
