"""The documentation site in a real browser: on a desk and on a phone, light and dark, by search.

Its pages run when it is built, by `mkdocs build --strict -f .mkdocs.yml`, which comes first.
"""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, FLAGS, SCREENSHOTS

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site"
PAGES = sorted(page.parent.relative_to(SITE).as_posix() for page in SITE.rglob("index.html"))
WIDTHS = {"desk": 1280, "tablet": 800, "phone": 390}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PAGES, reason="the site is not built"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no chromium"),
]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A request is no news."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the site is served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_fits_the_screen_and_fetches_nothing_from_elsewhere(
    width: str, scheme: str, address: str, browser: Any
) -> None:
    page = browser.new_page(viewport={"width": WIDTHS[width], "height": 900}, color_scheme=scheme)
    problems: list[str] = []
    page.on("request", lambda it: problems.append(it.url) if _is_elsewhere(it.url, address) else 0)
    page.on("console", lambda it: problems.append(it.text) if it.type == "error" else 0)
    page.on("pageerror", lambda error: problems.append(str(error)))
    for name in PAGES:
        page.goto(f"{address}{name}/")
        too_wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if too_wide > 0:
            problems.append(f"{name} is {too_wide} pixels too wide")
        SCREENSHOTS.mkdir(exist_ok=True)
        file = f"site_{name.replace('/', '_').strip('.')}_{width}_{scheme}.png"
        page.screenshot(path=SCREENSHOTS / file)
    page.close()
    assert problems == []


def _is_elsewhere(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("lr_mult", "recipes/learning_rate/"),
        ("class imbalance", "recipes/uneven_classes/"),
        ("progressive resizing", "recipes/image_size/"),
    ],
)
def test_search_finds_what_people_call_it(
    words: str, place: str, address: str, browser: Any
) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    page.get_by_role("textbox", name="Search").click()
    page.keyboard.type(words)
    first = page.locator(".md-search-result__link").first
    first.wait_for(timeout=20_000)
    assert place in first.get_attribute("href")
    page.close()
