"""History: rows of what happened, over all phases and fits, also as a CSV file."""

import csv
from pathlib import Path

from support import tiny_data, tiny_learner

from finetune import History
from finetune.training.events import EpochEnd, StepEnd


def filled() -> History:
    history = History()
    history.on_step_end(StepEnd("frozen", 0, 0, 0.5, (1e-3, 1e-2), (0.9, 0.9)))
    history.on_epoch_end(EpochEnd("frozen", 0, 0.5, {"loss": 0.4, "accuracy": 0.8}, 1.5))
    history.on_epoch_end(EpochEnd("unfrozen", 0, 0.25, {"loss": 0.3, "accuracy": 0.9}, 2.5))
    return history


def test_rows_of_all_phases_and_fits_are_kept():
    learner = tiny_learner(data=tiny_data(count=8))
    learner.fine_tune(1)
    learner.fit(1)
    assert [row.phase for row in learner.history.epochs] == ["frozen", "unfrozen", "fit"]
    assert [(row.phase, row.step) for row in learner.history.steps] == [
        (phase, step) for phase in ("frozen", "unfrozen", "fit") for step in range(2)
    ]


def test_a_step_has_the_rate_of_every_group():
    learner = tiny_learner(groups=3, data=tiny_data(count=8))
    learner.fit(1, slice(1e-4, 1e-2))
    assert learner.history.steps[0].lr == learner.layer_groups.spread(slice(1e-4, 1e-2))


def test_epochs_are_written_as_csv(tmp_path: Path):
    filled().write_csv(tmp_path / "new" / "history.csv")
    with (tmp_path / "new" / "history.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["phase", "epoch", "train_loss", "valid_loss", "valid_accuracy", "seconds"],
            ["frozen", "1", "0.5", "0.4", "0.8", "1.5"],
            ["unfrozen", "1", "0.25", "0.3", "0.9", "2.5"],
        ]


def test_a_result_that_some_epochs_lack_is_empty_there(tmp_path: Path):
    history = filled()
    history.on_epoch_end(EpochEnd("fit", 0, 0.2))
    history.write_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text().splitlines()[-1] == "fit,1,0.2,,,0.0"


def test_an_empty_history_is_a_header(tmp_path: Path):
    History().write_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text().split() == ["phase,epoch,train_loss,seconds"]


def test_its_state_comes_back_as_equal_rows():
    other = History()
    other.load_state_dict(filled().state_dict())
    assert (other.steps, other.epochs) == (filled().steps, filled().epochs)


def test_it_prints_in_one_line():
    assert repr(filled()) == "History(2 epochs, 1 steps)"


def test_print_shows_the_table_of_epochs(capsys):
    learner = tiny_learner(metrics=["accuracy"])
    assert str(learner.history) == "History(0 epochs, 0 steps)"
    learner.fine_tune(2)
    print(learner.history)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["phase", "epoch"]
    assert [row.split()[:2] for row in rows] == [
        ["frozen", "1"],
        ["unfrozen", "1"],
        ["unfrozen", "2"],
    ]


def test_the_steps_are_a_table_with_the_rates_of_every_group(tmp_path):
    learner = tiny_learner(2)
    learner.fine_tune(1)
    learner.history.write_steps_csv(tmp_path / "steps.csv")
    header, first, *_ = (tmp_path / "steps.csv").read_text().splitlines()
    assert header == "phase,epoch,step,loss,lr_0,lr_1,momentum_0,momentum_1"
    assert first.split(",")[:3] == ["frozen", "1", "1"]
    assert [float(v) for v in first.split(",")[4:6]] == list(learner.history.steps[0].lr)
