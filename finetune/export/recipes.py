"""Python for a model card: a model in each format, used without finetune."""

from typing import Any

from finetune.export import weights
from finetune.export.formats import FILES

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

_PARTS = """\
{imports}

{parts}
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


def usage(description: dict[str, Any], source: str) -> str:
    """The section that says how to read an image, and how to load each format that is there.

    source: Python that makes `backbone` and `head`.
    """
    parts = [
        "## Use\n\nRun in this folder. First read images, with Pillow and NumPy alone:",
        _block(read_source(description)),
    ]
    in_timm = weights.classifier_of(description) is not None
    for name in description["formats"]:
        said = _IN_TIMM if name == "safetensors" and in_timm else _INTRODUCTIONS[name]
        parts += [said, _block(load_source(name, description, source))]
    text, code = _RESULTS[description.get("task", "single_label")]
    parts += [text, _block(code)]
    if "safetensors" in description["formats"]:
        parts.append("With finetune, the whole of it, from anywhere:")
        parts.append(_block("from finetune import load_learner\n\n" + _FINETUNE))
    return "\n\n".join(parts)


_RESULTS = {
    "single_label": (
        "`probabilities` is [batch, classes], in the order of the classes:",
        'print(spec["classes"][probabilities[0].argmax()], probabilities[0].max())',
    ),
    "multi_label": (
        "`probabilities` is [batch, classes], in the order of the classes; an image has those "
        "above their thresholds:",
        'limits = spec.get("thresholds") or {}\n'
        'pairs = zip(spec["classes"], probabilities[0])\n'
        "print([name for name, p in pairs if p >= limits.get(name, 0.5)])",
    ),
    "regression": (
        "`probabilities` holds the values, [batch, targets], in the order of the targets:",
        'print(dict(zip(spec["classes"], probabilities[0].tolist())))',
    ),
}
_FINETUNE = 'load_learner("path/to/this/folder").predict("photo.jpg")'
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


def read_source(description: dict[str, Any]) -> str:
    """Python that defines `spec`, `read` and `images`, with Pillow and NumPy alone."""
    return _READ.replace("{resize}", _RESIZE[description["preprocessing"]["resize"]])


def load_source(name: str, description: dict[str, Any], source: str) -> str:
    """Python from `images` to `probabilities` for one format."""
    file = description["formats"][name]["file"]
    if name == "onnx":
        return _ONNX.format(file=file)
    if name == "torch_export":
        return _TORCH_EXPORT.format(file=file)
    run = _RUN.format(activation=_activation(description))
    if weights.classifier_of(description) is not None:
        return _TIMM.format(model=weights.timm_source(description, file)) + run
    imports, _, parts = source.partition("\n\n")
    return _PARTS.format(imports=_sorted(imports.splitlines()), parts=parts, file=file) + run


def _sorted(imports: list[str]) -> str:
    lines = {*imports, "import torch", "from safetensors.torch import load_model"}
    lines.add("from collections import OrderedDict")
    own = [line for line in lines if line.startswith(("from collections", "from functools"))]
    others = sorted(lines - set(own), key=lambda line: (line.startswith("from"), line))
    return "\n".join([*sorted(own), "", *others])


def _activation(description: dict[str, Any]) -> str:
    temperature = description.get("temperature", 1.0)
    scaled = "logits" if temperature == 1.0 else f"(logits / {temperature!r})"
    kinds = {"single_label": f"{scaled}.softmax(dim=1)", "multi_label": f"{scaled}.sigmoid()"}
    return kinds.get(description.get("task", "single_label"), scaled)


def _block(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"
