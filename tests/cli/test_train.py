"""`finetune train`: the end of a run, a good one and others."""

import csv
import errno
import json
import re
import shutil
from pathlib import Path

import pytest

from finetune import Callback, Learner, load_learner
from finetune.cli import build, main, report
from finetune.export.onnx import Onnx
from finetune.export.served import ModelToExport
from finetune.export.torch_export import TorchExport
from finetune.training.events import StepEnd


@pytest.fixture(scope="module")
def best_run(photos: Path, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five epochs, the last of which is not the best."""
    output = tmp_path_factory.mktemp("runs") / "best"
    command = ["train", str(photos), *small, "--epochs", "1", "--save-best", "--base-lr", "0.2"]
    command += ["--head", "mlp"]
    assert main([*command, "--output", str(output)]) == 0
    return output


def losses_of(run: Path) -> list[float]:
    with (run / "history.csv").open() as stream:
        return [float(row["valid_loss"]) for row in csv.DictReader(stream)]


def test_the_best_epoch_is_the_result(best_run: Path) -> None:
    losses = losses_of(best_run)
    found = json.loads((best_run / "metrics.json").read_text())["validation"]["loss"]
    assert found == pytest.approx(min(losses), rel=1e-3)
    assert found != pytest.approx(losses[-1], rel=1e-3)


def test_the_report_has_all_epochs_and_marks_the_kept_epoch(best_run: Path) -> None:
    losses = losses_of(best_run)
    page = (best_run / "report.html").read_text()
    rows = re.findall(r"<tr>\s*<td[^>]*>(?:frozen|body_2 and above)</td>.*?</tr>", page, re.DOTALL)
    assert len(rows) == len(losses) == 5
    assert [", kept" in row for row in rows] == [loss == min(losses) for loss in losses]


def test_the_training_time_is_that_of_all_epochs(best_run: Path) -> None:
    with (best_run / "history.csv").open() as stream:
        seconds = sum(float(row["seconds"]) for row in csv.DictReader(stream))
    found = json.loads((best_run / "metrics.json").read_text())["training_seconds"]
    assert found == pytest.approx(seconds, abs=0.06)


def test_a_model_that_can_not_be_a_graph_is_trained_and_exported_anyway(
    photos: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_text(self: TorchExport, folder: Path, exported: ModelToExport) -> None:
        (folder / self.file).write_text("a graph")

    def fail(self: Onnx, folder: Path, exported: ModelToExport) -> None:
        raise RuntimeError("it has a loop")

    monkeypatch.setattr(TorchExport, "write", write_text)
    monkeypatch.setattr(Onnx, "write", fail)
    output, short = tmp_path / "run", ["--epochs", "1", "--freeze-epochs", "0", "--head", "mlp"]
    command = ["train", str(photos), *small, *short, "--formats", "[onnx,torch_export]"]
    with pytest.warns(UserWarning, match="the model was not exported as onnx: it has a loop"):
        assert main([*command, "--output", str(output)]) == 0
    names = {path.name for path in (output / "model").iterdir()}
    assert names == {"README.md", "model.json", "model.safetensors", "model.pt2"}
    assert (output / "metrics.json").is_file()
    assert main(["predict", str(output), str(photos / "red" / "000.jpg")]) == 0


class Diverges(Callback):
    """Ends a run in its sixth step."""

    def __init__(self, path: Path) -> None:
        self.left = 6

    def on_step_end(self, event: StepEnd) -> None:
        self.left -= 1
        if not self.left:
            raise ArithmeticError("the loss is no number")


def test_a_run_that_fails_leaves_its_history_and_figures(
    photos: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(build, "SaveBest", Diverges)
    command = ["train", str(photos), *small, "--save-best", "--output", str(tmp_path / "run")]
    assert main(command) == 1
    assert "error: the loss is no number" in capsys.readouterr().err
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"history.csv", "steps.csv", "learning_rates.png", "losses.png"} <= names


def test_a_figure_that_fails_does_not_hide_why_a_run_failed(
    photos: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(build, "SaveBest", Diverges)
    monkeypatch.setattr(Learner, "_spans", lambda learner: 1 / 0)
    command = ["train", str(photos), *small, "--save-best", "--output", str(tmp_path / "run")]
    assert main(command) == 1
    assert "error: the loss is no number" in capsys.readouterr().err


def test_the_data_are_printed_with_the_image_size_of_the_backbone(
    photos: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fit(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "fit", fit)
    command = ["train", str(photos), *small, "--image-size", "null"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 130
    assert ", 160 px, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "title", "image"),
    [("labels_run", "Each class", "top_losses"), ("values_run", "Each target", "values")],
)
def test_every_task_has_a_table_of_its_failures(
    run: str, title: str, image: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(run)
    assert (folder / "predictions.csv").is_file()
    assert (folder / "top_losses.png").is_file()
    assert (folder / f"{image}.png").is_file()
    page = (folder / "report.html").read_text()
    assert f">{title}<" in page
    assert ">The worst images<" in page


@pytest.mark.parametrize(
    ("missing", "halved"),
    [
        (["metrics.json"], []),
        (["report.html"], ["metrics.json"]),
        (["report.html", "metrics.json", "predictions.csv"], ["history.csv"]),
        (["report.html", "metrics.json", "model/model.safetensors", "losses.png"], []),
    ],
)
def test_the_same_command_makes_what_is_missing(
    missing: list[str],
    halved: list[str],
    run_folder: Path,
    photos: Path,
    small: list[str],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    for name in missing:
        (run / name).unlink()
    for name in halved:
        content = (run / name).read_text()
        (run / name).write_text(content[: len(content) // 2])
    assert main(["train", str(photos), *small, "--epochs", "1", "--output", str(run)]) == 0
    for file in run_folder.rglob("*.*"):
        assert (run / file.relative_to(run_folder)).is_file()
    for name in ("history.csv", "steps.csv", "model/model.safetensors"):
        assert (run / name).read_bytes() == (run_folder / name).read_bytes()


def test_a_full_disk_at_the_report_is_an_error_and_the_same_command_ends_the_run(
    photos: Path,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "report.html")

    command = ["train", str(photos), *small, "--epochs", "1", "--output", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(report, "write", fail)
        assert main(command) == 1
    assert "No space left on device: 'report.html'" in capsys.readouterr().err
    assert main(command) == 0
    assert (tmp_path / "run" / "report.html").is_file()


def test_without_a_reader_of_its_output_a_run_does_not_count_as_done(
    photos: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(build, "fit", fail)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    assert main(["train", str(photos), *small, "--output", str(tmp_path / "run")]) == 1


def test_answers_for_other_shares_of_the_classes_are_those_of_the_run(
    photos: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(photos), *small, "--schedule", "one_cycle", "--epochs", "1"]
    wrong = [*command, "--adjust-priors", "{red: 0.5}", "--output", str(tmp_path / "wrong")]
    assert main(wrong) == 1
    assert "priors need a share of every class" in capsys.readouterr().err
    shares = "{blue: 0.01, green: 0.01, red: 0.98}"
    output = tmp_path / "run"
    assert main([*command, "--adjust-priors", shares, "--output", str(output)]) == 0
    priors = load_learner(output / "model").post_processing.priors
    assert priors is not None
    assert priors.target["red"] == 0.98
    image = str(next((photos / "blue").iterdir()))
    rows = []
    for words in ([], ["--adjust-priors", "{blue: 0.98, green: 0.01, red: 0.01}"]):
        capsys.readouterr()
        assert main(["predict", str(output), image, "--json", *words]) == 0
        rows += json.loads(capsys.readouterr().out)
    assert [row["label"] for row in rows] == ["red", "blue"]


def test_minutes_choose_the_epochs(
    photos: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    # so short that the head alone fits, which takes no steps
    command = ["train", str(photos), *small, "--minutes", "0.0001", "--output", str(output)]
    assert main(command) == 0
    assert "epochs that 0.0001 minutes allow: probe 1" in capsys.readouterr().out
    assert json.loads((output / "metrics.json").read_text())["validation"]
    assert main(command) == 1
    assert "holds this run, finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "2"], "--minutes 3 choose the epochs, and --epochs 2 are given"),
        (["--schedule", "one_cycle"], "--minutes is for --schedule fine_tune"),
        (["--probe"], "--probe does no training step, so that --minutes would change nothing"),
    ],
)
def test_minutes_and_what_contradicts_them(
    photos: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(photos), "--minutes", "3", *words]) == 1
    assert message in capsys.readouterr().err
