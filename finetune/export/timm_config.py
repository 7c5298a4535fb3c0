"""config.json: by which timm and transformers load the weights beside it, on their own."""

import json
import math
from pathlib import Path
from typing import Any

import timm

from finetune.data.images.preprocessing import Preprocessing
from finetune.export.description import ModelDescription
from finetune.files.replacing import write_text

CONFIG = "config.json"

_CROP_MODES = {"crop": "center", "squish": "squash", "pad": "border"}

_DIFFERENCES = {
    "crop": "the whole image is resized first and cropped then, by whole pixels",
    "pad": "the square is filled up with the mean colour instead of black",
}
"""In which step timm's transform differs from `presize`, by way of resizing."""


def write(folder: Path, description: ModelDescription, classifier: str) -> None:
    """Writes config.json. classifier: the name of the layer of timm's model that our head is."""
    content = config_of(description, classifier)
    write_text(folder / CONFIG, json.dumps(content, indent=2) + "\n")


def config_of(description: ModelDescription, classifier: str) -> dict[str, Any]:
    """What timm's config.json holds of a model; transformers reads the same file."""
    made, preprocessing = description.architecture, description.preprocessing
    (backbone,) = made.backbones
    original = timm.models.get_pretrained_cfg(backbone)
    assert original is not None  # as there is a classifier
    architecture, _, _ = backbone.partition(".")
    size = preprocessing.image_size
    assert isinstance(size, int)  # as there is a classifier
    content: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": made.classes,
        "label_names": list(description.classes),
        "problem_type": description.task.card.problem_type,
    }
    if original.fixed_input_size:
        content["model_args"] = {"img_size": size}
    content["pretrained_cfg"] = {
        "tag": "finetune",
        "custom_load": False,
        "input_size": [3, size, size],
        "fixed_input_size": original.fixed_input_size,
        "interpolation": "bilinear",
        "crop_pct": _crop_fraction(preprocessing),
        "crop_mode": _CROP_MODES[preprocessing.resize],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "num_classes": made.classes,
        "pool_size": None,
        "first_conv": original.first_conv,
        "classifier": classifier,
    }
    return content


def _crop_fraction(preprocessing: Preprocessing) -> float:
    """The fraction from which timm, which rounds down, gets the side of our presized square."""
    size, side = preprocessing.image_size, preprocessing.presized_size
    assert isinstance(size, int)
    assert isinstance(side, int)
    fraction = size / side
    if math.floor(size / fraction) < side:
        fraction = math.nextafter(fraction, 0)
    return fraction


def differences_in_words(description: ModelDescription) -> str:
    """In which steps timm and transformers prepare images in another way, as clauses."""
    preprocessing = description.preprocessing
    clauses = [
        "a JPEG is decoded in its full size",
        "transparent parts do not become white",
        "images of more than 8 bits are not scaled",
    ]
    if preprocessing.resize in _DIFFERENCES:
        clauses.insert(0, _DIFFERENCES[preprocessing.resize])
    *others, last = clauses
    return f"{', '.join(others)} and {last}"
