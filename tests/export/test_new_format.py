"""An export format that the library does not have: weights as NumPy arrays.

It is here as it would be in a user's own file: nothing in the package knows of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from finetune import Learner
from finetune.export import ExportFormat, ModelDescription, register, registered_formats
from finetune.export.formats import _FORMATS
from finetune.export.served import ModelToExport


class NumpyArrays(ExportFormat):
    name: ClassVar[str] = "numpy"
    file: ClassVar[str] = "model.npz"
    has_ends: ClassVar[bool] = False

    def write(self, folder: Path, exported: ModelToExport) -> None:
        arrays = {name: value.cpu().numpy() for name, value in exported.model.state_dict().items()}
        np.savez(folder / self.file, **arrays)

    def introduction(self, description: ModelDescription) -> str:
        return f"From `{self.file}`, with NumPy alone; a layer's weights are under its name:"

    def usage(self, description: ModelDescription, source: str) -> str:
        return f'arrays = np.load("{self.file}")'


@pytest.fixture
def numpy_arrays() -> Iterator[ExportFormat]:
    yield register(NumpyArrays())
    del _FORMATS["numpy"]  # other tests count the formats


def test_it_is_written_described_and_replaced(
    numpy_arrays: ExportFormat, trained: Learner, tmp_path: Path
) -> None:
    assert registered_formats()[-1] is numpy_arrays
    folder = tmp_path / "model"
    trained.export(folder, ["numpy", "safetensors"])
    arrays = np.load(folder / "model.npz")
    for name, value in trained.model.state_dict().items():
        assert np.array_equal(arrays[name], value.cpu().numpy())
    card = (folder / "README.md").read_text()
    assert 'arrays = np.load("model.npz")' in card
    assert '"file": "model.npz"' in (folder / "model.json").read_text()
    trained.export(folder, overwrite=True)  # the folder holds nothing that is not ours
    assert not (folder / "model.npz").exists()


def test_a_name_that_nobody_registered_is_an_error(trained: Learner, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one of safetensors, onnx, .*, app, got 'numpy'"):
        trained.export(tmp_path / "model", "numpy")
