"""CSVLog: one file over all phases and fits, also after an interruption."""

import csv
from pathlib import Path

import pytest
from support import StopAt, tiny_data, tiny_learner

from finetune import Callback, CSVLog, Learner, Stop
from finetune.training.events import EpochEnd, EpochStart, FitStart


def learner_with(path: Path, **options: object) -> Learner:
    """Two steps an epoch."""
    return tiny_learner(data=tiny_data(count=8), callbacks=[CSVLog(path)], **options)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def places(path: Path) -> list[tuple[str, str, str]]:
    return [(row["fit"], row["phase"], row["epoch"]) for row in rows(path)]


def test_the_file_has_all_phases_and_fits(tmp_path: Path):
    learner = learner_with(tmp_path / "new" / "log.csv", metrics=["accuracy"])
    learner.fine_tune(2)
    learner.fit(1)
    path = tmp_path / "new" / "log.csv"
    assert list(rows(path)[0]) == [
        "fit", "phase", "epoch", "train_loss", "seconds", "valid_loss", "valid_accuracy",
    ]  # fmt: skip
    assert places(path) == [
        ("1", "frozen", "1"), ("1", "unfrozen", "1"), ("1", "unfrozen", "2"), ("2", "fit", "1"),
    ]  # fmt: skip
    for row, epoch in zip(rows(path), learner.history.epochs, strict=True):
        assert float(row["train_loss"]) == epoch.train_loss
        assert float(row["valid_loss"]) == epoch.valid["loss"]
        assert float(row["valid_accuracy"]) == epoch.valid["accuracy"]


def test_it_is_written_while_it_trains(tmp_path: Path):
    seen: list[int] = []

    class Look(Callback):
        def on_epoch_start(self, event: EpochStart) -> None:
            seen.append(len(rows(tmp_path / "log.csv")))

    learner_with(tmp_path / "log.csv").fit(3, callbacks=[Look()])
    assert seen == [0, 1, 2]


def test_another_learner_goes_on_below_with_the_next_number(tmp_path: Path):
    learner_with(tmp_path / "log.csv").fit(1)
    learner_with(tmp_path / "log.csv").fit(1)
    assert places(tmp_path / "log.csv") == [("1", "fit", "1"), ("2", "fit", "1")]


def test_a_new_metric_gets_a_column_at_the_end(tmp_path: Path):
    learner_with(tmp_path / "log.csv").fit(1)
    learner_with(tmp_path / "log.csv", metrics=["accuracy"]).fit(1)
    learner_with(tmp_path / "log.csv").fit(1)
    found = rows(tmp_path / "log.csv")
    assert list(found[0])[-2:] == ["valid_loss", "valid_accuracy"]
    assert [bool(row["valid_accuracy"]) for row in found] == [False, True, False]
    assert all(float(row["valid_loss"]) > 0 for row in found)


@pytest.mark.parametrize("steps", [1, 3, 4, 5])
def test_a_resumed_fit_keeps_its_number(tmp_path: Path, steps: int):
    learner = learner_with(tmp_path / "log.csv")
    learner.fit(1)
    learner.fine_tune(2, callbacks=[StopAt(steps)])
    learner.resume()
    assert places(tmp_path / "log.csv") == [
        ("1", "fit", "1"), ("2", "frozen", "1"), ("2", "unfrozen", "1"), ("2", "unfrozen", "2"),
    ]  # fmt: skip


@pytest.mark.parametrize("steps", [1, 3])
def test_rows_after_the_checkpoint_are_replaced(tmp_path: Path, steps: int):
    learner = learner_with(tmp_path / "log.csv")
    learner.fit(4, callbacks=[StopAt(steps)])
    learner.save(tmp_path / "early.ckpt")
    learner.resume()  # and now the process dies without a checkpoint
    other = learner_with(tmp_path / "log.csv")
    other.fit(1)
    again = learner_with(tmp_path / "log.csv")
    again.load(tmp_path / "early.ckpt")
    again.resume()
    # those of the other learner are left alone
    assert sorted(places(tmp_path / "log.csv")) == [
        *(("1", "fit", str(i)) for i in range(1, 5)), ("2", "fit", "1"),
    ]  # fmt: skip


def test_a_new_fit_after_loading_is_a_new_fit(tmp_path: Path):
    learner = learner_with(tmp_path / "log.csv")
    learner.fit(2)
    learner.save(tmp_path / "a.ckpt")
    again = learner_with(tmp_path / "log.csv")
    again.load(tmp_path / "a.ckpt")
    again.fit(1)
    assert places(tmp_path / "log.csv") == [
        ("1", "fit", "1"), ("1", "fit", "2"), ("2", "fit", "1"),
    ]  # fmt: skip


def test_one_that_is_passed_to_a_fit_goes_on_too(tmp_path: Path):
    path, checkpoint = tmp_path / "log.csv", tmp_path / "a.ckpt"

    def fit(*more: Callback) -> None:
        learner = tiny_learner(data=tiny_data(count=8))
        learner.fit(3, callbacks=[CSVLog(path), *more], checkpoint=checkpoint)

    class Die(Callback):
        def on_epoch_end(self, event: EpochEnd) -> Stop | None:
            if event.epoch == 1:
                raise OSError("out of power")  # after the row, before the checkpoint
            return None

    with pytest.raises(OSError, match="out of power"):
        fit(Die())
    assert places(path) == [("1", "fit", "1"), ("1", "fit", "2")]
    fit()
    assert places(path) == [("1", "fit", "1"), ("1", "fit", "2"), ("1", "fit", "3")]


def test_another_file_is_left_alone(tmp_path: Path):
    path = tmp_path / "people.csv"
    path.write_text("name,age\nAda,36\n")
    with pytest.raises(ValueError, match=r"people\.csv' is no log of CSVLog.*name, age"):
        learner_with(path).fit(1)
    assert path.read_text() == "name,age\nAda,36\n"


def test_an_empty_file_is_begun(tmp_path: Path):
    (tmp_path / "log.csv").touch()
    learner_with(tmp_path / "log.csv").fit(1)
    assert places(tmp_path / "log.csv") == [("1", "fit", "1")]


def test_the_first_event_writes_nothing(tmp_path: Path):
    CSVLog(tmp_path / "log.csv").on_fit_start(FitStart((), 1, 1, (), 0))
    assert not (tmp_path / "log.csv").exists()
