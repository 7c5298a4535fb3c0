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


def test_a_license_is_kept_by_a_later_export(values_run: Path, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert main(["export", str(values_run), "--output", first, "--license", "mit"]) == 0
    assert main(["export", first, "--output", second]) == 0
    assert "license: mit" in (tmp_path / "second" / "README.md").read_text()
