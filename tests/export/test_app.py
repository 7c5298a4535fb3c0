"""The exported demo: its files, and that it answers from the folder alone."""

import runpy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import CHROMIUM, FLAGS, server_of

from finetune import ImageDataLoaders, load_learner, vision_learner
from finetune.web import listening


@pytest.fixture(scope="module")
def demo(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False)
    folder = tmp_path_factory.mktemp("app") / "demo"
    learner.export(folder, "app")
    return folder


def test_the_folder_is_what_a_host_of_demos_wants(demo: Path) -> None:
    names = {path.name for path in demo.iterdir()}
    assert names >= {"app.py", "requirements.txt", "Dockerfile", "model.safetensors", "README.md"}
    wanted = f"finetune-vision[serve]=={version('finetune-vision')}\n"
    assert (demo / "requirements.txt").read_text() == wanted
    card = (demo / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["sdk"], front["app_port"]) == ("docker", 7860)
    assert "`app.py` is a demo in a browser" in card
    assert load_learner(demo).classes == ("blue", "green", "red")


def test_app_py_listens_where_it_is_told(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def open_socket(host: str, port: int) -> Any:
        asked.append((host, port))
        raise OSError("enough")

    monkeypatch.setattr(listening, "open_socket", open_socket)
    for host, port in ((None, None), ("0.0.0.0", "80")):
        for name, value in (("HOST", host), ("PORT", port)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        with pytest.raises(OSError, match="enough"):
            runpy.run_path(str(demo / "app.py"), run_name="__main__")
    assert asked == [("127.0.0.1", 7860), ("0.0.0.0", 80)]


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}")
def test_the_demo_runs_in_a_browser(
    demo: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    monkeypatch.setenv("PORT", "0")
    with server_of(demo / "app.py") as (address, process), sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page()
        page.goto(address)
        page.locator("input").set_input_files(photos / "red" / "000.jpg")
        page.locator("article .classes li").first.wait_for()
        assert page.locator("article h2").inner_text() in ("blue", "green", "red")
        browser.close()
    process.stdout.close()
