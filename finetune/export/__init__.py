"""Export: a model <-> a folder that needs no finetune: weights or graphs, JSON, a model card."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from finetune.export import graphs, placing, weights
from finetune.export.formats import (
    CARD,
    DESCRIPTION,
    FILES,
    WEIGHTS,
    Format,
    check_formats,
    describe_formats,
)

__all__ = [
    "Format",
    "check_formats",
    "describe_formats",
    "read_description",
    "read_weights",
    "write",
]

FORMAT, VERSION = "finetune model", 3


def write(
    folder: Path,
    model: nn.Module,
    description: dict[str, Any],
    *,
    formats: Sequence[Format] = ("safetensors",),
    card: str = "",
    overwrite: bool = False,
) -> None:
    """Writes model, description and card; the folder appears whole or not at all.

    card: the text of its README.md; empty: none. Raises FileExistsError for a folder with something
    in it, unless it is an exported model that is to be overwritten; what is not ours is never
    removed. A link to a folder stays, a mount point is filled.
    """
    folder = folder.resolve()
    placing.check_free(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = placing.temporary_for(folder)
    try:
        temporary.mkdir()
        text = json.dumps({"format": FORMAT, "version": VERSION, **description}, indent=2)
        (temporary / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        if card:
            (temporary / CARD).write_text(card, encoding="utf-8", errors="backslashreplace")
        if "safetensors" in formats:
            weights.save(model, temporary / WEIGHTS, weights.classifier_of(description))
            mode = (temporary / DESCRIPTION).stat().st_mode
            (temporary / WEIGHTS).chmod(mode)  # safetensors writes for the owner only
        graphs.write(temporary, model, description, formats)
        placing.check_free(folder, overwrite)  # minutes may have passed
        placing.place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_description(folder: Path) -> dict[str, Any]:
    """The description. Raises FileNotFoundError, or ValueError for what is no exported model."""
    if not (folder / DESCRIPTION).is_file():
        raise FileNotFoundError(f"{str(folder)!r} is no exported model: it has no {DESCRIPTION}")
    if not (folder / WEIGHTS).is_file():
        there = [name for name, file in FILES.items() if (folder / file).is_file()]
        hint = f"; it was exported as {' and '.join(there)} without 'safetensors'" if there else ""
        raise FileNotFoundError(f"{str(folder)!r} is no exported model: it has no {WEIGHTS}{hint}")
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(folder / DESCRIPTION)!r} is not valid JSON: {error}") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(f"{str(folder / DESCRIPTION)!r} does not describe a finetune model")
    if description["version"] > VERSION:
        raise ValueError(
            f"{str(folder)!r} has format version {description['version']}, this finetune reads "
            f"up to {VERSION}; update finetune"
        )
    return description


def read_weights(folder: Path, model: nn.Module) -> None:
    """Loads the weights into the model. Raises ValueError if they are damaged or of another one."""
    try:
        weights.load(model, folder / WEIGHTS)
    except Exception as error:  # safetensors raises its own types for damaged files
        raise ValueError(f"{str(folder / WEIGHTS)!r} can't be loaded: {error}") from error
