"""A run folder: the names of its files, and whether a run may begin or continue in it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from finetune.callbacks.history import History
from finetune.cli.mistakes import absent
from finetune.cli.settings_file import read_settings
from finetune.config import TrainConfig
from finetune.export import hub
from finetune.export.formats import DESCRIPTION
from finetune.files import locks
from finetune.files.replacing import is_temporary, write_text
from finetune.files.storage import is_remote

CONFIG = "config.yaml"
CHECKPOINT = "checkpoint.ckpt"
BEST = "best.ckpt"
MODEL = "model"
HISTORY = "history.csv"
STEPS = "steps.csv"
METRICS = "metrics.json"
REPORT = "report.html"
LOCK = ".finetune.lock"

MODEL_IN_WORDS = "run folder, folder of an exported model, or hf-hub:user/name"
"""What commands take for a trained model, see `model_in`."""

_NOT_COMPARED = frozenset({"output", "formats", "adjust_priors", "tune_thresholds", "coverage"})
"""Settings that do not change what is trained, so that a run may continue with other values."""


def resolved(config: TrainConfig) -> TrainConfig:
    """The settings with absolute paths, which mean the same from any folder of this machine."""
    weights = config.weights
    if isinstance(weights, list):
        weights = [_absolute_weights(of_model) for of_model in weights]
    elif isinstance(weights, dict):
        weights = {name: _absolute_weights(of_model) for name, of_model in weights.items()}
    else:
        weights = _absolute_weights(weights)
    return replace(
        config,
        data=_absolute(config.data),
        csv=_absolute(config.csv),
        shards=_absolute(config.shards),
        valid=config.valid if config.shards is None else _absolute(config.valid),
        corrections=_absolute(config.corrections),
        cache_folder=_absolute(config.cache_folder),
        weights=weights,
    )


def _absolute_weights(weights: str | None) -> str | None:
    return weights if weights == "pretrained" else _absolute(weights)


def _absolute(path: str | None) -> str | None:
    if path is None or is_remote(path):
        return path
    return str(Path(path).expanduser().absolute())


@contextmanager
def claimed(output: Path, config: TrainConfig) -> Iterator[None]:
    """Holds the folder for one run, and leaves it again; new folders without content are removed.

    Raises InUseError where another run is in it, and FileExistsError unless a run may begin or
    continue in it, see `check_free`.
    """
    if output.exists() and not output.is_dir():
        raise _no_run_folder(output)
    # innermost first
    new_folders = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(locks.held(output / LOCK, repr(str(output))))
            except OSError as error:
                # that a run is finished can be said of a folder that can't be written, too
                if locks.is_unwritable(error):
                    check_free(output, config)
                raise
            check_free(output, config)
            yield
    finally:
        for folder in new_folders:
            with suppress(OSError):
                folder.rmdir()


def check_free(output: Path, config: TrainConfig) -> None:
    """Raises FileExistsError unless a run may begin or continue in this folder.

    It may if the folder is new or empty, or holds an unfinished run with the same settings.
    """
    if _is_new_or_empty(output):
        return
    if not (output / CONFIG).is_file():
        raise _no_run_folder(output)
    has_trained = (output / CHECKPOINT).exists() or (output / MODEL).exists()
    if not has_trained:
        # the run failed at once, so that nothing can be lost
        return
    differences = _differences(read_config(output), config)
    if differences:
        raise FileExistsError(
            f"{str(output)!r} holds a run with other settings ({', '.join(differences)}); "
            "give another --output"
        )
    if is_finished(output):
        raise FileExistsError(f"{str(output)!r} holds this run, finished; give another --output")


def is_finished(output: Path) -> bool:
    """Whether all that a run writes is there. The metrics, written last, say that it was.

    What is missing is made by the same command again: a run whose report was deleted, and one whose
    metrics are the half of a file that an earlier version left on a full disk.
    """
    try:
        metrics = json.loads((output / METRICS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    is_whole = isinstance(metrics, dict) and "validation" in metrics
    return is_whole and (output / REPORT).is_file() and (output / MODEL / DESCRIPTION).is_file()


def _no_run_folder(output: Path) -> FileExistsError:
    return FileExistsError(f"{str(output)!r} exists and is no run folder; give another --output")


def _is_new_or_empty(folder: Path) -> bool:
    """Whether there is nothing in the folder but what a killed command has left of itself."""
    if not folder.exists():
        return True
    names = [entry.name for entry in folder.iterdir()]
    return all(name == LOCK or is_temporary(name) for name in names)


def _differences(stored: dict[str, Any], config: TrainConfig) -> list[str]:
    """The names of the settings that differ, among those that matter for what is trained."""
    # a setting that is newer than the file had its default, whether or not it was there
    stored = {**asdict(TrainConfig()), **stored}
    names = []
    for name, value in asdict(config).items():
        if name not in _NOT_COMPARED and stored[name] != value:
            names.append(name)
    return names


def read_config(output: Path) -> dict[str, Any]:
    """The settings with which a run began. Raises ValueError for a file without settings."""
    return read_settings(output / CONFIG)


def write_config(output: Path, config: TrainConfig) -> None:
    text = yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
    write_text(output / CONFIG, text)


def write_history(output: Path, history: History) -> None:
    if history.steps or history.epochs:
        history.write_csv(output / HISTORY)
    if history.steps:
        history.write_steps_csv(output / STEPS)


def settings_of(model: str | Path) -> dict[str, Any]:
    """The settings of a run folder; an empty dict for any other folder."""
    folder = Path(model)
    if not (folder / CONFIG).is_file():
        return {}
    return read_config(folder)


def model_in(path: str | Path) -> Path:
    """The folder of the exported model: the one in a run folder, or the path itself.

    Of a repository of the model hub, hf-hub:user/name, it is the folder of its download. Raises
    FileNotFoundError for a path that does not exist, and for a run without a model yet.
    """
    if hub.is_on_hub(path):
        return hub.download(str(path))
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(absent(path))
    # a folder of images may have a class called "model"
    if (folder / MODEL / DESCRIPTION).is_file():
        return folder / MODEL
    if (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} is a run that has not ended; its finetune train continues it"
        )
    return folder
