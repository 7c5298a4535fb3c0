"""Which formats there are, and what is missing for them."""

import sys

import pytest

from finetune.export.formats import check_formats, describe_formats


def test_formats_come_once_and_in_order() -> None:
    assert check_formats("torch_export") == ("torch_export",)
    assert check_formats(["onnx", "safetensors", "onnx"]) == ("safetensors", "onnx")


def test_what_a_format_needs_comes_with_it() -> None:
    assert check_formats("app") == ("safetensors", "app")
    assert check_formats(["app", "onnx"]) == ("safetensors", "onnx", "app")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("safetensor", r"got 'safetensor'; did you mean 'safetensors'\?"),
        (["onnx", "tflite"], "must be one of safetensors, onnx, .*, app, got 'tflite'"),
        ([], "names nothing to write"),
    ],
)
def test_a_wrong_format_is_named(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_formats(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_library_is_named_with_its_extra(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.*finetune-vision\[onnx\]"):
        check_formats("onnx")
    with pytest.raises(ModuleNotFoundError, match=f"format 'onnx_int8' needs .*{package}"):
        check_formats("onnx_int8")
    assert check_formats("safetensors") == ("safetensors",)


def test_the_description_says_what_goes_in_and_comes_out() -> None:
    described = describe_formats(("safetensors", "onnx"), (3, 32, 32))
    assert described["onnx"]["input"]["shape"] == ["batch", 3, 32, 32]
    assert [own["output"] for own in described.values()] == ["logits", "probabilities"]
