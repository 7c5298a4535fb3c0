"""Python code for a model card: how to use a model in each format without finetune."""

from finetune.data.images.value_range import Depth
from finetune.export.description import ModelDescription
from finetune.export.formats import formats_of

_RESIZE = {
    "crop": 'ImageOps.fit(image.convert("RGB"), (columns, rows), Image.Resampling.BILINEAR)',
    "pad": 'ImageOps.pad(image.convert("RGB"), (columns, rows), Image.Resampling.BILINEAR)',
    "squish": 'image.convert("RGB").resize((columns, rows), Image.Resampling.BILINEAR)',
}

_IN_COLOUR = '.convert("RGB")'
_TO_CHANNELS = "pixels.transpose(2, 0, 1)"
_RGB_TO_GREY = ("[3, height, width], RGB in", "[1, height, width], grey in")
"""What stands in the code for images in colour, and changes for others."""

_SPEC = """\
import json

import numpy as np
from PIL import Image, ImageOps

with open("model.json") as file:
    spec = json.load(file)
# one number is the side of a square, two are height and width
rows, columns = np.broadcast_to(spec["preprocessing"]["presized_side"], 2).tolist()
height, width = np.broadcast_to(spec["preprocessing"]["image_size"], 2).tolist()


"""

_READ = (
    _SPEC
    + '''\
def read(path):
    """float32 [3, height, width], RGB in [0, 1]."""
    image = Image.open(path)
    if image.format == "JPEG":
        enough = 2 * max(rows, columns)
        image.draft("RGB", (enough, enough))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(int)
        image = Image.fromarray(({eight_bits}).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = {resize}
    top, left = (rows - height) // 2, (columns - width) // 2
    pixels = np.array(image, dtype=np.float32)[top : top + height, left : left + width]
    return pixels.transpose(2, 0, 1) / np.float32(255)


images = np.stack([read("photo.jpg")])  # any number of images
'''
)

_READ_BANDS = (
    _SPEC
    + '''\
def read(path):
    """float32 [{channels}, height, width] in [0, 1], of a file with an array [H, W, {channels}]."""
    values = np.load(path)
    if values.dtype != np.uint8:
        values = ({eight_bits}).astype(np.uint8)
    bands = []
    for band in values.transpose(2, 0, 1):
        image = Image.fromarray(np.ascontiguousarray(band))
        bands.append(np.array({resize}, dtype=np.float32))
    top, left = (rows - height) // 2, (columns - width) // 2
    return np.stack(bands)[:, top : top + height, left : left + width] / np.float32(255)


images = np.stack([read("photo.npy")])  # any number of images
'''
)

_FINETUNE = """\
from finetune import load_learner

load_learner("{place}").predict("{photo}")
"""


def usage(description: ModelDescription, source: str, repository: str = "") -> str:
    """The section of a card that says how to read images and how to run each exported format.

    source: Python code that makes `backbone` and `head`. repository: of the model hub, if any.
    """
    here, place = "this folder", "path/to/this/folder"
    if repository:
        here = f"a copy of this repository (`hf download {repository} --local-dir model`)"
        place = f"hf-hub:{repository}"
    paragraphs = [
        f"## Use\n\nRun in {here}. First read images, with Pillow and NumPy alone:",
        _block(read_source(description)),
    ]
    for export_format in formats_of(description.formats):
        paragraphs.append(export_format.introduction(description))
        code = export_format.usage(description, source)
        if code:
            paragraphs.append(_block(code))
    card = description.task.card
    paragraphs += [card.results, _block(card.results_code)]
    coverage = description.post_processing.coverage
    if coverage is not None and card.coverage_code:
        paragraphs += [_coverage_in_words(coverage.share), _block(card.coverage_code)]
    if "safetensors" in description.formats:
        are_colours = description.preprocessing.channels in (1, 3)
        photo = "photo.jpg" if are_colours else "photo.npy"
        code = _FINETUNE.format(place=place, photo=photo)
        paragraphs += ["With finetune, the whole of it, from anywhere:", _block(code)]
    return "\n\n".join(paragraphs)


def _coverage_in_words(share: float) -> str:
    return (
        f"What holds the truth with a probability of {share:.4g}, for images that are drawn like "
        "those of validation (split conformal prediction: Vovk et al., 2005; Sadinle et al., 2019):"
    )


def read_source(description: ModelDescription) -> str:
    """Python code that defines `spec`, `read` and `images`, with Pillow and NumPy alone."""
    preprocessing = description.preprocessing
    source, resize = _READ, _RESIZE[preprocessing.resize]
    if preprocessing.channels == 1:
        resize = resize.replace(_IN_COLOUR, f'{_IN_COLOUR}.convert("L")')
        source = source.replace(_TO_CHANNELS, "pixels[None]").replace(*_RGB_TO_GREY)
    elif preprocessing.channels != 3:
        resize = resize.replace(f"image{_IN_COLOUR}", "image")
        source = _READ_BANDS.replace("{channels}", str(preprocessing.channels))
    source = source.replace("{resize}", resize)
    return source.replace("{eight_bits}", _eight_bits(preprocessing.value_range))


def _eight_bits(value_range: tuple[float, float] | Depth | None) -> str:
    """An expression for `values`, integers of more than 8 bits, in 8 bits; see `to_eight_bits`."""
    if isinstance(value_range, tuple):
        black, white = value_range
        return f"np.round(((values - {black}) / ({white} - {black})).clip(0, 1) * 255)"
    depth = 16 if value_range is None else value_range
    return f"values >> {max(depth - 8, 0)}"


def _block(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"
