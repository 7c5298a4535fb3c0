"""model.fp16.onnx and model.int8.onnx: graphs for ONNX Runtime that compute with fewer bits."""

import ast
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch

from finetune.export.comparing import compare, in_words, is_harmful
from finetune.export.description import Comparison, ModelDescription
from finetune.export.graphs import explained, quiet
from finetune.export.onnx import LARGEST_FILE, Onnx
from finetune.export.served import ModelToExport
from finetune.randomness import generator, isolated
from finetune.wording import warn

CALIBRATION_IMAGES = 128
"""Of the validation images; the range of an activation hardly changes with more."""

_IMAGES_AT_A_TIME = 16
"""All activations of so many images are in memory at once."""

_QUANTISED = ["Conv", "Gemm", "MatMul", "Relu", "Clip"]
"""What multiplies, and what ONNX Runtime joins with it. In a small vision transformer on digits the
likeliest class is so the same for 99.4 % of the images; with sums and norms in 8 bits, too, for
96.1 %. For EfficientNet-Lite0 on photos it makes no difference, and without Clip, which bounds what
a convolution gives, it is 88 % rather than 95 %."""

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Under this key torch's exporter says of a node in which modules it is, as a list of paths."""


class SmallerOnnx(Onnx):
    """An ONNX graph that is made of the exact one, and is compared with it on validation images."""

    more_files: ClassVar[tuple[str, ...]] = ()
    uses_images: ClassVar[bool] = True

    def write(self, folder: Path, exported: ModelToExport) -> None:
        """Converts the graph, and measures what it loses, where there are validation images.

        Raises RuntimeError for a model that can't be converted, or whose answers are not finite
        afterwards.
        """
        file = folder / self.file
        task = exported.description.task
        with isolated(), quiet(), TemporaryDirectory() as temporary:
            with explained("a graph"):
                program = exported.program
            with explained(self.name):
                self._check_size(program)
                exact = Path(temporary) / "model.onnx"
                self.save(exported, exact)
                self.convert(exact, file, exported)
                self._check_answers(file, exported)
            comparison: Comparison | None = None
            if exported.images is not None:
                comparison = compare(exported, self.load(file))
                exported.comparisons[self.name] = comparison
        if comparison is not None and is_harmful(comparison, task):
            name = next(iter(comparison.before))
            before, after = comparison.before[name], comparison.after[name]
            warn(
                f"format={self.name!r} loses much of this model: {name} is {before:.4f} before and "
                f"{after:.4f} after, on {comparison.images:,} validation images; take 'onnx' where "
                "that counts"
            )

    def _check_size(self, program: torch.export.ExportedProgram) -> None:
        size = sum(tensor.nbytes for tensor in program.state_dict.values())
        if size > LARGEST_FILE:
            raise ValueError(
                f"its weights have {size / 1e9:.1f} GB, and only up to {LARGEST_FILE / 1e9:.1f} GB "
                "can be converted; format='onnx' has no such limit"
            )

    @abstractmethod
    def convert(self, exact: Path, file: Path, exported: ModelToExport) -> None:
        """Writes the smaller graph of the exact one."""

    def _check_answers(self, file: Path, exported: ModelToExport) -> None:
        """Raises ValueError unless answers for one image and for several are finite."""
        input_shape = exported.description.preprocessing.input_shape
        run = self.load(file)
        for count in (1, 3):
            shape = (count, *input_shape)
            images = torch.rand(shape, generator=generator(0, "export", count))
            if not run(images).isfinite().all():
                raise ValueError("its answers are NaN or infinite then")

    def introduction(self, description: ModelDescription) -> str:
        text = f"From `{self.file}`, with ONNX Runtime: {self.in_words(description)}."
        comparison = description.comparisons.get(self.name)
        if comparison is not None:
            text += f" {in_words(comparison, description.task)}"
        return text

    @abstractmethod
    def in_words(self, description: ModelDescription) -> str:
        """What computes with fewer bits, as a clause."""


class OnnxFp16(SmallerOnnx):
    """Weights and activations as float16; images come and answers go as float32."""

    name: ClassVar[str] = "onnx_fp16"
    file: ClassVar[str] = "model.fp16.onnx"

    def convert(self, exact: Path, file: Path, exported: ModelToExport) -> None:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(exact), keep_io_types=True), file)

    def in_words(self, description: ModelDescription) -> str:
        return (
            "half the size, in float16, with images and probabilities in float32; quick on GPUs, "
            "and slower than the exact one on most CPUs"
        )


class OnnxInt8(SmallerOnnx):
    """The backbone's weights and activations in 8 bits, calibrated with validation images.

    The graph has QDQ form: what goes into a layer is uint8, weights are int8 with a scale for each
    output channel. What is behind the backbone stays in float32, as it takes no time and a
    probability of 8 bits has steps of 0.004.
    """

    name: ClassVar[str] = "onnx_int8"
    file: ClassVar[str] = "model.int8.onnx"
    needs_images: ClassVar[bool] = True

    def convert(self, exact: Path, file: Path, exported: ModelToExport) -> None:
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = exact.with_name("prepared.onnx")
        # shapes of ONNX are enough; the symbolic ones fail for some transformers
        quant_pre_process(exact, prepared, skip_symbolic_shape=True)
        excluded = []
        for node in onnx.load(prepared, load_external_data=False).graph.node:
            if _is_outside_the_backbone(node):
                excluded.append(node.name)
        quantize_static(
            prepared,
            file,
            _Calibration(exported),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=_QUANTISED,
            nodes_to_exclude=excluded,
        )

    def in_words(self, description: ModelDescription) -> str:
        return (
            "the backbone in 8 bits, a quarter of its size, its activations calibrated with up to "
            f"{CALIBRATION_IMAGES} validation images; on x86 processors without VNNI, before about "
            "2019, sums may overflow: measure there"
        )


def _is_outside_the_backbone(node: Any) -> bool:
    """Whether an ONNX node is of the head, of the normalisation or of the activation."""
    scopes: list[str] = []
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = ast.literal_eval(entry.value)
    if not scopes:
        return False
    return "model.head" in scopes or "model" not in scopes


class _Calibration:
    """Some images, evenly spread over those of validation; a `CalibrationDataReader`."""

    def __init__(self, exported: ModelToExport) -> None:
        answers, _ = exported.answers
        self._batches = _chosen(exported, len(answers))

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _chosen(exported: ModelToExport, total: int) -> Iterator[dict[str, Any]]:
    count = min(CALIBRATION_IMAGES, total)
    chosen = torch.linspace(0, total - 1, count).round().long()
    start = 0
    for images, _ in exported.labelled_batches():
        numbers = chosen[(chosen >= start) & (chosen < start + len(images))] - start
        start += len(images)
        for few in torch.split(numbers, _IMAGES_AT_A_TIME):
            if len(few):
                yield {"images": images[few].numpy()}
