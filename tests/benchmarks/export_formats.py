"""Every exported format in the tools that open it: the greatest difference, size and time.

    python tests/benchmarks/export_formats.py

ImageNet EfficientNet-Lite0 with a linear head, probed on 300 photos of clothing at 224 pixels,
asked about the validation photos. Prints the table of examples/recipes/export.md.
"""

import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import openvino
import timm
import torch
from support import CLOTHING
from torch import Tensor

from finetune import ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.demo import BACKBONE, imagenet_weights
from finetune.tables import Table

TRAINING_IMAGES = 300
FORMATS = ("safetensors", "onnx", "onnx_fp16", "onnx_int8", "torch_export")
Run = Callable[[Tensor], np.ndarray]
"""From pixels, float32 [B, 3, S, S] in [0, 1], to probabilities [B, C]."""


def trained(weights: Path) -> Learner:
    rng = np.random.default_rng(0)
    files = sorted((CLOTHING / "train").glob("*/*"))
    chosen = [files[i] for i in sorted(rng.permutation(len(files))[:TRAINING_IMAGES])]
    held_out = sorted((CLOTHING / "validation").glob("*/*"))
    data = ImageDataLoaders.from_lists(
        [*chosen, *held_out],
        [file.parent.name for file in [*chosen, *held_out]],
        is_valid=[False] * len(chosen) + [True] * len(held_out),
        image_size=224,
        batch_size=32,
    )
    learner = vision_learner(data, BACKBONE, weights=weights, precision="fp32", progress=False)
    learner.probe()
    return learner


def in_onnx_runtime(file: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"images": pixels.numpy()})[0]


def in_openvino(file: Path) -> Run:
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", options)
    return lambda pixels: compiled({"images": pixels.numpy()})[0]


def in_torch(file: Path) -> Run:
    program = torch.export.load(file).module()
    return lambda pixels: program(pixels).numpy()


def in_timm(folder: Path, mean: Tensor, std: Tensor) -> Run:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return lambda pixels: model((pixels - mean) / std).softmax(dim=1).numpy()


def in_transformers(folder: Path, mean: Tensor, std: Tensor) -> Run:
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    return lambda pixels: model((pixels - mean) / std).logits.softmax(dim=1).numpy()


def seconds_of(run: Run, pixels: Tensor) -> float:
    """Of the processor, for one image of a batch; the median of some trials."""
    trials = []
    for _ in range(9):
        started_at = time.process_time()
        run(pixels)
        trials.append((time.process_time() - started_at) / len(pixels))
    return float(np.median(trials))


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        learner = trained(imagenet_weights(Path(temporary) / "imagenet.safetensors"))
        learner.export(folder, FORMATS)
        predictor = load_learner(folder)
        batches = [inputs for inputs, _ in learner.predictor().labelled_images().batches()]
        mean, std = predictor.pipeline.preprocessing.normalisation(torch.device("cpu"))
        mean, std = mean.view(3, 1, 1), std.view(3, 1, 1)
        pixels = [batch * std + mean for batch in batches]
        model = learner.model.eval()
        expected = np.concatenate([model(batch).softmax(dim=1).numpy() for batch in batches])
        runs: list[tuple[str, str, str, Run]] = [
            ("safetensors", "model.safetensors", "timm", in_timm(folder, mean, std)),
            ("", "model.safetensors", "transformers", in_transformers(folder, mean, std)),
            ("torch_export", "model.pt2", "torch", in_torch(folder / "model.pt2")),
        ]
        for name, file in (
            ("onnx", "model.onnx"),
            ("onnx_fp16", "model.fp16.onnx"),
            ("onnx_int8", "model.int8.onnx"),
        ):
            runs.append((name, file, "onnxruntime", in_onnx_runtime(folder / file)))
            runs.append(("", file, "openvino", in_openvino(folder / file)))
        rows = []
        for name, file, package, run in runs:
            found = np.concatenate([run(batch) for batch in pixels])
            difference = np.abs(found - expected).max()
            same = (found.argmax(axis=1) == expected.argmax(axis=1)).mean()
            size = (folder / file).stat().st_size / 1e6
            milliseconds = 1e3 * seconds_of(run, pixels[0][:8])
            version = importlib.metadata.version(package)
            rows.append([
                name, f"{package} {version}", f"{difference:.1g}", f"{100 * same:.1f} %",
                f"{size:.1f}", f"{milliseconds:.1f}",
            ])  # fmt: skip
    header = ["format", "opened by", "greatest difference", "same class", "MB", "ms an image"]
    print(Table.of(header, rows, words=2).markdown())
    print(f"{len(expected)} images")


if __name__ == "__main__":
    main()
