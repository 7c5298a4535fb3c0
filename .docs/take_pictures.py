"""Takes the README's pictures: a cell that trains in JupyterLab, light and dark.

    python .docs/take_pictures.py PHOTOS

PHOTOS has train/ and validation/, with a folder for each class, as has
https://github.com/alexeygrigorev/clothing-dataset-small, of which the README's pictures are.
Needs Chromium, `pip install -e '.[test]'`, and a minute.
"""

import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import CHROMIUM, FLAGS  # noqa: E402
from lab import choose_theme, jupyterlab, run_all  # noqa: E402

PER_CLASS = 110  # photos to train on; the README says how many that are
CELL = """\
from finetune import ImageDataLoaders, vision_learner

data = ImageDataLoaders.from_folder(
    "clothing", train="train", valid="validation", image_size=128
)
learner = vision_learner(data, "tf_efficientnet_lite0")
learner.fine_tune(1)
learner.show_results(12)\
"""


def prepare(photos: Path, folder: Path) -> None:
    """Fills the folder with the notebook, and the photos that it asks for."""
    for name in sorted(path.name for path in (photos / "train").iterdir()):
        place = folder / "clothing" / "train" / name
        place.mkdir(parents=True)
        for file in sorted((photos / "train" / name).iterdir())[:PER_CLASS]:
            (place / file.name).symlink_to(file)
    (folder / "clothing" / "validation").symlink_to(photos / "validation")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "clothing.ipynb")


def take(page: Any, theme: str, file: Path) -> None:
    """Takes a picture of the first cell, without what JupyterLab offers for it."""
    choose_theme(page, f"JupyterLab {theme.capitalize()}")
    page.add_style_tag(
        content=".jp-Collapser, .jp-cell-toolbar { visibility: hidden } .jp-Cell { outline: none }"
    )
    cell = page.locator(".jp-Notebook .jp-Cell").first
    image = Image.open(BytesIO(cell.screenshot()))
    image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3).save(
        file, optimize=True
    )
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def main(photos: Path) -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        prepare(photos, folder)
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        # a narrow page drawn large: GitHub shows the picture smaller than it is
        page = browser.new_page(viewport={"width": 880, "height": 1000}, device_scale_factor=1.3)
        with jupyterlab(folder) as address:
            run_all(page, address, "clothing.ipynb", 1)
            page.keyboard.press("Control+b")  # closes the list of files
            for theme in ("light", "dark"):
                take(page, theme, ROOT / ".github" / "images" / f"training_{theme}.png")
        browser.close()


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(Path(sys.argv[1]).resolve())
