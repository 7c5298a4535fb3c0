"""The browser of the tests that look at pages, and where its screenshots go."""

import os
from pathlib import Path

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SCREENSHOTS = Path(os.environ.get("CI_ARTIFACTS", Path(__file__).parents[1] / "artifacts"))
