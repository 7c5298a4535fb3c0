"""A real JupyterLab: its server, and what a browser does in its page."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab whose files are those of the folder."""
    port = _free_port()
    settings = [
        f"--port={port}",
        "--no-browser",
        "--allow-root",
        "--LabApp.expose_app_in_browser=True",
        f"--ServerApp.root_dir={folder}",
    ]
    settings += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    settings += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class="]
    choices = folder / ".settings" / "@jupyterlab" / "notebook-extension"
    choices.mkdir(parents=True)
    # every cell is in the page, the ones out of sight too
    (choices / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    # no question about news in front of what is to be seen
    asks = choices.parent / "apputils-extension"
    asks.mkdir()
    (asks / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder / ".jupyter"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
    }
    log = (folder / "lab.log").open("w")
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
            raise RuntimeError((folder / "lab.log").read_text()[-2000:])
        yield address
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


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


def choose_theme(page: Any, theme: str) -> None:
    """theme: as the settings name it, such as "JupyterLab Dark"."""
    page.evaluate(
        "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme
    )
    is_light = str("Light" in theme).lower()
    page.locator(f"body[data-jp-theme-light='{is_light}']").wait_for(state="attached")
    page.locator("#jupyterlab-splash").wait_for(state="detached")
