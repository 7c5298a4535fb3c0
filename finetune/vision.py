"""vision_learner: images and a backbone -> Learner; load_learner: a folder -> Predictor."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from finetune import export
from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.images.preprocessing import Preprocessing
from finetune.inference.predictor import Predictor
from finetune.learner import Learner
from finetune.metrics import DEFAULTS, Metrics
from finetune.models import backbones
from finetune.models.backbones import Weights, input_size_of, normalisation_of
from finetune.models.classifier import Architecture
from finetune.models.group_values import PerGroup
from finetune.models.heads import HeadKind, TargetScale
from finetune.models.normalisation import NormPolicy
from finetune.models.splitting import Split
from finetune.optim.factories import adamw
from finetune.optim.group_optimizer import OptimizerChoice
from finetune.randomness import isolated, seed_everything
from finetune.tasks.task import check_task, default_loss
from finetune.training.events import Callback
from finetune.training.runtime.runtime import PrecisionChoice, Runtime
from finetune.training.setup import Loss


def vision_learner(
    data: ImageDataLoaders,
    backbone: str,
    *,
    weights: Weights = "pretrained",
    head: HeadKind = "mlp",
    dropout: float = 0.5,
    checkpoint_activations: bool = False,
    metrics: Metrics | None = None,
    loss: Loss | None = None,
    optimizer: OptimizerChoice = adamw,
    split: Split = "halves",
    norm: NormPolicy | Mapping[str, NormPolicy] | None = None,
    weight_decay: PerGroup[float] | None = None,
    device: str | torch.device | None = None,
    precision: PrecisionChoice = "auto",
    runtime: Runtime | None = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    label_smoothing: float = 0.0,
    ema: float | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Learner:
    """A Learner with a pretrained backbone and a new head; images are normalised to suit it.

    backbone: any timm model name, or one of torchvision's as "torchvision/resnet50". weights:
    "pretrained" downloads them; a path to a .safetensors or .pth file, or a mapping of tensors, is
    used instead; None is random weights.
    head: "mlp" or "linear", see `create_head`. checkpoint_activations: keep few of the backbone's
    outputs for the backward pass and compute the others again: less memory, more time.
    metrics, loss: None is what suits the task of the data: accuracy and cross-entropy; F1, accuracy
    and binary cross-entropy for several labels an image; the mean absolute error, R2 and the mean
    squared error for a regression, whose outputs are scaled to the targets of training. That loss
    is divided by the variance of each target in training; the metric "mse" is in their own unit.
    split: by default three layer groups, two halves of the backbone and the head. The other
    options are `Learner`'s.
    Raises ValueError for an unknown backbone, WeightsError when the weights can't be had.
    """
    size = data.image_size or input_size_of(backbone)
    architecture = Architecture(
        backbone, len(data.classes), size, head, dropout, scaled=data.task == "regression"
    )
    with isolated():
        seed_everything(data.seed, "head")
        model = architecture.build(weights)
    scale = TargetScale(len(data.classes))
    if data.task == "regression":
        scale.fit(data.train_examples.labels)
        model.get_submodule("head.scale").load_state_dict(scale.state_dict())
    if checkpoint_activations:
        backbones.checkpoint_activations(model.get_submodule("backbone"))
    return Learner(
        data.for_backbone(size, *normalisation_of(model.get_submodule("backbone"))),
        model,
        loss=default_loss(data.task, scale.std) if loss is None else loss,
        optimizer=optimizer,
        metrics=DEFAULTS[data.task] if metrics is None else metrics,
        split=split,
        norm=norm,
        weight_decay=weight_decay,
        device=device,
        precision=precision,
        runtime=runtime,
        accumulate=accumulate,
        clip_norm=clip_norm,
        mixup=mixup,
        cutmix=cutmix,
        label_smoothing=label_smoothing,
        ema=ema,
        callbacks=callbacks,
        progress=progress,
    )


def load_learner(folder: str | Path, *, device: str | torch.device = "cpu") -> Predictor:
    """The model that `learner.export(folder)` wrote, ready to predict.

    Raises FileNotFoundError or ValueError for a folder that holds no exported model, or a
    damaged one. Nothing is unpickled.
    """
    path = Path(folder)
    description = export.read_description(path)
    try:
        architecture = Architecture(**description["architecture"])
        preprocessing = Preprocessing.from_dict(description["preprocessing"])
        classes = description["classes"]
        task = check_task(description.get("task", "single_label"))  # which older ones lack
        thresholds = description.get("thresholds")
        temperature = float(description.get("temperature", 1.0))  # older ones have none
    except (KeyError, TypeError) as error:
        raise ValueError(f"the description in {str(path)!r} is incomplete: {error}") from error
    model = architecture.build(weights=None)
    export.read_weights(path, model)
    model.to(device).eval()
    return Predictor(
        model, classes, preprocessing.inputs,
        task=task, thresholds=thresholds, temperature=temperature,
    )  # fmt: skip
