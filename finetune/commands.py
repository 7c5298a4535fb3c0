"""What the commands do: a run folder in, a run folder out."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from finetune.callbacks.history import History
from finetune.config import TrainConfig
from finetune.data.decode import ImageError
from finetune.data.image_loaders import STANDARD, ImageDataLoaders
from finetune.vision import load_learner, vision_learner

CONFIG, CHECKPOINT, MODEL = "config.yaml", "checkpoint.ckpt", "model"
HISTORY, STEPS = "history.csv", "steps.csv"


def train(config: TrainConfig) -> None:
    """Trains into `config.output`: config, checkpoint, history, pictures and exported model.

    An unfinished run in that folder is continued; anything else in it is left alone.
    """
    if config.data is None:
        raise ValueError("there are no images: finetune train FOLDER, or data: in the config file")
    if config.epochs < 1:
        raise ValueError(f"epochs must be a positive whole number, got {config.epochs}")
    output = Path(config.output)
    _claim(output, config)
    data = ImageDataLoaders.from_folder(
        config.data,
        train=config.train,
        valid=config.valid,
        valid_fraction=config.valid_fraction,
        image_size=config.image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        augment=STANDARD if config.augment else None,
        resize=config.resize,
        on_error=config.on_error,
    )
    print(data)
    learner = vision_learner(
        data,
        config.model,
        weights=config.weights,
        head=config.head,
        device=config.device,
        precision=config.precision,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
    )
    print(f"\n{learner.layer_groups}\n")
    output.mkdir(parents=True, exist_ok=True)
    (output / CONFIG).write_text(yaml.safe_dump(asdict(config), sort_keys=False))
    try:
        learner.fine_tune(
            config.epochs,
            config.base_lr,
            freeze_epochs=config.freeze_epochs,
            lr_mult=config.lr_mult,
            checkpoint=output / CHECKPOINT,
        )
    finally:
        _write_history(learner.history, output)
    learner.plot_rates().savefig(output / "learning_rates.png")
    learner.export(output / MODEL, overwrite=True)
    results = learner.history.epochs[-1].valid
    figures = ", ".join(f"{name} {value:.4f}" for name, value in results.items())
    print(f"\nvalidation: {figures}")
    print(f"model, history, learning_rates.png and checkpoint are in {output}/")
    print(f"  finetune predict {output / MODEL} IMAGE ...")


def _claim(output: Path, config: TrainConfig) -> None:
    """The folder is new, empty, or holds the same run unfinished."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / CONFIG).is_file():
        raise FileExistsError(f"{str(output)!r} exists and is no run folder; give another --output")
    if not (output / CHECKPOINT).exists() and not (output / MODEL).exists():
        return  # it failed before it had anything to keep
    stored = yaml.safe_load((output / CONFIG).read_text())
    differences = [k for k, v in asdict(config).items() if stored.get(k) != v and k != "output"]
    if differences:
        raise FileExistsError(
            f"{str(output)!r} holds a run with other settings ({', '.join(differences)}); "
            "give another --output"
        )
    if (output / MODEL).exists():
        raise FileExistsError(f"{str(output)!r} holds this run, finished; give another --output")


def _write_history(history: History, output: Path) -> None:
    if history.steps:
        history.write_csv(output / HISTORY)
        history.write_steps_csv(output / STEPS)


def predict(model: str, images: Sequence[str]) -> int:
    """Prints path, class and probability of each image; 1 if one of them could not be read."""
    inside = Path(model) / MODEL
    if inside.is_dir():
        raise ValueError(f"{model!r} is a run folder; its model is {str(inside)!r}")
    predictor = load_learner(model)
    width = max(map(len, images))
    failed = 0
    for image in images:
        try:
            label, probability, _ = predictor.predict(image)
        except ImageError as error:
            print(f"finetune: error: {error}", file=sys.stderr)
            failed = 1
        else:
            print(f"{image:<{width}}  {probability:6.1%}  {label}")
    return failed
