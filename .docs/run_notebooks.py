"""Runs notebooks and keeps what they print and draw in them.

    python .docs/run_notebooks.py examples/*.ipynb

Each runs in an empty folder of its own, as for a reader who has just downloaded it.
"""

import base64
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image


def run(file: Path) -> None:
    """Runs a notebook and writes it with its outputs."""
    page = nbformat.read(file, 4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(page, timeout=900, kernel_name="python3", resources=place).execute()
    for cell in page.cells:
        _forget_when_and_where(cell)
    page.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(page, file)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def _forget_when_and_where(cell: NotebookNode) -> None:
    """Leaves out what differs in each run and tells a reader nothing."""
    cell.metadata = {}
    for output in cell.get("outputs", []):
        output.get("metadata", {}).clear()
        data = output.get("data", {})
        if "image/png" in data:
            data["image/png"] = _made_smaller(data["image/png"])


def _made_smaller(image: str) -> str:
    """A figure in 256 colours where that is smaller. image: PNG, in base64."""
    figure = Image.open(BytesIO(base64.b64decode(image)))
    # a smooth image has few bytes as it is, and a drawing with few colours
    few_colours = figure.quantize(256, Image.Quantize.FASTOCTREE)  # keeps what is transparent
    return min(map(_as_png, (figure, few_colours)), key=len)


def _as_png(image: Image.Image) -> str:
    stream = BytesIO()
    image.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
