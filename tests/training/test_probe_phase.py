"""A plan may begin with a probe, and that of fine_tune does where the head is one linear layer."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import StopAt, copy_of, same_state

from finetune import Callback, ImageDataLoaders, Learner, vision_learner
from finetune.tasks import SingleLabel
from finetune.tasks.ranking import rank
from finetune.training.events import EpochEnd
from finetune.training.phase import Plan, probe_phase
from finetune.training.plan import FineTune


def data_of(photos: Path, **options: object) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8, **options)


def learner_of(photos: Path, **options: object) -> Learner:
    made: dict = {"weights": None, "progress": False, **options}
    return vision_learner(data_of(photos), "test_resnet", **made)


def planned(learner: Learner, request: FineTune, **options: bool) -> Plan:
    return learner.trainer.resolve(request, **options)


def head_of(learner: Learner) -> dict[str, torch.Tensor]:
    return copy_of(learner.model.get_submodule("head").state_dict())


class KeepHeads(Callback):
    """The head at the end of every epoch."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.heads: list[dict[str, torch.Tensor]] = []

    def on_epoch_end(self, event: EpochEnd) -> None:
        self.heads.append(head_of(self.learner))


# --- when there is one


def test_a_linear_head_begins_as_the_probe_of_the_frozen_features(photos: Path) -> None:
    learner, probed = learner_of(photos), learner_of(photos)
    heads = KeepHeads(learner)
    learner.fine_tune(1, callbacks=[heads])
    probed.probe()
    assert [row.phase for row in learner.history.epochs] == ["probe", "body_2 and above"]
    assert same_state(heads.heads[0], head_of(probed))
    expected = probed.history.epochs[0]
    assert learner.history.epochs[0].valid == pytest.approx(expected.valid)
    assert learner.history.epochs[0].train_loss == expected.train_loss


@pytest.mark.parametrize(
    ("of_learner", "of_call", "cache_features"),
    [
        ({"head": "mlp"}, {}, True),
        ({}, {"freeze_epochs": 2}, True),
        ({}, {"freeze_views": 1}, True),
        ({}, {}, False),
    ],
)
def test_other_heads_and_other_requests_take_steps(
    photos: Path, of_learner: dict, of_call: dict, cache_features: bool
) -> None:
    plan = planned(
        learner_of(photos, **of_learner), FineTune(1, **of_call), cache_features=cache_features
    )
    assert [phase.probe for phase in plan] == [False, False]
    assert not plan[-1].interpolate


def test_a_task_without_a_convex_loss_takes_steps(photos: Path) -> None:
    class OfAnotherKind(SingleLabel):
        has_probe = False

    files = sorted(photos.rglob("*.jpg"))
    labels = [file.parent.name for file in files]
    data = ImageDataLoaders.from_lists(
        files, labels, task=OfAnotherKind(), image_size=32, batch_size=8
    )
    learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    assert not planned(learner, FineTune(1))[0].probe


def test_labels_and_numbers_begin_with_one_too(photos: Path) -> None:
    files = sorted(photos.rglob("*.jpg"))
    numbers = [float(number) for number in range(len(files))]
    labels = [["even"] if number % 2 else ["odd", "any"] for number in range(len(files))]
    for task, targets in (("regression", numbers), ("multi_label", labels)):
        data = ImageDataLoaders.from_lists(files, targets, task=task, image_size=32, batch_size=8)
        learner = vision_learner(data, "test_resnet", weights=None, progress=False)
        learner.fine_tune(1)
        assert learner.history.epochs[0].phase == "probe"


# --- what follows it


def test_the_head_moves_no_faster_than_the_group_below(photos: Path) -> None:
    learner = learner_of(photos)
    for request in (FineTune(1), FineTune(4), FineTune(4, layer_decay=0.5), FineTune(4, 1e-2)):
        after_probe = planned(learner, request)[-1].peaks["lr"]
        after_steps = planned(learner, replace(request, freeze_epochs=1))[-1].peaks["lr"]
        assert after_probe == (*after_steps[:-1], after_steps[-2])


def test_an_end_that_is_worse_than_the_probe_is_not_kept(photos: Path) -> None:
    learner = learner_of(photos)
    learner.fine_tune(1, 10.0)
    probe, last = learner.history.epochs
    assert last.between is not None
    assert rank(last.valid) >= rank(probe.valid)
    assert rank(last.between.compared[1.0]) < rank(probe.valid)


def test_what_harms_is_kept_where_that_is_asked_for(photos: Path) -> None:
    learner = learner_of(photos)
    learner.fine_tune(1, 10.0, interpolate=False)
    probe, last = learner.history.epochs
    assert last.between is None
    assert rank(last.valid) < rank(probe.valid)


def test_an_end_that_is_no_worse_stays(photos: Path) -> None:
    learner = learner_of(photos, norm="eval")
    learner.fine_tune(1, 1e-12)  # nothing moves
    assert learner.history.epochs[-1].between is None


def test_without_validation_the_end_stays(photos: Path) -> None:
    learner = learner_of(photos)
    learner.data.valid = None
    learner.fine_tune(1)
    assert [row.between for row in learner.history.epochs] == [None, None]


def test_an_average_begins_with_the_probe(photos: Path) -> None:
    learner = learner_of(photos, ema=0.999)
    heads = KeepHeads(learner)
    learner.fine_tune(1, 1e-12, callbacks=[heads])
    for name, tensor in heads.heads[0].items():
        assert torch.allclose(heads.heads[1][name], tensor, atol=1e-6)


# --- interrupted and resumed


@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(
    photos: Path, tmp_path: Path, steps: int
) -> None:
    whole = learner_of(photos)
    whole.fine_tune(2, 10.0)
    learner = learner_of(photos)
    learner.fine_tune(2, 10.0, checkpoint=tmp_path / "run.ckpt", callbacks=[StopAt(steps)])
    resumed = learner_of(photos)
    resumed.load(tmp_path / "run.ckpt")
    resumed.resume()
    assert same_state(whole.model.state_dict(), resumed.model.state_dict())
    ends = [learner.history.epochs[-1].between for learner in (whole, resumed)]
    assert ends[0] is not None
    assert ends[0] == ends[1]


# --- phases that can't be


def test_a_probe_is_one_epoch_of_one_view(photos: Path) -> None:
    phase = probe_phase(learner_of(photos).layer_groups)
    with pytest.raises(ValueError, match="'probe' is a probe, which has epochs=1 and views=1"):
        replace(phase, epochs=2)


def test_a_probe_freezes_all_but_the_head(photos: Path) -> None:
    learner = learner_of(photos)
    phase = probe_phase(learner.layer_groups)
    with pytest.raises(ValueError, match="all groups but the last one, 'head', and this one"):
        learner.fit_plan((replace(phase, frozen=1),))


def test_a_probe_without_kept_features_says_what_to_do(photos: Path) -> None:
    learner = learner_of(photos)
    plan = (probe_phase(learner.layer_groups),)
    with pytest.raises(RuntimeError, match=r"can't be kept here, .* give freeze_epochs="):
        learner.fit_plan(plan, cache_features=False)
