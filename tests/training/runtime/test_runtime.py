"""Device, precision and layout: chosen for the hardware, or as the caller says."""

from dataclasses import replace

import pytest
import torch
from support import tiny_learner
from torch import nn

from finetune.training.runtime.runtime import Runtime, choose_runtime


def test_a_wrong_precision_names_the_right_ones():
    with pytest.raises(ValueError, match="auto, fp32, bf16 or fp16, got 'half'"):
        choose_runtime("cpu", "half")


def test_an_unknown_device_is_an_error():
    with pytest.raises(RuntimeError, match="tpu9"):
        choose_runtime("tpu9")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_callers_precision_is_taken(precision: str):
    assert choose_runtime("cpu", precision).precision == precision


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")],
)
def test_a_cpu_that_computes_in_bf16_is_used_so(monkeypatch, capabilities: dict, precision: str):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_runtime("cpu").precision == precision


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp16"), ((9, 0), "bf16")])
def test_older_gpus_get_fp16(monkeypatch, capability: tuple[int, int], precision: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_runtime("cuda:0").precision == precision


def test_convolutions_are_channels_last_on_a_cpu():
    model = choose_runtime("cpu").place(nn.Conv2d(3, 4, 3))
    assert model.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_forward_pass_runs_in_the_precision(precision: str, dtype: torch.dtype):
    with Runtime(torch.device("cpu"), precision).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


def test_only_fp16_needs_a_gradient_scaler():
    device = torch.device("cpu")
    scalers = {p: Runtime(device, p).gradient_scaler() for p in ("fp32", "bf16", "fp16")}
    assert [name for name, scaler in scalers.items() if scaler is not None] == ["fp16"]


def test_a_convolution_that_torch_gets_wrong_is_not_laid_out_so():
    chosen = choose_runtime("cpu")
    stem = nn.Sequential(nn.Conv2d(3, 48, 1, stride=2))
    assert not chosen.suited_to(stem).channels_last
    assert not any(way.channels_last for way in chosen.suited_to(stem).alternatives(stem))
    assert chosen.suited_to(nn.Sequential(nn.Conv2d(3, 48, 3, stride=2))).channels_last


def test_a_model_without_convolutions_needs_nothing_for_them():
    suited = choose_runtime("cpu").suited_to(nn.Linear(2, 2))
    assert not suited.convolutions
    assert not suited.fold


def test_what_an_older_version_did_not_record_stays_as_it_is():
    chosen = choose_runtime("cpu", "fp32")
    assert chosen.updated({"device": "cpu", "precision": "bf16"}) == replace(
        chosen, precision="bf16"
    )


def test_what_is_recorded_is_taken_back():
    chosen = Runtime("cpu", "bf16", channels_last=True, convolutions=True, fold=True)
    assert Runtime("cpu").updated(chosen.to_dict()) == chosen


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"device": "meta", "convolutions": True}, "convolutions=True is for CPUs"),
        ({"device": "cpu", "compile": True, "fold": True}, "compile=True goes without"),
        ({"device": "cpu", "precision": "half"}, "must be fp32, bf16 or fp16, got 'half'"),
    ],
)
def test_what_does_not_go_together_is_an_error(options: dict, text: str):
    with pytest.raises(ValueError, match=text):
        Runtime(**options)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler has some of its own
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_model_trains_to_the_same_losses(precision: str):
    plain, compiled = (
        tiny_learner(dropout=0.0, device=None, runtime=Runtime("cpu", precision, compile=on))
        for on in (False, True)
    )
    for learner in (plain, compiled):
        learner.fine_tune(2, 1e-2)
    losses = [[row.loss for row in learner.history.steps] for learner in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5 if precision == "fp32" else 2e-2)
