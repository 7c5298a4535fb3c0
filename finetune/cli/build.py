"""From settings to data, a learner and its training."""

from pathlib import Path

from finetune import export
from finetune.callbacks.early_stopping import EarlyStopping
from finetune.callbacks.save_best import SaveBest
from finetune.config import DataConfig, LearnerConfig, TrainConfig
from finetune.data.image_loaders import ImageDataLoaders
from finetune.learner import Learner
from finetune.models.group_values import LayerDecay, LearningRates
from finetune.training.events import Callback
from finetune.vision import vision_learner


def data_of(config: DataConfig) -> ImageDataLoaders:
    """The images of a folder of classes, or of a table. Raises ValueError without any."""
    if config.csv is None and config.task != "single_label":
        raise ValueError(f"task={config.task} needs a table of labels: give csv=")
    if config.csv is not None:
        return _from_table(config, config.csv)
    if config.data is None:
        raise ValueError("there are no images: give a FOLDER, or data: in the config file")
    return ImageDataLoaders.from_folder(
        config.data,
        train=config.train,
        valid=config.valid,
        valid_fraction=config.valid_fraction,
        image_size=config.image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        augment=config.augment,
        resize=config.resize,
        on_error=config.on_error,
        cache_folder=config.cache_folder,
    )


def _from_table(config: DataConfig, file: str) -> ImageDataLoaders:
    if config.train is not None or config.valid is not None:
        raise ValueError("train= and valid= are folders; of a table, say valid_column=")
    return ImageDataLoaders.from_csv(
        file,
        config.data,
        image_column=config.image_column,
        label_column=config.label_column,
        valid_column=config.valid_column,
        task=config.task,
        label_delimiter=config.label_delimiter,
        valid_fraction=config.valid_fraction,
        image_size=config.image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        augment=config.augment,
        resize=config.resize,
        on_error=config.on_error,
        cache_folder=config.cache_folder,
    )


def learner_of(config: LearnerConfig, data: ImageDataLoaders) -> Learner:
    metrics = [config.metrics] if isinstance(config.metrics, str) else config.metrics
    return vision_learner(
        data,
        config.model,
        weights=config.weights,
        head=config.head,
        dropout=config.dropout,
        split=config.split,
        norm=config.norm,
        weight_decay=config.weight_decay,
        metrics=metrics,
        device=config.device,
        precision=config.precision,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        mixup=config.mixup,
        cutmix=config.cutmix,
        label_smoothing=config.label_smoothing,
        ema=config.ema,
    )


def fit(learner: Learner, config: TrainConfig, checkpoint: Path, best: Path) -> None:
    """Trains, or continues from the checkpoint. best: the file for the best epoch, if asked for."""
    callbacks: list[Callback] = []
    if config.save_best:
        callbacks.append(SaveBest(best))
    if config.early_stopping is not None:
        callbacks.append(EarlyStopping(patience=config.early_stopping))
    if config.schedule == "one_cycle":
        rates: LearningRates = config.base_lr
        if config.layer_decay is not None:
            rates = LayerDecay(config.base_lr, config.layer_decay)
        elif config.lr_mult is not None:
            rates = slice(config.base_lr / config.lr_mult, config.base_lr)
        learner.fit_one_cycle(config.epochs, rates, callbacks=callbacks, checkpoint=checkpoint)
        return
    learner.fine_tune(
        config.epochs,
        config.base_lr,
        freeze_epochs=config.freeze_epochs,
        freeze_views=config.freeze_views,
        lr_mult=config.lr_mult,
        layer_decay=config.layer_decay,
        callbacks=callbacks,
        checkpoint=checkpoint,
    )


def check(config: TrainConfig) -> None:
    """Raises ValueError for settings that contradict each other, before anything is read."""
    if config.epochs < 1:
        raise ValueError(f"epochs must be a positive whole number, got {config.epochs}")
    for name in ("base_lr", "lr_mult"):
        if (value := getattr(config, name)) is not None and not value > 0:
            raise ValueError(f"{name}= must be positive, got {value}")
    if config.layer_decay is not None and config.lr_mult is not None:
        raise ValueError("layer_decay= and lr_mult= both spread the rates; give one of them")
    if config.schedule == "one_cycle":
        for name in ("freeze_epochs", "freeze_views"):
            if getattr(config, name) is not None:
                raise ValueError(f"{name}= is for schedule='fine_tune'; one_cycle freezes nothing")
    if config.early_stopping is not None and config.early_stopping < 1:
        raise ValueError(f"early_stopping= is a number of epochs, got {config.early_stopping}")
    export.check_formats(config.formats)
