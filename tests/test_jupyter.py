"""The quickstart in a real JupyterLab in a real browser, from the first cell to the last."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, FLAGS, SCREENSHOTS

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no chromium"),
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


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
    port = free_port()
    settings = [
        f"--port={port}",
        "--no-browser",
        "--allow-root",
        f"--ServerApp.root_dir={tmp_path}",
    ]
    settings += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    settings += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class="]
    choices = tmp_path / ".settings" / "@jupyterlab" / "notebook-extension"
    choices.mkdir(parents=True)
    # every cell is in the page, the ones out of sight too
    (choices / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    # no question about news in front of what is to be seen
    asks = choices.parent / "apputils-extension"
    asks.mkdir()
    (asks / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(tmp_path / ".jupyter"),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / ".settings"),
    }
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *settings], stdout=log, stderr=log, env=environment
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=5)
                break
            except OSError:
                time.sleep(1)
        else:
            pytest.fail((tmp_path / "lab.log").read_text()[-2000:])
        yield address
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@pytest.fixture
def page() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser.new_page(viewport={"width": 1200, "height": 1000})
        browser.close()


def run_all(page: Any, address: str, notebook: str, cells: int) -> None:
    """Runs every cell and waits until the last one has its number."""
    page.goto(f"{address}/lab/tree/{notebook}?reset", timeout=120_000)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=120_000)
    page.get_by_text("| Idle").wait_for(timeout=120_000)  # before, Run asks for a kernel
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        """count => {
            const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')];
            const done = prompts.filter(p => /\\[\\d+\\]:/.test(p.innerText));
            return done.length >= count;
        }""",
        arg=cells,
        timeout=600_000,
    )


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
