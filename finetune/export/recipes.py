"""Python code for a model card: how to use a model in each format without finetune."""

from finetune.export import weights
from finetune.export.description import ModelDescription
from finetune.export.formats import FILES, Format

_RESIZE = {
    "crop": 'ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR)',
    "pad": 'ImageOps.pad(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR)',
    "squish": 'image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)',
}

_READ = '''\
import json

import numpy as np
from PIL import Image, ImageOps

with open("model.json") as file:
    spec = json.load(file)
side, size = spec["preprocessing"]["presized_side"], spec["preprocessing"]["image_size"]


def read(path):
    """float32 [3, size, size], RGB in [0, 1]."""
    image = Image.open(path)
    if image.format == "JPEG":
        image.draft("RGB", (2 * side, 2 * side))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(int) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = {resize}
    edge = (side - size) // 2
    pixels = np.array(image, dtype=np.float32)[edge : edge + size, edge : edge + size]
    return pixels.transpose(2, 0, 1) / np.float32(255)


images = np.stack([read("photo.jpg")])  # any number of images
'''

_TIMM = """\
import timm
import torch

model = {model}.eval()
"""

_BACKBONE_AND_HEAD = """\
{imports}

{construction}
model = nn.Sequential(OrderedDict(backbone=backbone, head=head)).eval()
load_model(model, "{file}")
"""

_RUN = """
mean, std = (torch.tensor(spec["preprocessing"][k]).view(3, 1, 1) for k in ("mean", "std"))
with torch.no_grad():
    logits = model((torch.from_numpy(images) - mean) / std)
probabilities = {activation}.numpy()
"""

_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
(probabilities,) = session.run(None, {{"images": images}})
"""

_TORCH_EXPORT = """\
import torch

program = torch.export.load("{file}").module()
with torch.no_grad():
    probabilities = program(torch.from_numpy(images)).numpy()
"""


_FINETUNE = """\
from finetune import load_learner

load_learner("path/to/this/folder").predict("photo.jpg")
"""

_STANDARD_LIBRARY = ("from collections", "from functools")

_IN_TIMM = (
    f"From `{FILES['safetensors']}`, with timm alone, in one line. The model takes normalised "
    "images and gives logits:"
)
_INTRODUCTIONS = {
    "safetensors": f"From `{FILES['safetensors']}`; the backbone's own library makes the backbone, "
    "torch the head. The model takes normalised images and gives logits:",
    "onnx": f"From `{FILES['onnx']}`, with ONNX Runtime; normalisation and probabilities are in "
    "the graph:",
    "torch_export": f"From `{FILES['torch_export']}`, with PyTorch alone, best in the release that "
    "wrote it (see Versions); normalisation and probabilities are in the graph:",
}


def usage(description: ModelDescription, source: str) -> str:
    """The section of a card that says how to read images and how to run each exported format.

    source: Python code that makes `backbone` and `head`.
    """
    paragraphs = [
        "## Use\n\nRun in this folder. First read images, with Pillow and NumPy alone:",
        _block(read_source(description)),
    ]
    loads_in_timm = weights.classifier_of(description.architecture) is not None
    for name in description.formats:
        introduction = _INTRODUCTIONS[name]
        if name == "safetensors" and loads_in_timm:
            introduction = _IN_TIMM
        paragraphs += [introduction, _block(load_source(name, description, source))]
    card = description.task.card
    paragraphs += [card.results, _block(card.results_code)]
    if "safetensors" in description.formats:
        paragraphs += ["With finetune, the whole of it, from anywhere:", _block(_FINETUNE)]
    return "\n\n".join(paragraphs)


def read_source(description: ModelDescription) -> str:
    """Python code that defines `spec`, `read` and `images`, with Pillow and NumPy alone."""
    return _READ.replace("{resize}", _RESIZE[description.preprocessing.resize])


def load_source(name: Format, description: ModelDescription, source: str) -> str:
    """Python code that goes from `images` to `probabilities` with one format."""
    file = FILES[name]
    if name == "onnx":
        return _ONNX.format(file=file)
    if name == "torch_export":
        return _TORCH_EXPORT.format(file=file)
    run = _RUN.format(activation=_activation(description))
    if weights.classifier_of(description.architecture) is not None:
        return _TIMM.format(model=weights.timm_source(description.architecture, file)) + run
    imports, _, construction = source.partition("\n\n")
    load = _BACKBONE_AND_HEAD.format(
        imports=_with_our_imports(imports.splitlines()), construction=construction, file=file
    )
    return load + run


def _with_our_imports(imports: list[str]) -> str:
    """The imports of the backbone's source and of the recipe, as a formatter sorts them."""
    lines = {
        *imports,
        "from collections import OrderedDict",
        "from safetensors.torch import load_model",
        "import torch",
    }
    standard_library = {line for line in lines if line.startswith(_STANDARD_LIBRARY)}
    third_party = lines - standard_library
    plain = {line for line in third_party if line.startswith("import ")}
    return "\n".join([*sorted(standard_library), "", *sorted(plain), *sorted(third_party - plain)])


def _activation(description: ModelDescription) -> str:
    """Python code that turns `logits` into probabilities, or into a regression's values."""
    temperature = description.post_processing.temperature
    logits = "logits"
    if temperature != 1:
        logits = f"(logits / {temperature!r})"
    return description.task.card.activation.format(logits=logits, temperature=temperature)


def _block(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"
