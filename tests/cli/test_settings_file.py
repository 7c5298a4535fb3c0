"""Files of settings: bounded, and refused with the reason."""

from pathlib import Path

import pytest

from finetune.cli.mistakes import UsageError
from finetune.cli.settings_file import read_settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def test_keys_and_values(file: Path) -> None:
    file.write_text("epochs: 3\nmetrics: [accuracy, f1]\n")
    assert read_settings(file) == {"epochs": 3, "metrics": ["accuracy", "f1"]}


def test_a_few_aliases_are_fine(file: Path) -> None:
    file.write_text("epochs: &n 3\nfreeze_epochs: *n\n")
    assert read_settings(file) == {"epochs": 3, "freeze_epochs": 3}


def test_aliases_of_aliases_are_refused_before_they_take_the_memory(file: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 12):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    file.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"settings.yaml' is too large .* aliases stand for more"):
        read_settings(file)


def test_a_value_that_contains_itself_is_refused(file: Path) -> None:
    file.write_text("split: &a [*a]")
    with pytest.raises(UsageError, match="aliases stand for more"):
        read_settings(file)


def test_a_large_file_is_refused(file: Path) -> None:
    file.write_text("# " + "x" * 200_000)
    with pytest.raises(UsageError, match="it has more than 100,000 bytes"):
        read_settings(file)


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(UsageError, match="it has more than 100,000 bytes"):
        read_settings(Path("/dev/zero"))


def test_deep_nesting_is_refused(file: Path) -> None:
    file.write_text("split: " + "[" * 20_000 + "]" * 20_000)
    with pytest.raises(UsageError, match="nested too deeply"):
        read_settings(file)
