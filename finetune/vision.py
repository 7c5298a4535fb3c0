"""vision_learner: images and a backbone -> Learner; load_learner: a folder -> Predictor."""

from pathlib import Path

import torch
from torch import nn
from typing_extensions import Unpack

from finetune import arguments, distributed, export, turns
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.images.pipeline import ImagePipeline
from finetune.data.sampling import seen_shares
from finetune.export import ModelDescription, hub
from finetune.inference.predictor import Predictor
from finetune.learner import Learner
from finetune.learner_options import LearnerOptions, LearnerSettings
from finetune.metrics import Metrics
from finetune.models.backbone_objects import BackboneLike, by_name
from finetune.models.backbone_set import (
    SetWeights,
    checked_names,
    members_of,
)
from finetune.models.backbones import checkpoint_activations as checkpoint_backbone
from finetune.models.backbones import normalisation_of
from finetune.models.classifier import Architecture, ImageClassifier
from finetune.models.heads import HeadKind, TargetScale
from finetune.models.listing import without_weights
from finetune.models.splitting import Split
from finetune.modes import usual_modes
from finetune.options import takes_options
from finetune.randomness import isolated, seed_everything
from finetune.tasks import ClassWeights, Loss, Task
from finetune.training.runtime.runtime import Runtime, available_device


@usual_modes()
@takes_options(LearnerSettings)
def vision_learner(
    data: ImageDataLoaders,
    backbone: BackboneLike,
    *,
    weights: SetWeights = "pretrained",
    head: HeadKind = "linear",
    dropout: float = 0.5,
    checkpoint_activations: bool = False,
    metrics: Metrics | None = None,
    loss: Loss | None = None,
    class_weights: ClassWeights | None = None,
    split: Split = "halves",
    **options: Unpack[LearnerOptions],
) -> Learner:
    """A Learner with a pretrained backbone and a new head; images are normalised to suit it.

    backbone: any timm model name, or one of torchvision's as "torchvision/resnet50"; or a list of
    names. A function of timm or torchvision stands for the name, and a model of theirs, such as
    `torchvision.models.resnet18(weights="DEFAULT")`, for its name and its own weights: they are
    copied, and whatever it has for a classifier is left behind for the new head.
    Several backbones look at the same images, each in its own normalisation and, unless the
    data have an image_size, in its own size, and the head sees their features side by side.
    weights: "pretrained" downloads them; a path to a .safetensors or .pth file or to an exported
    folder, a model on the hub as "hf-hub:user/name" (what `push_to_hub` uploaded), or a mapping of
    tensors, is used instead; None is random weights. Several backbones may
    have a list of these, or a mapping by backbone.
    head: "linear", which `fine_tune` begins as the best one there is for the frozen backbone, or
    "mlp", see `create_head`. checkpoint_activations: keep few of the backbone's
    outputs for the backward pass and compute the others again: less memory, more time.
    metrics, loss: None is what suits the task of the data: accuracy and cross-entropy; F1, accuracy
    and binary cross-entropy for several labels an image; the mean absolute error, R2 and the mean
    squared error for a regression, whose outputs are scaled to the targets of training. That loss
    is divided by the variance of each target in training; the metric "mse" is in their own unit.
    Where classes are uneven, the balanced accuracy is measured, too.
    class_weights: how much an image of each class counts in that loss: "balanced" makes all classes
    count alike, a mapping has weights by class, 1 for those that are left out. For several labels
    it is the weight of an image that has the class beside one that has not.
    split: by default three layer groups, two halves of the backbone (or of each) and the head.
    options: see `LearnerSettings`.
    Raises ValueError for an unknown backbone and for a model that is neither timm's nor
    torchvision's (that is for `Learner`), WeightsError when the weights can't be had.

    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    >>> learner.fine_tune(1)
    >>> learner.layer_groups.names
    ('body_1', 'body_2', 'head')
    """
    arguments.instance("data", data, ImageDataLoaders, "such as ImageDataLoaders.from_folder(...)")
    names, weights = by_name(backbone, weights)
    checked_names(names)
    if isinstance(weights, str) and hub.is_on_hub(weights):
        weights = hub.download(weights)
    arguments.flag("checkpoint_activations", checkpoint_activations)
    if loss is not None:
        arguments.function("loss", loss, "(outputs, targets) -> scalar")
    settings = LearnerSettings(**options)  # before the weights are read
    task = data.task
    if class_weights is not None:
        if loss is not None:
            raise ValueError(
                "class_weights= are weights of the task's own loss, and loss= is another one; put "
                "the weights into it, or leave one of the two out"
            )
        loss = task.weighted_loss(class_weights, data.classes, data.train_examples.labels)
        if loss is None:
            raise ValueError(
                "class_weights= are for classes, and the loss of "
                f"task={task.name!r} has no weights for them; leave class_weights= out, or pass a "
                "loss= of your own"
            )
    if metrics is None:
        metrics = task.standard_metrics(data.train_examples.counts())
    architecture = Architecture.create(
        names,
        task.output_count(data.classes),
        image_size=data.image_size,
        channels=data.channels,
        head=head,
        dropout=dropout,
        scaled=task.scales_outputs,
    )
    with turns.alone(), isolated():
        seed_everything(data.seed, "head")
        if settings.is_sharded and not distributed.is_first():
            model = made_without_weights(architecture)
        else:
            model = architecture.build(weights)
    scale = scale_of(model)
    if scale is not None:
        scale.fit(data.train_examples.labels)
    body = model.get_submodule("backbone")
    if checkpoint_activations:
        for member in members_of(body).values():
            checkpoint_backbone(member)
    # a model that was given may have been trained with other images than its name says
    says_normalisation = backbone if hasattr(backbone, "pretrained_cfg") else body
    assert isinstance(says_normalisation, nn.Module)
    return Learner(
        data.for_backbone(architecture.image_size, *normalisation_of(says_normalisation)),
        model,
        loss=_default_loss(task, model) if loss is None else loss,
        metrics=metrics,
        split=split,
        **options,
    )


def made_without_weights(architecture: Architecture) -> ImageClassifier:
    """The classifier on the meta device, in no memory, for a process that will get its shards.

    Where a backbone can't be made there, its weights are random ones on the CPU until then.
    """
    try:
        with without_weights():
            return architecture.build()
    except (RuntimeError, NotImplementedError):  # it computes with its weights while it is built
        return architecture.build()


def scale_of(model: ImageClassifier) -> TargetScale | None:
    """The module that brings outputs into the targets' unit, for tasks that have one."""
    scale = dict(model.named_modules()).get("head.scale")
    return scale if isinstance(scale, TargetScale) else None


def _default_loss(task: Task, model: ImageClassifier) -> Loss:
    scale = scale_of(model)
    return task.default_loss(None if scale is None else scale.std)


@usual_modes()
def load_learner(
    folder: str | Path, *, device: str | torch.device = "cpu", token: str | None = None
) -> Predictor:
    """The model that `learner.export(folder)` wrote, ready to predict and to be evaluated.

    folder: or "hf-hub:user/name", what `learner.push_to_hub("user/name")` uploaded to the Hugging
    Face hub, "hf-hub:user/name@revision" for a branch, tag or commit of it. It is downloaded once,
    and again where it has changed; without a network it is the last download. token: for a private
    repository; None is the one of `hf auth login` or of HF_TOKEN.
    Raises FileNotFoundError or ValueError for a folder or repository that holds no exported model,
    or a damaged one; PermissionError or ConnectionError where the hub refuses, or can't be reached.
    Nothing is unpickled. A task of your own must be registered before, see
    `finetune.tasks.register`.

    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     learner.export(f"{folder}/model")
    ...     predictor = load_learner(f"{folder}/model")
    >>> predictor.classes
    ('dark', 'light')
    """
    path = arguments.path("folder", folder)
    if token is not None:
        arguments.text("token", token)
    if hub.is_on_hub(path):
        path = hub.download(str(path), token)
    runtime = Runtime(available_device(device))
    description = export.read_description(path)
    model = description.architecture.build(weights=None)
    export.read_weights(path, model)
    runtime.place(model).eval()
    loss = _described_loss(description, model)
    if isinstance(loss, nn.Module):
        loss.to(runtime.device)
    counts: list[int] = []
    shares: dict[str, float] = {}
    train = description.data.get("train")
    if train is not None:
        counts = list(train.classes.values())
        sampling = None if description.training is None else description.training.sampling
        shares = seen_shares(description.task, train.classes, train.images, sampling)
    return Predictor(
        model,
        description.classes,
        ImagePipeline.create(description.preprocessing),
        task=description.task,
        post_processing=description.post_processing,
        runtime=runtime,
        loss=loss,
        metrics=description.task.standard_metrics(counts),
        training_shares=shares,
    )


def _described_loss(description: ModelDescription, model: ImageClassifier) -> Loss:
    """The loss of the task, with the class weights of training."""
    task, training = description.task, description.training
    weighted_loss: Loss | None = None
    if training is not None and training.class_weights:
        no_targets = torch.empty(0)
        weighted_loss = task.weighted_loss(training.class_weights, description.classes, no_targets)
    return _default_loss(task, model) if weighted_loss is None else weighted_loss
