"""A run folder: which files are in it, and whether a run may begin or go on there."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from finetune.callbacks.history import History
from finetune.cli.mistakes import absent
from finetune.config import TrainConfig

CONFIG, CHECKPOINT, BEST, MODEL = "config.yaml", "checkpoint.ckpt", "best.ckpt", "model"
HISTORY, STEPS, METRICS, REPORT = "history.csv", "steps.csv", "metrics.json", "report.html"


def resolved(config: TrainConfig) -> TrainConfig:
    """With whole paths, so that the saved settings mean the same anywhere on this machine."""

    def whole(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    is_file = config.weights not in (None, "pretrained")
    return replace(
        config,
        data=whole(config.data),
        csv=whole(config.csv),
        cache_folder=whole(config.cache_folder),
        weights=whole(config.weights) if is_file else config.weights,
    )


def claim(output: Path, config: TrainConfig) -> None:
    """The folder is new, empty, or holds the same run unfinished; else FileExistsError."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / CONFIG).is_file():
        raise FileExistsError(f"{str(output)!r} exists and is no run folder; give another --output")
    if not (output / CHECKPOINT).exists() and not (output / MODEL).exists():
        return  # it failed before it had anything to keep
    stored = read_config(output)
    free = ("output", "formats")  # of no account for what is trained
    differences = [k for k, v in asdict(config).items() if stored.get(k) != v and k not in free]
    if differences:
        raise FileExistsError(
            f"{str(output)!r} holds a run with other settings ({', '.join(differences)}); "
            "give another --output"
        )
    if (output / METRICS).exists():  # which is written last
        raise FileExistsError(f"{str(output)!r} holds this run, finished; give another --output")


def read_config(output: Path) -> dict[str, Any]:
    try:
        stored = yaml.safe_load((output / CONFIG).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{str(output / CONFIG)!r} is no valid YAML: {error}") from None
    if not isinstance(stored, dict):
        raise ValueError(f"{str(output / CONFIG)!r} holds no settings (key: value)")
    return stored


def write_config(output: Path, config: TrainConfig) -> None:
    output.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
    (output / CONFIG).write_text(text, encoding="utf-8")


def write_history(output: Path, history: History) -> None:
    if history.steps:
        history.write_csv(output / HISTORY)
        history.write_steps_csv(output / STEPS)


def settings_of(model: str | Path) -> dict[str, Any]:
    """Those of a run folder; none for another folder."""
    return read_config(Path(model)) if (Path(model) / CONFIG).is_file() else {}


def model_in(path: str | Path) -> Path:
    """The exported model's folder, for that folder itself or for a run folder."""
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(absent(path))
    if (folder / CONFIG).is_file() and not (folder / MODEL).is_dir():
        raise FileNotFoundError(
            f"{str(folder)!r} is a run that has not ended; its finetune train continues it"
        )
    return folder / MODEL if (folder / MODEL).is_dir() else folder
