"""What a loss counts is state, and in checkpoints; what it was given stays a setting."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from support import StopAt, copy_of, same_state, tiny_learner
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from finetune import CheckpointError, Learner
from finetune.training import checkpoint


class Centred(nn.Module):
    """Cross-entropy of outputs whose running mean is taken away; it moves in train mode."""

    mean: Tensor

    def __init__(self, *, scale: float = 1.0, in_place: bool = True) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("scale", torch.tensor(scale))
        self.in_place = in_place

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.training:
            mean = 0.9 * self.mean + 0.1 * outputs.detach().mean(0) + 1
            if self.in_place:
                self.mean.copy_(mean)
            else:
                self.mean = mean
        return cross_entropy((outputs - self.mean) * self.scale, targets)


class Queue(nn.Module):
    """Cross-entropy, scaled by the outputs of former batches: a buffer that is made and grows."""

    queue: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", None)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = cross_entropy(outputs, targets)
        if self.queue is not None:
            loss = loss * (1 + self.queue.abs().mean())
        if self.training:
            before = [] if self.queue is None else [self.queue]
            self.queue = torch.cat([*before, outputs.detach()])[-10:]
        return loss


LOSSES: dict[str, Any] = {
    "in place": Centred,
    "assigned": functools.partial(Centred, in_place=False),
    "behind a partial": lambda: functools.partial(Centred()),
    "behind a method": lambda: Centred().forward,
    "a queue": Queue,
}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_run_that_is_resumed_in_the_middle_of_an_epoch_is_exact(tmp_path: Path, kind: str):
    whole = tiny_learner(loss=LOSSES[kind]())
    whole.fit(2, 1e-2)
    stopped = tiny_learner(loss=LOSSES[kind]())
    stopped.fit(2, 1e-2, callbacks=[StopAt(5)])
    stopped.save(tmp_path / "run.pt")
    resumed = tiny_learner(loss=LOSSES[kind]())
    resumed.load(tmp_path / "run.pt")
    resumed.resume()
    assert same_state(whole.model.state_dict(), resumed.model.state_dict())
    assert same_state(
        whole.trainer.state_dict()["loss_buffers"], resumed.trainer.state_dict()["loss_buffers"]
    )
    assert resumed.validate() == whole.validate()


def test_a_second_fit_continues_in_a_new_learner(tmp_path: Path):
    def fit_twice(learner: Learner, *, stop: int | None = None) -> Learner:
        learner.fit(1, 1e-2)
        stops = [] if stop is None else [StopAt(stop)]
        learner.fit(1, 1e-2, checkpoint=tmp_path / "second.pt", callbacks=stops)
        return learner

    whole = fit_twice(tiny_learner(loss=Centred()))
    again = fit_twice(tiny_learner(loss=Centred()))
    assert same_state(whole.model.state_dict(), again.model.state_dict())
    new = tiny_learner(loss=Centred())
    new.fit(1, 1e-2, checkpoint=tmp_path / "second.pt")
    assert same_state(whole.model.state_dict(), new.model.state_dict())


def test_a_buffer_that_stays_is_a_setting(tmp_path: Path):
    tiny_learner(loss=Centred()).fit(1, checkpoint=tmp_path / "run.pt")
    other = tiny_learner(loss=Centred(scale=2.0))
    with pytest.raises(CheckpointError, match=r"loss scale was 1 and is 2\. So"):
        other.fit(1, checkpoint=tmp_path / "run.pt")


def test_load_leaves_the_settings_of_the_loss_alone(tmp_path: Path):
    first = tiny_learner(loss=Centred())
    first.fit(1)
    first.save(tmp_path / "run.pt")
    loss = Centred(scale=2.0)
    tiny_learner(loss=loss).load(tmp_path / "run.pt")
    assert loss.scale == 2
    assert loss.mean.abs().sum() > 1


def test_load_begins_from_the_loss_as_it_was_given_where_a_file_has_no_state(tmp_path: Path):
    loss = Centred()
    learner = tiny_learner(loss=loss)
    learner.save(tmp_path / "new.pt")
    content = checkpoint.read(tmp_path / "new.pt")
    del content["loss"], content["loss_buffers"]
    checkpoint.write(tmp_path / "old.pt", content)
    for name in ("new.pt", "old.pt"):
        learner.fit(1)
        learner.load(tmp_path / name)
        assert torch.equal(loss.mean, torch.zeros(2))


def test_a_file_of_a_run_with_another_loss_gives_its_weights(tmp_path: Path):
    first = tiny_learner(loss=Centred())
    first.fit(1, callbacks=[StopAt(3)])
    first.save(tmp_path / "run.pt")
    second = tiny_learner()
    second.load(tmp_path / "run.pt")
    assert same_state(first.model.state_dict(), second.model.state_dict())
    with pytest.raises(CheckpointError, match="These differ: loss was Centred and is cross_ent"):
        second.resume()


class Margin(Centred):
    """With a parameter beside the buffers, which older files have among what was learned."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().forward(outputs + self.bias, targets)


def test_an_older_file_has_buffers_among_what_was_learned(tmp_path: Path):
    first = tiny_learner(loss=Margin())
    first.fit(1)
    first.save(tmp_path / "run.pt")
    content = checkpoint.read(tmp_path / "run.pt")
    del content["loss_buffers"]
    content["loss"] = first.layer_groups.loss_module.state_dict()
    checkpoint.write(tmp_path / "old.pt", content)
    loss = Margin()
    tiny_learner(loss=loss).load(tmp_path / "old.pt")
    assert same_state(loss.state_dict(), content["loss"])


def test_a_parameter_that_is_missing_is_told(tmp_path: Path):
    learner = tiny_learner(loss=Margin())
    learner.save(tmp_path / "run.pt")
    content = checkpoint.read(tmp_path / "run.pt")
    content["loss"] = {}
    checkpoint.write(tmp_path / "run.pt", content)
    with pytest.raises(CheckpointError, match="is a checkpoint of another loss: bias is missing"):
        learner.load(tmp_path / "run.pt")


@pytest.mark.parametrize("looks", [lambda it: it.validate(), lambda it: it.predictions()])
def test_evaluation_is_in_eval_mode_and_moves_nothing(looks: Any):
    class Restless(Centred):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            assert self.training == torch.is_grad_enabled()
            self.scale += 1  # whatever the mode
            return super().forward(outputs, targets)

    loss = Restless()
    learner = tiny_learner(loss=loss)
    before = copy_of(loss.state_dict())
    looks(learner)
    assert same_state(before, loss.state_dict())
    assert loss.training
