"""`finetune export`."""

import json
from pathlib import Path

from finetune.cli import main


def test_an_exported_regression_says_that_it_gives_values(values_run: Path, tmp_path: Path) -> None:
    assert main(["export", str(values_run), "--output", str(tmp_path / "out")]) == 0
    description = json.loads((tmp_path / "out" / "model.json").read_text())
    assert description["formats"]["safetensors"]["output"] == "values"
    own = json.loads((values_run / "model" / "model.json").read_text())
    assert description["formats"] == own["formats"]
