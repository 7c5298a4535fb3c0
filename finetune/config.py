"""Typed settings of a run; a YAML file, the command line and the run folder share them."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from finetune.data.image_options import OnError
from finetune.data.images.augment import AugmentName
from finetune.data.images.resize import Resize
from finetune.data.sampling import Sampling
from finetune.export import FormatName
from finetune.models.heads import HeadKind
from finetune.models.normalisation import NormPolicy
from finetune.tasks import TaskName
from finetune.training.runtime.runtime import PrecisionChoice

Schedule: TypeAlias = Literal["fine_tune", "one_cycle"]


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which images there are, and how they become batches.

    Args:
        data: folder with one folder of images a class; with --csv, the folder that the table's
            paths are relative to
        csv: table of images and labels with a header, in place of class folders
        shards: tar files of images and labels in place of a folder, as finetune pack makes them,
            such as shards/train-{0000..0007}.tar, or Parquet files that hold the images, such as
            data/train-*.parquet
        image_column: column of the table with the images' paths, or of Parquet files with the
            images; null finds it
        label_column: column of the table or of Parquet files with the labels; null is the one after
            the images. A regression of a table may have a list of columns
        valid_column: column of the table that marks the rows for validation; null splits at random
        task: what the labels of the table are - one class an image, several, or numbers
        label_delimiter: text between the labels of an image, for the task multi_label; a space
            unless given
        train: folder of the training images, below data, where the data come split
        valid: folder of the validation images, below data, where the data come split; with
            --shards, the shards of them
        valid_fraction: share of each class held out for validation, where the data come unsplit
        image_size: side of the model's input in pixels, or [height, width]; null is what the
            backbone was trained with
        channels: of the images, which are RGB with 3 and grey with 1; other numbers need images
            that have them, such as arrays in .npy files
        batch_size: images per batch
        seed: number that decides the split, the order, the augmentation and the new head's weights
        augment: strength of the random changes to training images
        sampling: how often an epoch has each class - balanced is all alike, sqrt in between; null
            is as often as it is there
        resize: how an image gets the shape of the model's input
        value_range: the values that are black and white in images of more than 8 bits, such as
            [0, 4095], or such a pair for each channel, [[0, 3000], [0, 255], [-1, 1]]; null finds
            them
        groups: what images of one patient, video or product have in common, so that they are
            never divided between training and validation. Of a table, a column; of a folder, a
            regular expression whose group in brackets is found in the path, such as
            "(patient_[0-9]+)"
        corrections: CSV file of wrong labels and of images to leave out, as finetune clean
            writes it
        on_error: what happens at an unreadable image
        cache_folder: folder that keeps decoded images between runs
    """

    data: str | None = None
    csv: str | None = None
    shards: str | None = None
    image_column: str | None = None
    label_column: list[str] | str | None = None
    valid_column: str | None = None
    task: TaskName = "single_label"
    label_delimiter: str = " "
    train: str | None = None
    valid: str | None = None
    valid_fraction: float = 0.2
    image_size: int | list[int] | None = None
    channels: int = 3
    batch_size: int = 64
    seed: int = 0
    augment: AugmentName = "standard"
    sampling: Sampling | None = None
    resize: Resize = "crop"
    value_range: list[float] | list[list[float]] | None = None
    groups: str | None = None
    corrections: str | None = None
    on_error: OnError = "raise"
    cache_folder: str | None = None

    @property
    def images(self) -> str:
        """The path of the table, the shards or the folder; empty where none is given."""
        return self.csv or self.shards or self.data or ""


@dataclass(frozen=True, slots=True)
class LearnerConfig(DataConfig):
    """Which model is trained, and how one step computes.

    Args:
        model: any timm model name, or one of torchvision's (torchvision/resnet50); several, with
            commas between them or as a list, look at the images side by side
        weights: "pretrained" (downloaded), a .safetensors or .pth file, or null for random weights;
            of several models, also a list or a mapping by model
        head: the new head - two linear layers, or one
        dropout: dropout probability of the new head
        split: where layer groups begin - halves, stages, layers, backbone_head, a number of groups,
            a list of module paths, or a mapping of paths to names
        norm: what BatchNorm and other normalisation layers do in training, for all layer groups or
            as a mapping by group. null keeps a pretrained backbone's statistics
        weight_decay: weight decay of all layer groups, or a mapping by group; null is the
            optimizer's default
        metrics: name of a metric or a list of names; null is what suits the task
        class_weights: what an image of each class counts in the loss - balanced, or a mapping by
            class; null is 1 for all
        precision: number format of the forward pass
        accumulate: batches per update of the weights
        clip_norm: largest norm of the gradient; null does not clip
        mixup: alpha of mixup, which blends training images in pairs, such as 0.2; 0 is off
        cutmix: alpha of cutmix, which pastes pieces of training images into others, such as 1.0; 0
            is off
        label_smoothing: label smoothing of the training loss, such as 0.1; 0 is off
        ema: decay of an exponential average of the weights, such as 0.999; the average is then the
            result of the training. null is off
        device: cuda, mps or cpu; null takes the best there is
    """

    model: list[str] | str = "convnext_tiny"
    weights: list[str | None] | dict[str, str | None] | str | None = "pretrained"
    head: HeadKind = "linear"
    dropout: float = 0.5
    split: int | list[int] | list[str] | dict[str, str] | str | None = "halves"
    norm: NormPolicy | dict[str, NormPolicy] | None = None
    weight_decay: float | dict[str, float] | None = None
    metrics: list[str] | str | None = None
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    precision: PrecisionChoice = "auto"
    accumulate: int = 1
    clip_norm: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    ema: float | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class TrainConfig(LearnerConfig):
    """How long it is trained, at which learning rates, and what becomes of it.

    Args:
        output: folder for the run, with its checkpoint, report and exported model
        probe: makes the head the best linear layer on the frozen features, in seconds and without
            training; the settings of training then mean nothing
        schedule: fine_tune trains the head alone, then more of the model; one_cycle trains
            everything at once
        epochs: epochs in which more than the head trains
        minutes: in place of epochs, the time that training may take; some batches are timed, and
            the longest plan that is over by then is chosen
        base_lr: peak learning rate of a head that is trained alone by steps; when more trains, the
            highest rate is half of it. 0.002 is a good start
        freeze_epochs: epochs with the head alone, which come first; null chooses, for a linear head
            the best one for the frozen features, which takes no steps
        freeze_views: number of augmented views of each image in the epochs with the head alone;
            null chooses
        lr_mult: how many times lower the learning rate of the first layers is than the head's; null
            chooses for fine_tune, and is one rate for all layers in one_cycle
        layer_decay: in place of lr_mult, each layer group has this share of the learning rate of
            the next group; goes with --split layers
        unfreeze: what trains after the head - all, or the name of a layer group, which trains with
            those above it; null is all, or for up to 2 epochs the later half of the body
        interpolate: the result is whatever validation likes best of the weights at the end, those
            before the second phase, and three points between; null does so after a probe where
            the end is worse
        early_stopping: a phase ends after so many epochs without a lower validation loss; null is
            off
        save_best: the result is the epoch with the lowest validation loss, not the last one
        adjust_priors: after training, shares of the classes that answers are for - uniform, or a
            mapping of classes to shares that add up to 1; null is as in training
        tune_thresholds: after training, finds for several labels an image from which probability
            on each is predicted; otherwise from 0.5 on
        coverage: after training, finds sets of classes that hold the truth this often, such as 0.9,
            and how strange an image must be to be called unknown; null gives no sets
        formats: format of the exported model - onnx, torch_export, safetensors, which is always
            written, or a list of them
    """

    output: str = "runs/finetune"
    probe: bool = False
    schedule: Schedule = "fine_tune"
    epochs: int = 5
    minutes: float | None = None
    base_lr: float = 2e-3
    freeze_epochs: int | None = None
    freeze_views: int | None = None
    lr_mult: float | None = None
    layer_decay: float | None = None
    unfreeze: str | None = None
    interpolate: bool | None = None
    early_stopping: int | None = None
    save_best: bool = False
    adjust_priors: Literal["uniform"] | dict[str, float] | None = None
    tune_thresholds: bool = False
    coverage: float | None = None
    formats: list[FormatName] | FormatName = "safetensors"
