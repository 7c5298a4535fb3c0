"""rewrite: an exported model once more, in other formats."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from finetune import export
from finetune.export import LabelledImages
from finetune.export.card import model_card


def rewrite(
    source: Path,
    target: Path,
    formats: str | Sequence[str],
    *,
    license: str | None = None,
    repository: str = "",
    images: LabelledImages | None = None,
    onnx_opset: int | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the model of one folder into another, in these formats, with a card.

    license: None is the one that it has already. repository: where on the model hub it goes, if
    anywhere. images, onnx_opset: see `write`. Raises as `write` and `read_description`.
    """
    names = export.check_formats(formats)
    description = replace(export.read_description(source), formats=names)
    if license is not None:
        description = replace(description, license=license)
    model = description.architecture.build(weights=None)
    export.read_weights(source, model)
    card = None
    # models of the first version have no record of their training, without which there is no card
    if description.training is not None:
        card = partial(model_card, source=model.source(), repository=repository)
    export.write(
        target,
        model.eval(),
        description,
        card=card,
        images=images,
        onnx_opset=onnx_opset,
        overwrite=overwrite,
    )
