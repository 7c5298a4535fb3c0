"""finetune clean in a real browser: with the keyboard, with the mouse, on a phone, in the dark."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, FLAGS, SCREENSHOTS, command_with_a_page
from support import write_photos

from finetune.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe of photos of which some are in the folder of another colour."""
    folder = tmp_path_factory.mktemp("clean")
    photos = write_photos(folder / "photos", per_class=20)
    for number in (3, 11):
        red = photos / "red" / f"{number:03d}.jpg"
        red.rename(photos / "blue" / f"was_red_{number}.jpg")
    small = ["--model", "test_efficientnet", "--weights", "null", "--image-size", "32", "--probe"]
    small += ["--batch-size", "16"]
    assert main(["train", str(photos), *small, "--output", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def wait_for_image(page: Any, number: int) -> None:
    page.wait_for_function(
        "n => document.querySelector('.count')?.textContent.startsWith(`image ${n} of`)", arg=number
    )


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("desk", 1280, "light"), ("phone", 390, "light"), ("dark", 1280, "dark")],
)
def test_the_page_with_the_keyboard_and_with_the_mouse(
    run: Path, browser: Any, tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    file = tmp_path / "corrections.csv"
    errors: list[str] = []
    with command_with_a_page("clean", run, "--output", file) as (address, process):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: errors.append(message.text))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        wait_for_image(page, 1)
        SCREENSHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"clean_{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelector('img').naturalWidth") > 0
        first = page.locator(".name").inner_text()
        # the keyboard: the likelier class, keep, leave out, back and undo
        page.keyboard.press("l")
        wait_for_image(page, 2)
        page.keyboard.press("k")
        wait_for_image(page, 3)
        page.keyboard.press("x")
        wait_for_image(page, 4)
        assert [row["action"] for row in rows_of(file)] == ["relabel", "keep", "remove"]
        assert rows_of(file)[0]["image"] == first
        page.keyboard.press("Control+z")
        wait_for_image(page, 3)
        assert [row["action"] for row in rows_of(file)] == ["relabel", "keep"]
        page.keyboard.press("ArrowLeft")
        wait_for_image(page, 2)
        assert page.locator(".decided").inner_text() == "kept as it is"
        page.keyboard.press("c")
        page.keyboard.type("gren")
        page.keyboard.press("Enter")
        page.get_by_text("did you mean 'green'?").wait_for()
        page.keyboard.press("c")
        page.keyboard.type("green")
        page.keyboard.press("Enter")
        wait_for_image(page, 3)
        assert rows_of(file)[1]["new_label"] == "green"
        # the mouse; a click beside everything takes no key away
        page.mouse.click(width - 3, 3)
        page.keyboard.press("ArrowRight")
        wait_for_image(page, 4)
        page.keyboard.press("ArrowLeft")
        wait_for_image(page, 3)
        page.locator("button.keep").click()
        wait_for_image(page, 4)
        page.locator("button.remove").click()
        wait_for_image(page, 5)
        page.locator("button.undo").click()
        wait_for_image(page, 4)
        page.locator("input").fill("green")
        page.locator("form button").click()
        wait_for_image(page, 5)
        assert [row["action"] for row in rows_of(file)] == ["relabel", "relabel", "keep", "relabel"]
        # a page that is opened anew goes on where it was
        page.reload()
        wait_for_image(page, 5)
        while page.locator("button.next").is_enabled():
            page.keyboard.press("ArrowRight")
            page.wait_for_timeout(20)
        page.get_by_text("That was the last image").wait_for()
        page.screenshot(path=SCREENSHOTS / f"clean_end_{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()
    process.stdout.close()
    assert errors == []
    assert all(url.startswith((address, "data:")) for url in asked)


def test_ctrl_c_ends_it_and_says_how_to_go_on(run: Path, browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    with command_with_a_page("clean", run, "--output", file) as (address, process):
        page = browser.new_page()
        page.goto(address)
        wait_for_image(page, 1)
        page.keyboard.press("k")
        wait_for_image(page, 2)
    with process.stdout as stream:
        said = stream.read()
    assert "1 keep, 0 relabel, 0 remove" in said
    assert f"finetune train ... --corrections {file}" in said
    assert process.returncode == 0
    page.keyboard.press("k")
    page.get_by_text("finetune clean does not answer").wait_for()
    page.close()
