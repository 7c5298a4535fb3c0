"""report.html in a real browser: on a desk, on a phone, in the dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, FLAGS, SCREENSHOTS
from support import write_photos

from finetune.cli import main

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    long = "a_class_with_a_name_that_is_longer_than_a_phone_is_wide"
    photos = write_photos(folder / "photos", classes=("red", "blue"))
    (photos / "blue").rename(photos / long)
    small = ["--model", "test_efficientnet", "--weights", "null", "--image-size", "32"]
    command = ["train", photos, *small, "--batch-size", "8", "--epochs", "1"]
    assert main([*map(str, command), "--output", str(folder / "run")]) == 0
    return folder / "run" / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("desk", 1280, "light"), ("phone", 390, "light"), ("dark", 1280, "dark")],
)
def test_the_report_opens_from_disk(
    report: Path, browser: Any, name: str, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(report.as_uri())
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report_{name}.png", full_page=True)
    assert errors == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # no sideways scrolling
    shown = page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert shown
    assert page.locator("img").count() == 5
    colours = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    dark = "rgb(20, 23, 27)"
    assert (colours[0] == dark) == (scheme == "dark")
    assert colours[0] != colours[1]
    page.close()


@pytest.mark.slow
def test_figures_scroll_sideways_on_a_phone_and_say_so(report: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(report.as_uri())
    figure = page.locator("figure.wide").first
    says = "getComputedStyle(document.querySelector('figure.wide'), '::before').content"
    assert "scroll the figure sideways" in page.evaluate(says)
    scrolled = figure.locator(".scroll")
    widths = scrolled.evaluate("box => [box.clientWidth, box.scrollWidth]")
    assert widths[0] < widths[1]
    scrolled.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('figure.wide .scroll').scrollLeft > 100")
    desk = browser.new_page(viewport={"width": 1280, "height": 900})
    desk.goto(report.as_uri())
    assert desk.evaluate(says) in ("none", "normal")
    page.close()
    desk.close()
