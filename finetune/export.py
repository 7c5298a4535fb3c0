"""Export: model, classes and preprocessing <-> a folder of safetensors and JSON."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn

FORMAT, VERSION = "finetune model", 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def write(
    folder: Path, model: nn.Module, description: dict[str, Any], *, overwrite: bool = False
) -> None:
    """Writes the weights and the description; the folder appears whole or not at all.

    Raises FileExistsError for a folder with something in it, unless it is to be overwritten.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise FileExistsError(f"{str(folder)!r} exists already; pass overwrite=True to replace it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir()
        save_model(model, str(temporary / WEIGHTS))
        text = json.dumps({"format": FORMAT, "version": VERSION, **description}, indent=2)
        (temporary / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        mode = (temporary / DESCRIPTION).stat().st_mode
        (temporary / WEIGHTS).chmod(mode)  # safetensors writes for the owner only
        if folder.exists():
            _check_is_export(folder)
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_is_export(folder: Path) -> None:
    """Only a folder that holds nothing but an exported model may be replaced."""
    others = sorted({entry.name for entry in folder.iterdir()} - {WEIGHTS, DESCRIPTION})
    if others:
        raise FileExistsError(
            f"{str(folder)!r} holds other files and stays: {', '.join(others[:3])}"
        )


def read_description(folder: Path) -> dict[str, Any]:
    """The description. Raises FileNotFoundError, or ValueError for what is no exported model."""
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{str(folder)!r} is no exported model: it has no {name}")
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
        load_model(model, str(folder / WEIGHTS))
    except Exception as error:  # safetensors raises its own types for damaged files
        raise ValueError(f"{str(folder / WEIGHTS)!r} can't be loaded: {error}") from error
