"""The quickstart in a real JupyterLab in a real browser, from the first cell to the last."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, FLAGS, SCREENSHOTS
from lab import jupyterlab, run_all

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no chromium"),
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab whose files are the example notebooks, without their outputs."""
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        content = json.loads(notebook.read_text())
        for cell in content["cells"]:
            if cell["cell_type"] == "code":
                cell["execution_count"] = None
                cell["outputs"] = []
        (tmp_path / notebook.name).write_text(json.dumps(content))
    with jupyterlab(tmp_path) as address:
        yield address


@pytest.fixture
def page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser.new_page(viewport={"width": 1200, "height": 1000})
        browser.close()


def test_the_quickstart_runs_in_jupyterlab(lab: str, page: Any) -> None:
    import nbformat

    name = "01_quickstart.ipynb"
    cells = [c for c in nbformat.read(ROOT / "examples" / name, 4).cells if c.cell_type == "code"]
    run_all(page, lab, name, len(cells))

    SCREENSHOTS.mkdir(exist_ok=True)
    outputs = page.locator(".jp-Notebook .jp-CodeCell .jp-OutputArea")
    for i, output in enumerate(outputs.all()):
        if output.is_visible():  # that of a cell without any is not
            output.scroll_into_view_if_needed()
            output.screenshot(path=SCREENSHOTS / f"quickstart_{i + 1}.png")
    page.screenshot(path=SCREENSHOTS / "quickstart.png")

    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator(".jp-OutputArea img").count() >= 3
    tables = page.locator(".jp-OutputArea table")
    texts = [tables.nth(i).inner_text() for i in range(tables.count())]
    training = next(text for text in texts if "train loss" in text)
    assert len(re.findall(r"^(probe|unfrozen)\s", training, re.MULTILINE)) >= 4
    # the layer groups, which have no rates before the first fit
    assert any("body_1" in text and "parameters" in text for text in texts)
