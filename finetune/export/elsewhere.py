"""What a model card says of timm and transformers: how they open the folder, or why they can't."""

from finetune.export import timm_config
from finetune.export.description import ModelDescription
from finetune.export.weights import classifier_for
from finetune.models.torchvision_backbones import PREFIX as TORCHVISION_PREFIX

_OPEN = """\
from transformers import pipeline

pipeline("image-classification", model="{place}")("photo.jpg")
"""


def in_other_libraries(description: ModelDescription, repository: str = "") -> str:
    """The section on timm and transformers; empty where the weights are not exported.

    repository: of the model hub, if any.
    """
    if "safetensors" not in description.formats:
        return ""
    reason = _reason_against(description)
    if reason:
        return f"## In timm and transformers\n\nThey can't open this folder: {reason}."
    for_transformers = repository or "path/to/this/folder"
    for_timm = f"hf-hub:{repository}" if repository else f"local-dir:{for_transformers}"
    code = _OPEN.format(place=for_transformers)
    paragraphs = [
        f"## In timm and transformers\n\n`{timm_config.CONFIG}` is in their own format, for "
        f'`timm.create_model("{for_timm}", pretrained=True)` (timm 1.0.16 or newer) and for:',
        f"```python\n{code}```",
        "Images that are prepared as above give the same probabilities. Where these libraries "
        f"read the images themselves, {timm_config.differences_in_words(description)}.",
    ]
    left_out = _left_out(description)
    if left_out:
        paragraphs.append(f"They do not know {left_out}.")
    return "\n\n".join(paragraphs)


def _reason_against(description: ModelDescription) -> str:
    """Why neither of them can make the model, or an empty text."""
    if classifier_for(description) is not None:
        return ""
    made = description.architecture
    if len(made.backbones) > 1:
        return "their models have one backbone, and this one has several"
    if made.backbones[0].startswith(TORCHVISION_PREFIX):
        return "the backbone is of torchvision"
    if not description.task.card.problem_type:
        return f"they have no task like `{description.task.name}`"
    if made.head != "linear":
        return f'their classifier is one linear layer, and the head is of kind "{made.head}"'
    return "the classifier of timm's model is no such linear layer"


def _left_out(description: ModelDescription) -> str:
    settings, names = description.post_processing, []
    if settings.thresholds:
        names.append("the thresholds of the classes")
    if settings.coverage is not None:
        names.append("the sets that hold the truth")
    if settings.familiarity is not None:
        names.append("how strange an image is")
    return " and ".join(names)
