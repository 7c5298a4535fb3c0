"""Device, precision and layout: chosen for the hardware, or as the caller says."""

import itertools
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import same_state, tiny_learner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from finetune import DataLoaders, Learner
from finetune.training.runtime.runtime import Runtime, choose_runtime


def test_a_wrong_precision_names_the_right_ones():
    with pytest.raises(ValueError, match="'auto', 'fp32', 'bf16', 'fp16', got 'half'"):
        choose_runtime("cpu", "half")


def test_an_unknown_device_is_an_error():
    with pytest.raises(ValueError, match=r"device must be 'cuda', 'mps', 'cpu' .*, got 'tpu9'$"):
        choose_runtime("tpu9")
    with pytest.raises(ValueError, match="got 'gpu'; of an NVIDIA or AMD GPU it is 'cuda'"):
        choose_runtime("gpu")


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


def test_gpus_run_dense_convolutions_in_channels_last_and_groups_in_the_usual_layout(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    dense, in_groups = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
    chosen = choose_runtime("cuda:0")
    assert chosen.suited_to(nn.Sequential(dense)).channels_last
    assert not chosen.suited_to(nn.Sequential(dense, in_groups)).channels_last
    assert not choose_runtime("cuda:0", "fp32").channels_last


def test_only_fp16_needs_a_gradient_scaler():
    device = torch.device("cpu")
    scalers = {p: Runtime(device, p).gradient_scaler() for p in ("fp32", "bf16", "fp16")}
    assert [name for name, scaler in scalers.items() if scaler is not None] == ["fp16"]


def test_a_convolution_that_torch_gets_wrong_is_not_laid_out_so():
    chosen = choose_runtime("cpu")
    stem = nn.Sequential(nn.Conv2d(3, 48, 1, stride=2))
    assert not chosen.suited_to(stem).channels_last
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
        (
            {"device": "cpu", "precision": "half"},
            "must be one of 'fp32', .*, got 'half'",
        ),
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


# --- nothing is chosen by the clock


def learner_with_convolutions() -> Learner:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(32, 3, 8, 8, generator=random)
    pairs = TensorDataset(images, (images.mean((1, 2, 3)) > 0).long())
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)),
    )
    data = DataLoaders(DataLoader(pairs, 8, shuffle=True))
    return Learner(data, model, loss=nn.functional.cross_entropy, progress=False)


def test_the_clock_changes_no_weight_of_a_long_run(monkeypatch):
    """By this clock whatever is timed first is slow, and what is timed later ever faster."""
    usual, watched = learner_with_convolutions(), learner_with_convolutions()
    runtime = watched.runtime
    usual.fit(80, 1e-2)
    times = (1e6 - 1e6 / number for number in itertools.count(1))
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    watched.fit(80, 1e-2)
    assert watched.runtime == runtime
    assert same_state(usual.model.state_dict(), watched.model.state_dict())


LONG_RUN = """
import hashlib, sys
sys.path[:0] = sys.argv[1:]
from test_runtime import learner_with_convolutions
learner = learner_with_convolutions()
learner.fit(110, 1e-2)
digest = hashlib.sha256()
for tensor in learner.model.state_dict().values():
    digest.update(tensor.numpy().tobytes())
print(learner.runtime, digest.hexdigest())
"""


def long_run_in_a_new_process() -> str:
    """The runtime and a hash of the weights, with what the hardware of this machine suggests."""
    here = Path(__file__)
    arguments = [sys.executable, "-c", LONG_RUN, str(here.parent), str(here.parents[2])]
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_busy_neighbours_change_no_weight():
    quiet = long_run_in_a_new_process()
    spin = [sys.executable, "-c", "while True: sum(range(100_000))"]
    neighbours = [subprocess.Popen(spin) for _ in range(os.cpu_count() or 1)]
    try:
        busy = long_run_in_a_new_process()
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert busy == quiet


# --- what was chosen, in the learner and in its files


def test_a_learner_says_how_it_runs():
    assert tiny_learner(precision="bf16").runtime.precision == "bf16"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_keeps_the_recorded_runtime(tmp_path, precision: str):
    elsewhere = Runtime("cpu", precision, channels_last=False, automatic=True)
    tiny_learner(device=None, runtime=elsewhere).save(tmp_path / "a.ckpt")
    learner = tiny_learner()
    learner.load(tmp_path / "a.ckpt")
    assert learner.runtime == elsewhere


def test_a_model_with_weights_of_five_dimensions_is_not_in_channels_last():
    model = nn.Sequential(nn.Conv3d(3, 2, 1), nn.Conv2d(3, 2, 1))
    assert not Runtime("cpu", channels_last=True).suited_to(model).channels_last
    Runtime("cpu", channels_last=True).place(model)
    assert model[0].weight.is_contiguous()


def test_a_sharded_model_is_contiguous_and_keeps_its_norms():
    runtime = choose_runtime("cpu", sharding="full")
    assert (runtime.channels_last, runtime.fold, runtime.sharding) == (False, False, "full")
    assert str(runtime).endswith("sharded")


@pytest.mark.parametrize("option", ["channels_last", "fold", "compile"])
def test_what_goes_without_sharding_is_an_error(option: str):
    with pytest.raises(ValueError, match=f"sharding='full' goes without {option}=True"):
        Runtime("cpu", sharding="full", **{option: True})


def test_an_unknown_sharding_names_the_right_one():
    with pytest.raises(ValueError, match="'full', got 'half'"):
        choose_runtime("cpu", sharding="half")


def test_a_run_that_goes_on_in_shards_leaves_out_what_does_not_go_with_them():
    saved = Runtime("cpu", "bf16", channels_last=True, fold=True).to_dict()
    updated = choose_runtime("cpu", sharding="full").updated(saved)
    assert (updated.precision, updated.channels_last, updated.fold) == ("bf16", False, False)
    assert updated.sharding == "full"
