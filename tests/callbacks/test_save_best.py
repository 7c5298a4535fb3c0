"""SaveBest: the checkpoint of the best epoch, and only of the best."""

from pathlib import Path

from support import copy_of, same_state, tiny_data, tiny_learner

from finetune import Callback, SaveBest
from finetune.training.events import EpochEnd, Save


def test_it_saves_when_there_is_a_new_best(tmp_path: Path):
    callback = SaveBest(tmp_path / "best.pt", "accuracy")
    rows = [EpochEnd("fit", i, 0.0, {"accuracy": v}) for i, v in enumerate([0.5, 0.4, 0.6])]
    save = Save(tmp_path / "best.pt")
    assert [callback.on_epoch_end(row) for row in rows] == [save, None, save]


def test_its_state_is_the_best_value(tmp_path: Path):
    callback, other = SaveBest("best.pt"), SaveBest("best.pt")
    callback.on_epoch_end(EpochEnd("fit", 0, 0.0, {"loss": 0.5}))
    other.load_state_dict(callback.state_dict())
    assert other.on_epoch_end(EpochEnd("fit", 1, 0.0, {"loss": 0.6})) is None


def test_loading_it_brings_the_best_epoch_back(tmp_path: Path):
    states: list[dict] = []

    class Keep(Callback):
        def on_epoch_end(self, event: EpochEnd) -> None:
            states.append(copy_of(learner.model.state_dict()))

    learner = tiny_learner(data=tiny_data(count=8))
    learner.fit(4, 3.0, callbacks=[Keep(), SaveBest(str(tmp_path / "best.pt"))])
    losses = [row.valid["loss"] for row in learner.history.epochs]
    learner.load(tmp_path / "best.pt")
    assert same_state(learner.model.state_dict(), states[losses.index(min(losses))])
    assert learner.validate()["loss"] == min(losses)
    best = losses.index(min(losses))
    assert [row.valid["loss"] for row in learner.history.epochs] == losses[: best + 1]
