"""Python code for a model card: how to use a model in each format without finetune."""

from finetune.data.images.preprocessing import Preprocessing
from finetune.data.images.value_range import has_windows
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


def eight_bits(values):
{eight_bits}


"""

_WINDOWED = '''\
    """uint8, of values between black and white: a pair for all channels, or one for each."""
    if values.dtype == np.uint8:
        return values
    black, white = np.transpose(spec["preprocessing"]["value_range"])
    shares = (values.astype(float) - black) / (white - black)
    return np.round(shares.clip(0, 1) * 255).astype(np.uint8)\
'''

_UPPER_BITS = '''\
    """uint8, of whole numbers of {bits} bits, or of floats in [0, 1]."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f":
        return np.round(values * 255).astype(np.uint8)
    return (values >> {surplus_bits}).astype(np.uint8)\
'''

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
    if image.mode[0] in "IF":
        image = Image.fromarray(eight_bits(np.asarray(image)))
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
    bands = []
    for band in eight_bits(np.load(path)).transpose(2, 0, 1):
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
        photo = "photo.npy" if _are_arrays(description.preprocessing) else "photo.jpg"
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
    if _are_arrays(preprocessing):
        resize = resize.replace(f"image{_IN_COLOUR}", "image")
        source = _READ_BANDS.replace("{channels}", str(preprocessing.channels))
    elif preprocessing.channels == 1:
        resize = resize.replace(_IN_COLOUR, f'{_IN_COLOUR}.convert("L")')
        source = source.replace(_TO_CHANNELS, "pixels[None]").replace(*_RGB_TO_GREY)
    source = source.replace("{resize}", resize)
    return source.replace("{eight_bits}", _eight_bits(preprocessing))


def _are_arrays(preprocessing: Preprocessing) -> bool:
    """Whether the images are arrays of other channels than files of photos have, or of more bits.

    Pillow reads no more than 8 bits of a file of several channels.
    """
    return preprocessing.channels not in (1, 3) or has_windows(preprocessing.value_range)


def _eight_bits(preprocessing: Preprocessing) -> str:
    """The body of a function that makes `values` uint8, as `to_eight_bits` does."""
    value_range = preprocessing.value_range
    if isinstance(value_range, tuple):
        return _WINDOWED
    bits = 16 if value_range is None else value_range
    return _UPPER_BITS.format(bits=bits, surplus_bits=max(bits - 8, 0))


def _block(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"
