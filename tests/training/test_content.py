"""A checkpoint whose entries are missing or changed is refused whole, or taken whole."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import StopAt, same, tiny_learner

from finetune import CheckpointError, Learner
from finetune.training import checkpoint

DELETED = object()
REPLACEMENTS = {
    "deleted": DELETED,
    "null": None,
    "text": "text",
    "negative": -1,
    "mapping": {},
    "list": [1],
    "tensor": torch.ones(7),
    "larger tensor": torch.ones(2, 5, 3),
}


def new_learner() -> Learner:
    return tiny_learner(metrics=["accuracy"], ema=0.9)


def places(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each entry of a checkpoint is, however deep."""
    if place:
        yield place
    if isinstance(content, dict):
        for key, value in content.items():
            yield from places(value, (*place, key))
    if isinstance(content, list) and content and isinstance(content[0], dict):
        yield from places(content[0], (*place, 0))


def changed(content: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    content = copy.deepcopy(content)
    owner: Any = content
    for key in place[:-1]:
        owner = owner[key]
    if value is DELETED:
        del owner[place[-1]]
    else:
        owner[place[-1]] = value
    return content


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a run that stopped in the middle of an epoch, with averaged weights."""
    learner = new_learner()
    learner.fine_tune(1, callbacks=[StopAt(11)])
    path = tmp_path_factory.mktemp("content") / "run.pt"
    learner.save(path)
    return checkpoint.read(path)


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_a_changed_entry_is_an_error_that_changes_nothing_or_all_is_loaded(
    content: dict[str, Any], replacement: str
) -> None:
    learner = new_learner()
    learner.fit(1, callbacks=[StopAt(3)])
    before = copy.deepcopy(learner.trainer.state_dict())
    messages = []
    for place in places(content):
        damaged = changed(content, place, REPLACEMENTS[replacement])
        try:
            learner.trainer.load_state_dict(damaged, Path("run.pt"))
        except CheckpointError as error:
            messages.append(str(error))
            assert same(before, learner.trainer.state_dict()), place
        else:
            before = copy.deepcopy(learner.trainer.state_dict())
    assert len(messages) > 50
    assert all("run.pt" in message for message in messages)


@pytest.mark.parametrize(
    "name",
    ["groups.0.norm", "optimizer.state", "run.loss_sum", "average.kept", "callbacks", "model"],
)
def test_a_missing_entry_is_named(content: dict[str, Any], name: str) -> None:
    damaged = changed(content, tuple(name.split(".")), DELETED)
    with pytest.raises(CheckpointError, match=f"'run.pt' has no entry '{name}'"):
        new_learner().trainer.load_state_dict(damaged, Path("run.pt"))


def test_a_moment_of_the_wrong_shape_is_told(content: dict[str, Any]) -> None:
    damaged = changed(content, ("optimizer", "state", "0.0.weight", "exp_avg"), torch.ones(4))
    with pytest.raises(CheckpointError, match=r"state exp_avg of '0.0.weight' is \(4,\), the par"):
        new_learner().trainer.load_state_dict(damaged, Path("run.pt"))


def test_a_moment_that_is_missing_is_told(content: dict[str, Any]) -> None:
    damaged = changed(content, ("optimizer", "state", "0.0.bias", "exp_avg_sq"), DELETED)
    with pytest.raises(CheckpointError, match=r"optimizer state of '0.0.bias' has no exp_avg_sq"):
        new_learner().trainer.load_state_dict(damaged, Path("run.pt"))
