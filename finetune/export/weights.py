"""model.safetensors: a model's weights, under timm's names if timm's model can take them."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from finetune.export import timm_config
from finetune.export.calibration import Calibration
from finetune.export.description import ModelDescription
from finetune.export.formats import DESCRIPTION, FEATURES, WEIGHTS, ExportFormat
from finetune.export.served import ModelToExport
from finetune.image_size import ImageSize, height_and_width, is_square
from finetune.models.classifier import Architecture
from finetune.models.torchvision_backbones import PREFIX as TORCHVISION_PREFIX
from finetune.randomness import generator, isolated

_CLASSIFIER = "timm_classifier"

_TIMM = """\
import timm
import torch

model = timm.create_model("local-dir:.", pretrained=True).eval()
"""

_UNCALIBRATED = """
logits = logits * {temperature!r}{shift}  # as they were before calibration"""

_BACKBONE_AND_HEAD = """\
{imports}

{construction}
model = nn.Sequential(OrderedDict(backbone=backbone, head=head)).eval()
load_model(model, "{file}")
"""

_RUN = """
mean, std = (torch.tensor(spec["preprocessing"][k]).view(-1, 1, 1) for k in ("mean", "std"))
normalised = (torch.from_numpy(images) - mean) / std
with torch.no_grad():
    logits = model(normalised)
{shift}probabilities = {activation}.numpy()
"""

_SHIFT = """\
shift = spec["post_processing"]["priors"]["shift"]
shift = torch.tensor([shift[name] for name in spec["classes"]])
"""

_UNKNOWN = """
# the share of validation images that are less strange; above 0.95 an image is unknown
from safetensors.torch import load_file

known, score = spec["post_processing"]["familiarity"], 0
{measures}
highest = known["count"] / (known["count"] + 1)
unknown = np.interp(score, known["quantiles"], np.linspace(0, highest, len(known["quantiles"])))
"""

_ENERGY = """\
energy = {energy}
score = score + (energy - known["energy"]["mean"]) / known["energy"]["spread"]"""

_DISTANCE = """\
with torch.no_grad():
    features = {features}
features = torch.nn.functional.normalize(features, dim=1)
distance = 1 - (features @ load_file("{file}")["features"].float().T).amax(dim=1)
score = score + (distance - known["distance"]["mean"]) / known["distance"]["spread"]"""

_STANDARD_LIBRARY = ("from collections", "from functools")


class Safetensors(ExportFormat):
    name: ClassVar[str] = "safetensors"
    file: ClassVar[str] = WEIGHTS
    more_files: ClassVar[tuple[str, ...]] = (timm_config.CONFIG,)
    has_ends: ClassVar[bool] = False

    def write(self, folder: Path, exported: ModelToExport) -> None:
        file = folder / self.file
        description = exported.description
        classifier = classifier_for(description)
        save(exported.model, file, classifier, Calibration.of(description))
        if classifier is not None:
            timm_config.write(folder, description, classifier)
        # safetensors writes for the owner only
        file.chmod((folder / DESCRIPTION).stat().st_mode)

    def introduction(self, description: ModelDescription) -> str:
        if classifier_for(description) is None:
            made_by = "; the backbone's own library makes the backbone, torch the head"
        else:
            made_by = f" and `{timm_config.CONFIG}`, with timm alone, in one line"
        return f"From `{self.file}`{made_by}. The model takes normalised images and gives logits:"

    def usage(self, description: ModelDescription, source: str) -> str:
        if classifier_for(description) is not None:
            return _usage_in_timm(description)
        has_priors = description.post_processing.priors is not None
        shift = _SHIFT if has_priors else ""
        run = _RUN.format(activation=_activation(description), shift=shift)
        imports, _, construction = source.partition("\n\n")
        load = _BACKBONE_AND_HEAD.format(
            imports=_with_our_imports(imports.splitlines()),
            construction=construction,
            file=self.file,
        )
        return load + run + _unknown(description, "model.backbone(normalised)")


def _usage_in_timm(description: ModelDescription) -> str:
    """Python code that runs timm's model, whose classifier is calibrated."""
    activation = description.task.card.activation.format(logits="logits", temperature=1)
    features = "model.forward_head(model.forward_features(normalised), pre_logits=True)"
    unknown = _unknown(description, features)
    calibration = Calibration.of(description)
    if unknown and not calibration.is_none:
        shift = ""
        if calibration.shift:
            shift = f" - torch.tensor({list(calibration.shift)})"
        raw = _UNCALIBRATED.format(temperature=calibration.temperature, shift=shift)
        unknown = raw + unknown
    return _TIMM + _RUN.format(activation=activation, shift="") + unknown


def save(
    model: nn.Module,
    file: Path,
    classifier: str | None = None,
    calibration: Calibration = Calibration(),  # noqa: B008  # it is frozen
) -> None:
    """Writes the weights of a model to a file.

    classifier: the name that timm has for our head, see `classifier_of`; the weights then get
    timm's names, and the calibration is part of the head's. None: they have ours, as they are.
    """
    if classifier is None:
        save_model(model, str(file))
        return
    state = {}
    for name, value in model.state_dict().items():
        # timm needs a tied weight under each of its names, which safetensors refuses to write from
        # the same memory
        copied = value.cpu().clone(memory_format=torch.contiguous_format)
        state[_to_timm(name, classifier)] = copied
    _change_layer(state, classifier, calibration.put_into)
    metadata = {"format": "pt", _CLASSIFIER: classifier, **calibration.to_metadata()}
    save_file(state, str(file), metadata)
    _sort_metadata(file)


def _sort_metadata(file: Path) -> None:
    """Puts the texts in the header of a safetensors file in order.

    safetensors writes them in a random one, and equal weights should be equal files.
    """
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        # the tensors behind it stay where they are; the format allows spaces at its end
        assert len(content) <= length
        stream.seek(8)
        stream.write(content.ljust(length))


def load(model: nn.Module, file: Path) -> None:
    """Loads weights that `save` wrote; errors of safetensors and torch are not translated."""
    with safe_open(str(file), framework="pt") as opened:
        metadata = opened.metadata() or {}
    classifier = metadata.get(_CLASSIFIER)
    if classifier is None:
        load_model(model, str(file))
        return
    state = load_file(str(file))
    _change_layer(state, classifier, Calibration.from_metadata(metadata).take_out_of)
    model.load_state_dict({_to_ours(name, classifier): value for name, value in state.items()})


def classifier_for(description: ModelDescription) -> str | None:
    """As `classifier_of`, but None, too, where what follows the logits is unknown outside."""
    if not description.task.card.problem_type:
        return None
    return classifier_of(description.architecture)


def classifier_of(made: Architecture) -> str | None:
    """The name of the layer of timm's model, such as "fc", that our head is; None if it is none.

    Our head is timm's classifier if it is a Linear layer without a scale and reads the same
    features, those of one backbone.
    """
    if made.head != "linear" or made.scaled or not isinstance(made.backbone, str):
        return None
    if made.backbone.startswith(TORCHVISION_PREFIX):
        return None
    if not is_square(made.image_size):  # timm crops both sides by one fraction, rounded down
        return None
    if made.channels != 3:  # timm and transformers read colours
        return None
    return _classifier(made.backbone, made.classes, made.image_size)


def _change_layer(
    state: dict[str, Tensor],
    layer: str,
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> None:
    weight, bias = f"{layer}.weight", f"{layer}.bias"
    state[weight], state[bias] = change(state[weight], state[bias])


@cache
def _classifier(backbone: str, classes: int, image_size: ImageSize) -> str | None:
    """The name of timm's classifier if it is a Linear layer that reads the backbone's features.

    To find out, a model with the classifier and one without it run on the same images, with the
    same random weights.
    """
    options = _options(backbone, image_size)
    shape = (2, 3, *height_and_width(image_size))
    images = torch.rand(shape, generator=generator(0, "export"))
    with isolated(), torch.no_grad():
        whole: Any = timm.create_model(backbone, num_classes=classes, **options).eval()
        headless = timm.create_model(backbone, num_classes=0, **options).eval()
        name = whole.pretrained_cfg.get("classifier")
        # a distilled model has two classifiers, and no single name
        if not isinstance(name, str):
            return None
        classifier = dict(whole.named_modules()).get(name)
        if not isinstance(classifier, nn.Linear):
            return None
        # some models begin with zeros, so that any two outputs would be equal
        nn.init.normal_(classifier.weight)
        try:
            missing, unexpected = whole.load_state_dict(headless.state_dict(), strict=False)
            expected = classifier(headless(images))
            outputs = whole(images)
        except RuntimeError:  # shapes do not fit: other layers are between features and classifier
            return None
    if unexpected or set(missing) != {f"{name}.weight", f"{name}.bias"}:
        return None
    tolerance = 1e-4 * float(expected.abs().max())
    if not torch.allclose(expected, outputs, rtol=0, atol=tolerance):
        return None
    return name


def _options(backbone: str, image_size: ImageSize) -> dict[str, Any]:
    """Options of `timm.create_model`, the same as for our backbone.

    A model that is built for one image size is built for this one.
    """
    config = timm.models.get_pretrained_cfg(backbone)
    if config is None or not config.fixed_input_size or config.input_size[-1] == image_size:
        return {}
    return {"img_size": image_size}


def _to_timm(name: str, classifier: str) -> str:
    """backbone.conv1.weight -> conv1.weight, head.1.weight -> fc.weight"""
    module, _, name_in_module = name.partition(".")
    if module == "backbone":
        return name_in_module
    _, _, parameter = name_in_module.partition(".")
    return f"{classifier}.{parameter}"


def _to_ours(name: str, classifier: str) -> str:
    """conv1.weight -> backbone.conv1.weight, fc.weight -> head.1.weight"""
    layer, _, parameter = name.rpartition(".")
    if layer == classifier:
        return f"head.1.{parameter}"
    return f"backbone.{name}"


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
    if description.post_processing.priors is not None:
        logits = f"({logits} + shift)"
    return description.task.card.activation.format(logits=logits, temperature=temperature)


def _unknown(description: ModelDescription, features: str) -> str:
    """Python code that tells how strange images are, behind `_RUN`; empty where nothing tells it.

    features: Python that makes the backbone's features of `normalised`.
    """
    familiarity, energy = description.post_processing.familiarity, description.task.card.energy
    if familiarity is None or (familiarity.energy is not None and not energy):
        return ""
    measures = []
    if familiarity.energy is not None:
        measures.append(_ENERGY.format(energy=energy))
    if familiarity.distance is not None:
        measures.append(_DISTANCE.format(features=features, file=FEATURES))
    return _UNKNOWN.format(measures="\n".join(measures))
