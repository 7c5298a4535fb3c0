"""What torchrun's variables say, and what they say where there are none."""

import pytest

from finetune import launch
from finetune.training.runtime.runtime import Runtime

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OF_TORCHRUN = ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *OF_TORCHRUN):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_process() -> None:
    assert (launch.rank(), launch.world_size()) == (0, 1)
    assert (launch.local_rank(), launch.local_world_size()) == (None, 1)
    assert (launch.attempt(), launch.keeps_store()) == (0, False)


def test_the_variables_of_torchrun_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    values = ("5", "8", "1", "4", "2", "True")
    for name, value in zip((*VARIABLES, *OF_TORCHRUN), values, strict=True):
        monkeypatch.setenv(name, value)
    assert (launch.rank(), launch.world_size()) == (5, 8)
    assert (launch.local_rank(), launch.local_world_size()) == (1, 4)
    assert (launch.attempt(), launch.keeps_store()) == (2, True)


def test_a_size_without_a_rank_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a shell that a scheduler has opened for a job of several."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (launch.rank(), launch.world_size()) == (0, 1)


def test_a_variable_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="RANK='first', which is no number"):
        launch.rank()


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert str(Runtime("cuda").device) == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert str(Runtime("cuda").device) == "cuda:3"
    assert str(Runtime("cuda:1").device) == "cuda:1"
    assert str(Runtime("cpu").device) == "cpu"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)  # each is shown its own alone
    assert str(Runtime("cuda").device) == "cuda:0"
