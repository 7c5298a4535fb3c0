"""TensorBoard: what its own reader finds."""

import sys
from pathlib import Path

import pytest
from support import StopAt, tiny_data, tiny_learner

from finetune import Learner, TensorBoard


def learner_with(folder: Path, **options: object) -> Learner:
    """Five steps an epoch."""
    callback = TensorBoard(folder, every=2)
    return tiny_learner(
        data=tiny_data(count=20), callbacks=[callback], metrics=["accuracy"], **options
    )


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        name: [(row.step, row.value) for row in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def test_losses_metrics_and_rates_are_there(tmp_path: Path):
    learner = learner_with(tmp_path)
    learner.fine_tune(1)
    found, history = scalars(tmp_path), learner.history
    assert set(found) == {"loss/step", "loss/train", "loss/valid", "metrics/accuracy"} | {
        f"lr/{name}" for name in learner.layer_groups.names
    }
    shown = [0, 2, 4, 5, 7, 9]
    assert [step for step, _ in found["loss/step"]] == [i + 1 for i in shown]
    for name, wanted in {
        "loss/step": [history.steps[i].loss for i in shown],
        "lr/0": [history.steps[i].lr[0] for i in shown],
        "lr/1": [history.steps[i].lr[1] for i in shown],
        "loss/train": [row.train_loss for row in history.epochs],
        "loss/valid": [row.valid["loss"] for row in history.epochs],
        "metrics/accuracy": [row.valid["accuracy"] for row in history.epochs],
    }.items():
        assert [value for _, value in found[name]] == pytest.approx(wanted)
    assert [step for step, _ in found["loss/valid"]] == [5, 10]


def test_a_second_fit_goes_on_along_the_axis(tmp_path: Path):
    learner = learner_with(tmp_path)
    learner.fit(1)
    learner.fit(1)
    assert [step for step, _ in scalars(tmp_path)["loss/train"]] == [5, 10]


def test_what_a_resumed_fit_repeats_is_there_once(tmp_path: Path):
    learner = learner_with(tmp_path)
    learner.fit(3, callbacks=[StopAt(7)])
    learner.save(tmp_path / "a.ckpt")
    learner.resume()  # and now the process dies without a checkpoint
    again = learner_with(tmp_path)
    again.load(tmp_path / "a.ckpt")
    again.resume()
    found = scalars(tmp_path)
    assert [step for step, _ in found["loss/train"]] == [5, 10, 15]
    assert [step for step, _ in found["loss/step"]] == [1, 3, 5, 6, 8, 10, 11, 13, 15]


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'finetune-vision\[tracking\]'"):
        TensorBoard(tmp_path)


def test_a_number_of_steps_that_is_none(tmp_path: Path):
    with pytest.raises(ValueError, match="every must be a whole number of at least 1, got 0"):
        TensorBoard(tmp_path, every=0)
