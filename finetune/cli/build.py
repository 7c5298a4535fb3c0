"""Builds the data, the learner and its training from settings."""

from pathlib import Path

from finetune import arguments, export
from finetune.callbacks.early_stopping import EarlyStopping
from finetune.callbacks.save_best import SaveBest
from finetune.config import DataConfig, LearnerConfig, TrainConfig
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.image_options import ImageOptions
from finetune.data.sources.parquet import are_parquet
from finetune.image_size import ImageSize
from finetune.learner import Learner
from finetune.learner_options import FitOptions
from finetune.models.group_table import PlannedRates
from finetune.models.group_values import LayerDecay, LearningRates
from finetune.tasks import resolve_task
from finetune.training.events import Callback
from finetune.training.plan import FineTune, PlanRequest, one_cycle_plan
from finetune.vision import vision_learner

_NOT_OF_A_PROBE = (
    "schedule", "epochs", "minutes", "base_lr", "freeze_epochs", "freeze_views", "lr_mult",
    "layer_decay", "unfreeze", "interpolate", "early_stopping", "save_best", "augment", "mixup",
    "cutmix", "label_smoothing", "dropout", "split", "norm", "weight_decay", "accumulate",
    "clip_norm", "ema",
)  # fmt: skip
"""Settings of gradient steps and of what they see, which change nothing in a probe."""


def data_of(config: DataConfig) -> ImageDataLoaders:
    """The images of a folder of classes, of a table, of shards, or of Parquet files.

    Raises ValueError for settings that name no images or contradict each other.
    """
    if config.csv is not None:
        return _from_table(config, config.csv)
    if config.shards is not None:
        return _from_shards(config, config.shards)
    if not resolve_task(config.task).exclusive:
        raise ValueError(f"task={config.task} needs a table of labels: give csv=")
    if config.data is None:
        raise ValueError("there are no images: give a FOLDER, or data: in the config file")
    return ImageDataLoaders.from_folder(
        config.data,
        train=config.train,
        valid=config.valid,
        valid_fraction=config.valid_fraction,
        **_image_options(config),
    )


def _from_shards(config: DataConfig, shards: str) -> ImageDataLoaders:
    if config.data is not None or config.train is not None:
        raise ValueError("shards= are the images, so that data= and train= would mean nothing")
    if are_parquet(shards):
        return ImageDataLoaders.from_parquet(
            shards,
            valid=config.valid,
            image_column=config.image_column,
            label_column=_one_column(config.label_column),
            task=config.task,
            valid_fraction=config.valid_fraction,
            **_image_options(config),
        )
    return ImageDataLoaders.from_shards(
        shards,
        valid=config.valid,
        task=config.task,
        valid_fraction=config.valid_fraction,
        **_image_options(config),
    )


def _one_column(names: list[str] | str | None) -> str | None:
    if isinstance(names, list):
        raise ValueError(f"label_column= of Parquet files is one column, got {names}")
    return names


def _from_table(config: DataConfig, file: str) -> ImageDataLoaders:
    if config.shards is not None:
        raise ValueError("csv= and shards= both name images; give one of them")
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
        **_image_options(config),
    )


def _image_options(config: DataConfig) -> ImageOptions:
    size: ImageSize | None = None
    if config.image_size is not None:
        size = arguments.image_size("image_size", config.image_size)
    return {
        "image_size": size,
        "channels": config.channels,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "augment": config.augment,
        "sampling": config.sampling,
        "resize": config.resize,
        "value_range": config.value_range,
        "groups": config.groups,
        "corrections": config.corrections,
        "on_error": config.on_error,
        "cache_folder": config.cache_folder,
    }


def learner_of(config: LearnerConfig, data: ImageDataLoaders) -> Learner:
    """An untrained learner with the backbone and the options that the settings name."""
    return vision_learner(
        data,
        backbones_of(config.model),
        weights=config.weights,
        head=config.head,
        dropout=config.dropout,
        split=config.split,
        metrics=config.metrics,
        class_weights=config.class_weights,
        norm=config.norm,
        weight_decay=config.weight_decay,
        device=config.device,
        precision=config.precision,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        mixup=config.mixup,
        cutmix=config.cutmix,
        label_smoothing=config.label_smoothing,
        ema=config.ema,
    )


def backbones_of(model: list[str] | str) -> list[str] | str:
    """The name of a backbone, or the names of several: a list, or a text with commas between them.

    >>> backbones_of("resnet18, test_vit")
    ['resnet18', 'test_vit']
    """
    if isinstance(model, str) and "," in model:
        return [name.strip() for name in model.split(",")]
    return model


def fit(
    learner: Learner,
    config: TrainConfig,
    checkpoint: Path | None = None,
    best: Path | None = None,
) -> None:
    """Trains or probes. Training continues from the checkpoint; a probe writes it at its end.

    best: the file for the best epoch, if asked for.
    """
    if config.probe:
        print(learner.probe())
        if checkpoint is not None:
            learner.save(checkpoint)
        return
    callbacks: list[Callback] = []
    if config.save_best and best is not None:
        callbacks.append(SaveBest(best))
    if config.early_stopping is not None:
        callbacks.append(EarlyStopping(patience=config.early_stopping))
    options: FitOptions = {"callbacks": callbacks, "checkpoint": checkpoint}
    if config.schedule == "one_cycle":
        learner.fit_one_cycle(config.epochs, _one_cycle_rates(config), **options)
        return
    learner.fine_tune(
        config.epochs if config.minutes is None else None,
        config.base_lr,
        minutes=config.minutes,
        freeze_epochs=config.freeze_epochs,
        freeze_views=config.freeze_views,
        lr_mult=config.lr_mult,
        layer_decay=config.layer_decay,
        unfreeze=config.unfreeze,
        interpolate=config.interpolate,
        **options,
    )


def planned_rates(learner: Learner, config: TrainConfig) -> PlannedRates:
    """The largest learning rate of each layer group in each phase that has steps."""
    # what some minutes allow is not known before batches are timed
    if config.probe or config.minutes is not None:
        return {}
    request: PlanRequest = _fine_tune(config)
    if config.schedule == "one_cycle":
        request = one_cycle_plan(learner.layer_groups, config.epochs, _one_cycle_rates(config))
    rates_by_phase: dict[str, list[float | None]] = {}
    for phase in learner.trainer.resolve(request):
        if phase.probe:
            continue
        rates: list[float | None] = list(phase.peaks["lr"])
        rates[: phase.frozen] = [None] * phase.frozen
        rates_by_phase[phase.name] = rates
    return rates_by_phase


def _one_cycle_rates(config: TrainConfig) -> LearningRates:
    """One rate for all layer groups, or rates that fall towards the first layers."""
    if config.layer_decay is not None:
        return LayerDecay(config.base_lr, config.layer_decay)
    if config.lr_mult is not None:
        return slice(config.base_lr / config.lr_mult, config.base_lr)
    return config.base_lr


def check(config: TrainConfig) -> None:
    """Raises ValueError for settings that contradict each other, before anything is read."""
    arguments.whole_number("epochs", config.epochs, at_least=1)
    arguments.real_number("base_lr", config.base_lr, above=0)
    if config.lr_mult is not None:
        arguments.real_number("lr_mult", config.lr_mult, above=0)
    if config.layer_decay is not None and config.lr_mult is not None:
        raise ValueError("layer_decay= and lr_mult= both spread the rates; give one of them")
    if config.minutes is not None:
        _check_minutes(config)
    if config.probe:
        _check_probe(config)
    if config.schedule == "one_cycle":
        _check_one_cycle(config)
    else:
        _fine_tune(config)
    if config.early_stopping is not None:
        arguments.whole_number("early_stopping", config.early_stopping, at_least=1)
    if config.coverage is not None:
        arguments.real_number("coverage", config.coverage, above=0, below=1)
    export.check_formats(config.formats)


def _check_minutes(config: TrainConfig) -> None:
    arguments.real_number("minutes", config.minutes, above=0)
    if config.epochs != TrainConfig().epochs:
        raise ValueError(
            f"minutes={config.minutes:g} choose the epochs, and epochs={config.epochs} are given; "
            "leave out the one or the other"
        )
    if config.schedule != "fine_tune":
        raise ValueError("minutes= is for schedule='fine_tune'; one_cycle needs epochs=")


def _check_probe(config: TrainConfig) -> None:
    defaults = TrainConfig()
    names = []
    for name in _NOT_OF_A_PROBE:
        if getattr(config, name) != getattr(defaults, name):
            names.append(f"{name}=")
    if names:
        raise ValueError(
            f"probe= does no training step, so that {', '.join(names)} would change nothing; "
            "leave out the one or the other"
        )


def _check_one_cycle(config: TrainConfig) -> None:
    for name in ("freeze_epochs", "freeze_views"):
        if getattr(config, name) is not None:
            raise ValueError(f"{name}= is for schedule='fine_tune'; one_cycle freezes nothing")
    if config.unfreeze is not None:
        raise ValueError("unfreeze= is for schedule='fine_tune'; one_cycle trains everything")
    if config.interpolate:
        raise ValueError("interpolate= is for schedule='fine_tune'; one_cycle has no second phase")


def _fine_tune(config: TrainConfig) -> FineTune:
    """What `fit` asks for, with its values checked."""
    return FineTune(
        config.epochs,
        config.base_lr,
        freeze_epochs=config.freeze_epochs,
        freeze_views=config.freeze_views,
        lr_mult=config.lr_mult,
        layer_decay=config.layer_decay,
        unfreeze=config.unfreeze,
        interpolate=config.interpolate,
    )
