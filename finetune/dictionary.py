"""The words of other libraries, and what to write here: one table, of which errors are made."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

Place: TypeAlias = Literal[
    "ImageDataLoaders", "vision_learner", "fine_tune", "fit_one_cycle", "lr_find", "Learner",
    "Predictor", "show_batch", "most_confused", "finetune",
]  # fmt: skip
"""The function, the class or the package of ours that a word belongs to."""

SomeClass = TypeVar("SomeClass", bound=type)


@dataclass(frozen=True, slots=True)
class Word:
    """A word of another library, and what it is here.

    name: of an option, without the equals sign, of an attribute, or of what is imported. library:
    one that has it.
    here: what to write, as the end of the sentence "what fastai calls bs is batch_size=".
    place: where that is written.
    """

    name: str
    library: str
    here: str
    place: Place

    @property
    def option(self) -> str | None:
        """The name of our option, where it is one.

        >>> Word("bs", "fastai", "batch_size=", "ImageDataLoaders").option
        'batch_size'
        """
        name, equals_sign, _ = self.here.partition("=")
        return name if equals_sign and name.isidentifier() else None

    def __str__(self) -> str:
        return f"what {self.library} calls {self.name} is {self.here}"


OPTIONS: Sequence[Word] = (
    # the images
    Word("bs", "fastai", "batch_size=", "ImageDataLoaders"),
    Word("valid_pct", "fastai", "valid_fraction=", "ImageDataLoaders"),
    Word("validation_split", "Keras", "valid_fraction=", "ImageDataLoaders"),
    Word("test_size", "scikit-learn", "valid_fraction=", "ImageDataLoaders"),
    Word("valid_col", "fastai", "valid_column=", "ImageDataLoaders"),
    Word("fn_col", "fastai", "image_column=", "ImageDataLoaders"),
    Word("x_col", "Keras", "image_column=", "ImageDataLoaders"),
    Word("label_col", "fastai", "label_column=", "ImageDataLoaders"),
    Word("y_col", "Keras", "label_column=", "ImageDataLoaders"),
    Word("image_col", "AutoGluon", "image_column=", "ImageDataLoaders"),
    Word("image_column_name", "transformers", "image_column=", "ImageDataLoaders"),
    Word("label_column_name", "transformers", "label_column=", "ImageDataLoaders"),
    Word("path_column", "other code", "image_column=", "ImageDataLoaders"),
    Word("file_column", "other code", "image_column=", "ImageDataLoaders"),
    Word("filename_column", "other code", "image_column=", "ImageDataLoaders"),
    Word("target_column", "other code", "label_column=", "ImageDataLoaders"),
    Word("class_column", "other code", "label_column=", "ImageDataLoaders"),
    Word("split_column", "other code", "valid_column=", "ImageDataLoaders"),
    Word("label_delim", "fastai", "label_delimiter=", "ImageDataLoaders"),
    Word("y_block", "fastai", "task=", "ImageDataLoaders"),
    Word("class_mode", "Keras", "task=", "ImageDataLoaders"),
    Word("label_mode", "Keras", "task=", "ImageDataLoaders"),
    Word("label_func", "fastai", "the second argument of from_name", "ImageDataLoaders"),
    Word("item_tfms", "fastai", "image_size= and resize=", "ImageDataLoaders"),
    Word("batch_tfms", "fastai", "augment=", "ImageDataLoaders"),
    Word("transform", "torchvision", "augment=", "ImageDataLoaders"),
    Word("aa", "timm", "augment=", "ImageDataLoaders"),
    Word("size", "fastai", "image_size=", "ImageDataLoaders"),
    Word("img_size", "timm", "image_size=", "ImageDataLoaders"),
    Word("in_chans", "timm", "channels=", "ImageDataLoaders"),
    Word("target_size", "Keras", "image_size=", "ImageDataLoaders"),
    Word("input_shape", "Keras", "image_size=", "ImageDataLoaders"),
    Word("workers", "timm", "num_workers=", "ImageDataLoaders"),
    Word("sampler", "torch", "sampling=", "ImageDataLoaders"),
    Word("random_state", "scikit-learn", "seed=", "ImageDataLoaders"),
    Word("shuffle", "torch", "always so for training, keyed by seed=", "ImageDataLoaders"),
    Word("drop_last", "torch", "always so for training", "ImageDataLoaders"),
    Word("pin_memory", "torch", "done by itself where it helps", "ImageDataLoaders"),
    Word("persistent_workers", "torch", "always so: threads decode", "ImageDataLoaders"),
    Word("prefetch_factor", "torch", "done by itself", "ImageDataLoaders"),
    Word("normalize", "fastai", "done by itself, as the backbone needs it", "ImageDataLoaders"),
    # the model and the way it is trained
    Word("arch", "fastai", "backbone=", "vision_learner"),
    Word("model_name", "timm", "backbone=", "vision_learner"),
    Word("pretrained", "timm", "weights=, 'pretrained' or None", "vision_learner"),
    Word("checkpoint_path", "timm", "weights=, a path", "vision_learner"),
    Word("include_top", "Keras", "not needed: the old head is left out", "vision_learner"),
    Word("custom_head", "fastai", "head=, or Learner with a model of your own", "vision_learner"),
    Word("lin_ftrs", "fastai", "head=, or Learner with a model of your own", "vision_learner"),
    Word("ps", "fastai", "dropout=", "vision_learner"),
    Word("drop_rate", "timm", "dropout=", "vision_learner"),
    Word("n_out", "fastai", "the number of classes in the data", "vision_learner"),
    Word("num_classes", "timm", "the number of classes in the data", "vision_learner"),
    Word("splitter", "fastai", "split=", "vision_learner"),
    Word("splitter", "fastai", "valid_fraction=, valid_column= or valid=", "ImageDataLoaders"),
    Word("loss_func", "fastai", "loss=", "vision_learner"),
    Word("criterion", "torch", "loss=", "vision_learner"),
    Word("opt_func", "fastai", "optimizer=", "vision_learner"),
    Word("opt", "timm", "optimizer=", "vision_learner"),
    Word("wd", "fastai", "weight_decay=", "vision_learner"),
    Word("wd_bn_bias", "fastai", "weight_decay=, not of biases and norms", "vision_learner"),
    Word("cbs", "fastai", "callbacks=", "vision_learner"),
    Word("train_bn", "fastai", "norm=", "vision_learner"),
    Word("moms", "fastai", "betas or momentum of optimizer=, a partial", "vision_learner"),
    Word("accelerator", "Lightning", "device=", "vision_learner"),
    Word("devices", "Lightning", "left to torchrun --nproc_per_node", "vision_learner"),
    Word("strategy", "Lightning", "left to torchrun, or sharding='full'", "vision_learner"),
    Word("fsdp", "transformers", "sharding='full'", "vision_learner"),
    Word("amp", "timm", "precision=", "vision_learner"),
    Word("fp16", "transformers", "precision='fp16'", "vision_learner"),
    Word("bf16", "transformers", "precision='bf16'", "vision_learner"),
    Word("gradient_clip_val", "Lightning", "clip_norm=", "vision_learner"),
    Word("clip_grad", "timm", "clip_norm=", "vision_learner"),
    Word("max_grad_norm", "transformers", "clip_norm=", "vision_learner"),
    Word("accumulate_grad_batches", "Lightning", "accumulate=", "vision_learner"),
    Word("grad_accum_steps", "timm", "accumulate=", "vision_learner"),
    Word("gradient_accumulation_steps", "transformers", "accumulate=", "vision_learner"),
    Word("smoothing", "timm", "label_smoothing=", "vision_learner"),
    Word("model_ema", "timm", "ema=, a decay such as 0.999", "vision_learner"),
    Word("model_ema_decay", "timm", "ema=", "vision_learner"),
    Word("grad_checkpointing", "timm", "checkpoint_activations=", "vision_learner"),
    Word("logger", "Lightning", "callbacks=, with TensorBoard, MLflow, Wandb", "vision_learner"),
    Word("class_weight", "Keras", "class_weights=", "vision_learner"),
    Word("enable_progress_bar", "Lightning", "progress=", "vision_learner"),
    Word("verbose", "Keras", "progress=", "vision_learner"),
    # a training
    Word("n_epoch", "fastai", "epochs=", "fine_tune"),
    Word("num_epochs", "torch", "epochs=", "fine_tune"),
    Word("max_epochs", "Lightning", "epochs=", "fine_tune"),
    Word("num_train_epochs", "transformers", "epochs=", "fine_tune"),
    Word("lr_max", "fastai", "lr=", "fit_one_cycle"),
    Word("lr", "torch", "base_lr=", "fine_tune"),
    Word("learning_rate", "Keras", "base_lr=", "fine_tune"),
    Word("learning_rate", "Keras", "lr=", "fit_one_cycle"),
    Word("warmup_epochs", "timm", "pct_start=, a share of the steps", "fine_tune"),
    Word("warmup_ratio", "transformers", "pct_start=", "fine_tune"),
    Word("patience", "Keras", "callbacks=[EarlyStopping(...)]", "fine_tune"),
    Word("ckpt_path", "Lightning", "checkpoint=", "fine_tune"),
    Word("resume_from_checkpoint", "transformers", "checkpoint=", "fine_tune"),
    Word("reset_opt", "fastai", "a new learner; here the optimizer's state is kept", "fine_tune"),
    Word("validation_data", "Keras", "part of the data", "ImageDataLoaders"),
    # the range test
    Word("num_it", "fastai", "steps=", "lr_find"),
    Word("num_training", "Lightning", "steps=", "lr_find"),
    Word("min_lr", "Lightning", "start_lr=", "lr_find"),
    Word("max_lr", "Lightning", "end_lr=", "lr_find"),
    Word("stop_div", "fastai", "stop_factor=", "lr_find"),
    Word("suggest_funcs", "fastai", "the curve's .suggestions", "lr_find"),
    Word("show_plot", "fastai", "the curve's .plot()", "lr_find"),
    # what is shown
    Word("max_n", "fastai", "count=", "show_batch"),
    Word("min_val", "fastai", "min_count=", "most_confused"),
)  # fmt: skip

ATTRIBUTES: Sequence[Word] = (
    # ways to make data
    Word("from_name_func", "fastai", "from_name(files, function)", "ImageDataLoaders"),
    Word("from_name_re", "fastai", "from_name(files, pattern)", "ImageDataLoaders"),
    Word("from_path_func", "fastai", "from_name(files, function)", "ImageDataLoaders"),
    Word("from_path_re", "fastai", "from_name(files, pattern)", "ImageDataLoaders"),
    Word("from_df", "fastai", "from_table(table)", "ImageDataLoaders"),
    Word("from_dsets", "fastai", "from_dataset(train, valid)", "ImageDataLoaders"),
    Word("from_datasets", "Lightning", "from_dataset(train, valid)", "ImageDataLoaders"),
    Word("from_dblock", "fastai", "from_lists(images, labels)", "ImageDataLoaders"),
    Word("image_dataset_from_directory", "Keras", "from_folder(folder)", "ImageDataLoaders"),
    Word("flow_from_directory", "Keras", "from_folder(folder)", "ImageDataLoaders"),
    Word("flow_from_dataframe", "Keras", "from_table(table)", "ImageDataLoaders"),
    # data
    Word("vocab", "fastai", ".classes", "ImageDataLoaders"),
    Word("class_names", "Keras", ".classes", "ImageDataLoaders"),
    Word("class_to_idx", "torchvision", "the order of .classes", "ImageDataLoaders"),
    Word("c", "fastai", "len(data.classes)", "ImageDataLoaders"),
    Word("bs", "fastai", ".batch_size", "ImageDataLoaders"),
    Word("test_dl", "fastai", ".test_loader(files)", "ImageDataLoaders"),
    Word("train_dl", "fastai", ".train", "ImageDataLoaders"),
    Word("valid_dl", "fastai", ".valid", "ImageDataLoaders"),
    Word("train_dataloader", "Lightning", ".train", "ImageDataLoaders"),
    Word("val_dataloader", "Lightning", ".valid", "ImageDataLoaders"),
    Word("train_ds", "fastai", ".train_examples", "ImageDataLoaders"),
    Word("valid_ds", "fastai", ".valid_examples", "ImageDataLoaders"),
    Word("one_batch", "fastai", "next(iter(data.valid.epoch(0, 0)))", "ImageDataLoaders"),
    # learners
    Word("dls", "fastai", ".data", "Learner"),
    Word("dl", "fastai", ".data.valid", "Learner"),
    Word("get_preds", "fastai", ".predictions(), or .predict_folder(files)", "Learner"),
    Word("predict_proba", "scikit-learn", ".predictions().probabilities", "Learner"),
    Word("recorder", "fastai", ".history, .plot_losses() and .plot_rates()", "Learner"),
    Word("opt", "fastai", ".optimizer", "Learner"),
    Word("loss_func", "fastai", "loss=, an option of vision_learner", "Learner"),
    Word("summary", "fastai", ".layer_groups", "Learner"),
    Word("evaluate", "Keras", ".validate(), or .predictor().evaluate(images)", "Learner"),
    Word("compile", "Keras", "done by vision_learner: optimizer=, loss=, metrics=", "Learner"),
    Word("add_cb", "fastai", "callbacks=, an option of every fit", "Learner"),
    Word("to_fp16", "fastai", "precision='fp16', an option of vision_learner", "Learner"),
    Word("to_bf16", "fastai", "precision='bf16', an option of vision_learner", "Learner"),
    Word("to_fp32", "fastai", "precision='fp32', an option of vision_learner", "Learner"),
    Word("no_bar", "fastai", "progress=False, an option of vision_learner", "Learner"),
    Word("distrib_ctx", "fastai", "left to torchrun --nproc_per_node", "Learner"),
    Word("plot_confusion_matrix", "fastai", ".predictions().plot_confusion_matrix()", "Learner"),
    Word("plot_top_losses", "fastai", ".predictions().plot_top_losses()", "Learner"),
    Word("most_confused", "fastai", ".predictions().most_confused()", "Learner"),
    Word("save_weights", "Keras", ".save(path)", "Learner"),
    Word("load_weights", "Keras", ".load(path)", "Learner"),
    Word("state_dict", "torch", ".model.state_dict()", "Learner"),
    Word("parameters", "torch", ".model.parameters()", "Learner"),
    Word("eval", "torch", "done by itself wherever it is needed", "Learner"),
    Word("to", "torch", "device=, an option of vision_learner", "Learner"),
    Word("cuda", "torch", "device='cuda', an option of vision_learner", "Learner"),
    # what load_learner returns
    Word("get_preds", "fastai", ".predictions(images)", "Predictor"),
    Word("predict_proba", "scikit-learn", ".probabilities(images)", "Predictor"),
    Word("test_dl", "fastai", "not needed: .predict_folder(files) takes files", "Predictor"),
    Word("dls", "fastai", "not kept with a model; .classes are", "Predictor"),
    Word("vocab", "fastai", ".classes", "Predictor"),
    Word("validate", "fastai", ".evaluate(images)", "Predictor"),
)  # fmt: skip

NAMES: Sequence[Word] = (
    # data
    Word("DataBlock", "fastai", "ImageDataLoaders, with a constructor for each source", "finetune"),
    Word("ImageDataBunch", "fastai", "ImageDataLoaders", "finetune"),
    Word("ImageList", "fastai", "ImageDataLoaders", "finetune"),
    Word("ImageFolder", "torchvision", "ImageDataLoaders.from_folder", "finetune"),
    Word("ImageDataGenerator", "Keras", "ImageDataLoaders", "finetune"),
    Word("image_dataset_from_directory", "Keras", "ImageDataLoaders.from_folder", "finetune"),
    Word("LightningDataModule", "Lightning", "DataLoaders, or ImageDataLoaders", "finetune"),
    Word("get_image_files", "fastai", "ImageDataLoaders.from_folder", "finetune"),
    Word("ImageBlock", "fastai", "ImageDataLoaders: all that it takes are images", "finetune"),
    Word("CategoryBlock", "fastai", "ImageDataLoaders with task='single_label'", "finetune"),
    Word("MultiCategoryBlock", "fastai", "ImageDataLoaders with task='multi_label'", "finetune"),
    Word("RegressionBlock", "fastai", "ImageDataLoaders with task='regression'", "finetune"),
    Word("RandomSplitter", "fastai", "ImageDataLoaders with valid_fraction=", "finetune"),
    Word("GrandparentSplitter", "fastai", "ImageDataLoaders with train= and valid=", "finetune"),
    Word("ColSplitter", "fastai", "ImageDataLoaders with valid_column=", "finetune"),
    Word("Resize", "fastai", "ImageDataLoaders with image_size= and resize=", "finetune"),
    Word("aug_transforms", "fastai", "Augmentation, as augment=", "finetune"),
    Word("create_transform", "timm", "Augmentation, as augment=", "finetune"),
    # models and training
    Word("cnn_learner", "fastai", "vision_learner", "finetune"),
    Word("create_cnn", "fastai", "vision_learner", "finetune"),
    Word("create_model", "timm", "vision_learner", "finetune"),
    Word("AutoModelForImageClassification", "transformers", "vision_learner", "finetune"),
    Word("Trainer", "Lightning", "Learner, or vision_learner", "finetune"),
    Word("TrainingArguments", "transformers", "vision_learner and its options", "finetune"),
    Word("LightningModule", "Lightning", "Learner, with any module", "finetune"),
    Word("load_model", "Keras", "load_learner", "finetune"),
    Word("pipeline", "transformers", "load_learner", "finetune"),
    Word("fit_one_cycle", "fastai", "Learner.fit_one_cycle", "finetune"),
    Word("fine_tune", "fastai", "Learner.fine_tune", "finetune"),
    Word("lr_find", "fastai", "Learner.lr_find", "finetune"),
    Word("Interpretation", "fastai", "Learner.predictions", "finetune"),
    Word("ClassificationInterpretation", "fastai", "Learner.predictions", "finetune"),
    Word("ImageClassifierCleaner", "fastai", "Learner.clean", "finetune"),
    Word("error_rate", "fastai", "vision_learner with metrics=['accuracy']", "finetune"),
    Word("accuracy", "fastai", "vision_learner with metrics=['accuracy']", "finetune"),
    # callbacks
    Word("EarlyStoppingCallback", "fastai", "EarlyStopping", "finetune"),
    Word("SaveModelCallback", "fastai", "SaveBest", "finetune"),
    Word("ModelCheckpoint", "Keras", "SaveBest, or checkpoint= of every fit", "finetune"),
    Word("CSVLogger", "fastai", "CSVLog", "finetune"),
    Word("TensorBoardCallback", "fastai", "TensorBoard", "finetune"),
    Word("TensorBoardLogger", "Lightning", "TensorBoard", "finetune"),
    Word("WandbCallback", "fastai", "Wandb", "finetune"),
    Word("WandbLogger", "Lightning", "Wandb", "finetune"),
    Word("MLFlowLogger", "Lightning", "MLflow", "finetune"),
    Word("ShowGraphCallback", "fastai", "LivePlot", "finetune"),
    Word("MixUp", "fastai", "vision_learner with mixup=", "finetune"),
    Word("CutMix", "fastai", "vision_learner with cutmix=", "finetune"),
)  # fmt: skip


def option_hint(name: str, options: Collection[str]) -> str | None:
    """What an unknown option of another library is here; None for a word that is not in the table.

    options: the names that the function takes. A word for one of these comes first; of one that
    another function takes, it is said which.

    >>> option_hint("wd", ["weight_decay"])
    'what fastai calls wd is weight_decay='
    >>> option_hint("wd", ["batch_size"])
    'what fastai calls wd is weight_decay= (an option of vision_learner)'
    """
    words = [word for word in OPTIONS if word.name == name]
    for word in words:
        if word.option in options:
            return str(word)
    if not words:
        return None
    word = words[0]
    return str(word) if word.option is None else f"{word} (an option of {word.place})"


def our_option(name: str, options: Collection[str]) -> str | None:
    """The one of our options that another library calls `name`, if there is one.

    >>> our_option("bs", ["batch_size", "epochs"])
    'batch_size'
    """
    for word in OPTIONS:
        if word.name == name and word.option in options:
            return word.option
    return None


def answers_other_words(place: Place) -> Callable[[SomeClass], SomeClass]:
    """Decorates a class: its objects answer the attributes of other libraries with our words.

    >>> @answers_other_words("Learner")
    ... class Trained:
    ...     data = "images"
    >>> Trained().dls
    Traceback (most recent call last):
        ...
    AttributeError: Trained has no 'dls'; what fastai calls dls is .data
    """

    def decorate(cls: SomeClass) -> SomeClass:
        def no_attribute(instance: object, name: str) -> Any:
            _raise_if_known(cls, place, name)
            # the usual error; or the one of a property, which Python hides behind this method
            return object.__getattribute__(instance, name)

        # set, not defined: a type checker that sees this method takes any attribute for right
        cls.__getattr__ = no_attribute  # type: ignore[attr-defined]
        return cls

    return decorate


class ImageDataLoadersType(type):
    """Makes `ImageDataLoaders` answer the names of constructors that other libraries have."""


def _no_constructor(cls: type, name: str) -> Any:
    _raise_if_known(cls, "ImageDataLoaders", name)
    return type.__getattribute__(cls, name)


ImageDataLoadersType.__getattr__ = _no_constructor  # type: ignore[attr-defined]


def _raise_if_known(cls: type, place: Place, name: str) -> None:
    for word in ATTRIBUTES:
        if word.name == name and word.place == place:
            raise AttributeError(f"{cls.__name__} has no {name!r}; {word}")


def no_such_name(name: str) -> Any:
    """Answers `from finetune import NAME` with our word for the name, where it has one.

    An ImportError, because Python puts another text in the place of an AttributeError's.

    >>> from finetune import cnn_learner
    Traceback (most recent call last):
        ...
    ImportError: finetune has no 'cnn_learner'; what fastai calls cnn_learner is vision_learner
    """
    for word in NAMES:
        if word.name == name:
            raise ImportError(f"finetune has no {name!r}; {word}", name="finetune")
    raise AttributeError(f"module 'finetune' has no attribute {name!r}")
