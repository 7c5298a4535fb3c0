"""Typed settings of a training run; a YAML file, the command line and the run folder share them."""

from dataclasses import dataclass

from finetune.data.decode import Resize
from finetune.data.image_loaders import OnError
from finetune.models.heads import HeadKind
from finetune.training.runtime import PrecisionChoice


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What `finetune train` does.

    Args:
        data: folder with one folder of images a class
        output: folder for the run: checkpoint, history, plots and the exported model
        model: any timm model name, or one of torchvision's (torchvision/resnet50)
        weights: "pretrained" (downloaded), a .safetensors or .pth file, or null for random weights
        train: folder of a given split, below data
        valid: folder of a given split, below data
        valid_fraction: share of each class held out for validation, without a given split
        image_size: side of the model's input in pixels; null: what the backbone was trained with
        batch_size: images per batch
        seed: of the split, the order, the augmentation and the new head
        augment: random views of the training images
        resize: how a rectangle becomes a square
        on_error: what to do about an unreadable image
        head: the new head
        epochs: epochs with everything unfrozen
        freeze_epochs: epochs before, with the head alone; null as in `Learner.fine_tune`
        base_lr: peak learning rate of the head in the frozen phase
        lr_mult: how much lower the rate of the first layers is than the head's; null as in
            `Learner.fine_tune`
        precision: of the forward pass
        accumulate: batches per update
        clip_norm: largest norm of the gradient
        device: cuda, mps or cpu; null takes the best there is
    """

    data: str | None = None
    output: str = "runs/finetune"
    model: str = "convnext_tiny"
    weights: str | None = "pretrained"
    train: str | None = None
    valid: str | None = None
    valid_fraction: float = 0.2
    image_size: int | None = None
    batch_size: int = 64
    seed: int = 0
    augment: bool = True
    resize: Resize = "crop"
    on_error: OnError = "raise"
    head: HeadKind = "mlp"
    epochs: int = 5
    freeze_epochs: int | None = None
    base_lr: float = 2e-3
    lr_mult: float | None = None
    precision: PrecisionChoice = "auto"
    accumulate: int = 1
    clip_norm: float | None = None
    device: str | None = None
