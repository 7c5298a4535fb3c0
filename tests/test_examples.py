"""The examples run, and the README's commands and code are understood."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from finetune import demo
from finetune.cli.entry import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_quickstart(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "examples" / "quickstart.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(tmp_path) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_notebook(notebook: Path, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    page = nbformat.read(notebook, 4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(page, timeout=900, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in page.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [output for output in outputs if output.get("name") == "stderr"] == []


@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_a_notebook_keeps_what_it_shows(notebook: Path) -> None:
    """Made by .docs/run_notebooks.py, from the first cell to the last."""
    page = json.loads(notebook.read_text())
    cells = [cell for cell in page["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    images = []
    for cell in cells:
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            images.append(output.get("data", {}).get("image/png", ""))
    sizes = [len(image) * 3 / 4 for image in images if image]  # base64 takes four letters for three
    assert sizes
    assert max(sizes) < 100_000
    assert "colab.research.google.com" in "".join(page["cells"][0]["source"])


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    assert demo.run(tmp_path)["accuracy"] >= 0.96
    images = {"predictions.png", "learning_rates.png"}
    assert images < {path.name for path in tmp_path.iterdir()}


def test_the_readmes_python_is_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)


def test_the_readmes_commands_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [line.split("#")[0] for line in lines if line.startswith("finetune ")]
    assert len(commands) >= 3
    monkeypatch.chdir(ROOT)  # where configs/ is
    for command in commands:
        name, *words = shlex.split(command)[1:]
        assert name in COMMANDS
        module = importlib.import_module(f"finetune.cli.{name.replace('-', '_')}")
        module.parser().parse(words)
