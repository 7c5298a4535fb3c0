"""CONTRIBUTING.md: its examples still fit the code and run, and its tables say what is there."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import run_python
from test_layers import FLOORS

import finetune
from finetune import Task

PACKAGE = Path(finetune.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")

FENCED_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
FINETUNE_IN_BASH = """set -euo pipefail
python() { "$PYTHON" "$@"; }
finetune() { python -c 'from finetune.cli import main; raise SystemExit(main())' "$@"; }
"""
ANOTHER_FINETUNE = """
import os, sys
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
for name in [name for name in sys.modules if name.partition(".")[0] == "finetune"]:
    del sys.modules[name]
import finetune
assert finetune.__file__.startswith(sys.argv[1])
"""


@dataclass(frozen=True, slots=True)
class Example:
    """A change of the package, and the scripts, (language, text), that use what it adds."""

    title: str
    diff: str
    scripts: tuple[tuple[str, str], ...]


def sections() -> dict[str, str]:
    """Title -> text of each section."""
    _, *parts = re.split(r"^## (.+)\n", TEXT, flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def examples() -> list[Example]:
    """The sections with a diff."""
    found = []
    for title, text in sections().items():
        blocks = FENCED_BLOCK.findall(text)
        diff = "".join(content for language, content in blocks if language == "diff")
        scripts = tuple(block for block in blocks if block[0] in ("python", "bash"))
        if diff:
            found.append(Example(title, diff, scripts))
    return found


def first_column(title: str) -> list[list[str]]:
    """The names in backticks in the first cell of each row of a section's first table."""
    table = re.search(r"(?:^\|.*\n)+", sections()[title], re.M)
    assert table is not None, f"the section {title!r} has no table"
    _, _, *rows = table[0].splitlines()
    return [re.findall(r"`(\w+)`", row.split("|")[1]) for row in rows]


def apply_diff(example: Example, folder: Path) -> None:
    """Applies the example's diff to the package in this folder."""
    # git would leave out what lies outside of a repository that it finds above
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    applied = subprocess.run(
        ["git", "apply", "--verbose"],
        cwd=folder,
        env=environment,
        input=example.diff,
        capture_output=True,
        text=True,
    )
    assert applied.returncode == 0, (
        f"the example {example.title!r} in CONTRIBUTING.md no longer fits the code: "
        f"{applied.stderr}"
    )


def run_script(language: str, text: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a script with the package in this folder."""
    if language == "python":
        return run_python(ANOTHER_FINETUNE + text, folder)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHON": sys.executable}
    command = ["bash", "-c", FINETUNE_IN_BASH + text]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.title)
def test_an_example_fits_the_code_and_runs(example: Example, tmp_path: Path) -> None:
    assert example.scripts, f"nothing uses what the diff of {example.title!r} adds"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "finetune", ignore=ignored)
    apply_diff(example, tmp_path)
    for language, text in example.scripts:
        done = run_script(language, text, tmp_path)
        assert done.returncode == 0, (
            f"the example {example.title!r} in CONTRIBUTING.md fails: {done.stderr}"
        )


def test_the_examples_are_found() -> None:
    titles = {example.title for example in examples()}
    assert {"Add a metric", "Add an augmentation", "Add a command"} <= titles


def test_the_table_of_floors_is_the_one_that_imports_are_checked_with() -> None:
    assert [set(rooms) for rooms in first_column("The floors")] == list(FLOORS)


def test_the_table_of_a_task_names_the_methods_that_it_must_have() -> None:
    named = [name for (name,) in first_column("Add a task")]
    assert sorted(named) == sorted(Task.__abstractmethods__)


def test_the_files_that_it_names_exist() -> None:
    prose = FENCED_BLOCK.sub("", TEXT)
    paths = re.findall(r"`((?:finetune|tests|\.github|\.ci)/[^`\s]*)`", prose)
    assert len(paths) > 20
    # NAME stands for what a reader chooses
    missing = [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]
    assert missing == []
