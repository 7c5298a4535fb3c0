"""finetune serve in a real browser: images are dropped, chosen and pasted, several at once."""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, FLAGS, SCREENSHOTS, command_with_a_page
from PIL import Image
from support import write_photos

from finetune import ImageDataLoaders, vision_learner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}"),
]

DROP = """([name, data]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type: "image/jpeg"}));
    const options = {dataTransfer: transfer, bubbles: true, cancelable: true};
    document.querySelector(".drop").dispatchEvent(new DragEvent("drop", options));
}"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("serve") / "photos", per_class=16)


@pytest.fixture(scope="module")
def address(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a calibrated model."""
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8, valid_fraction=0.4)
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False)
    learner.probe(views=1)
    with pytest.warns(UserWarning, match="predictions are right"):
        learner.calibrate(coverage=0.9)
    model = tmp_path_factory.mktemp("serve") / "model"
    learner.export(model)
    with command_with_a_page("serve", model, "--megabytes", "1") as (address, process):
        yield address
    process.stdout.close()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


def wait_for_maps(page: Any, count: int) -> None:
    """Until so many images have their heat map, the last part of an answer."""
    page.wait_for_function(
        "count => document.querySelectorAll('.map img[src^=blob]').length === count", arg=count
    )


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("desk", 1280, "light"), ("phone", 390, "light"), ("dark", 1280, "dark")],
)
def test_images_are_answered_with_class_set_and_heat_map(
    address: str, photos: Path, browser: Any, tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    errors: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.get_by_text("3 classes: blue, green, red").wait_for()
    # chosen, several at once
    page.locator("input").set_input_files([photos / "red" / "000.jpg", photos / "blue" / "001.jpg"])
    headings = page.locator("article h2")
    wait_for_maps(page, 2)
    assert headings.all_inner_texts() == ["red", "blue"]
    first_set = page.locator("article .set").first.inner_text()
    assert first_set == "no other class is likely, which holds 90% of the time"
    # dropped: an image that is unlike all others
    strange = Image.effect_noise((64, 64), 90).convert("L").point(lambda value: 255 * (value > 120))
    strange.convert("RGB").save(tmp_path / "strange.jpg")
    data = base64.b64encode((tmp_path / "strange.jpg").read_bytes()).decode()
    page.evaluate(DROP, ["strange.jpg", data])
    wait_for_maps(page, 3)
    assert page.locator("article").first.locator(".unknown").is_visible()
    first_set = page.locator("article .set").first.inner_text()
    assert first_set == "how often such an answer is right is not known"
    assert not page.locator("article").last.locator(".unknown").is_visible()
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"serve_{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    loaded = "[...document.images].filter(i => i.closest('article')).every(i => i.naturalWidth > 0)"
    assert page.evaluate(loaded)
    assert errors == []
    assert all(url.startswith((address, "data:", f"blob:{address}")) for url in asked)
    page.close()


def test_what_is_no_image_is_said_and_the_others_are_answered(
    address: str, photos: Path, browser: Any, tmp_path: Path
) -> None:
    (tmp_path / "notes.jpg").write_text("hello")
    (tmp_path / "large.jpg").write_bytes(b"\0" * 2_000_000)
    page = browser.new_page()
    page.goto(address)
    files = [tmp_path / "notes.jpg", photos / "green" / "002.jpg", tmp_path / "large.jpg"]
    page.locator("input").set_input_files(files)
    wait_for_maps(page, 1)
    page.get_by_text("large.jpg: it is larger than 1 MB").wait_for()
    page.get_by_text("notes.jpg: this is no image of a kind").wait_for()
    assert page.locator("article h2").all_inner_texts() == ["green"]
    page.close()


def test_the_server_is_busy_with_several_at_once(address: str, photos: Path, browser: Any) -> None:
    pages = [browser.new_page() for _ in range(3)]
    files = sorted(photos.rglob("*.jpg"))[:12]
    for page in pages:
        page.goto(address)
        page.locator("input").set_input_files(files)
    for page in pages:
        wait_for_maps(page, 12)
        assert page.locator(".error").inner_text() == ""
        page.close()


def test_a_program_sends_a_form(address: str, photos: Path) -> None:
    """As curl -F does; a body that is too large is answered, too."""

    def post(content: bytes) -> Any:
        head = b'--x\r\ncontent-disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
        request = urllib.request.Request(
            f"{address}predict",
            head + content + b"\r\n--x--\r\n",
            {"content-type": "multipart/form-data; boundary=x"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    (row,) = post((photos / "red" / "003.jpg").read_bytes())["predictions"]
    assert row["label"] == "red"
    with pytest.raises(urllib.error.HTTPError, match="422"):
        post(b"hello")
    with pytest.raises(urllib.error.HTTPError, match="413"):
        post(b"\0" * 1_100_000)
