"""The `finetune` command: a whole run, and what each command answers."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import terminal
import yaml
from processes import run_python
from support import write_photos

from finetune.cli import main
from finetune.cli.entry import COMMANDS

COMMAND = "import sys; from finetune.cli import main; sys.exit(main())"
INTERRUPTED_COMMAND = """
import os, signal, sys
from finetune.cli import main

write = sys.stdout.write

def write_and_interrupt(text):
    if text.startswith("unfrozen"):
        os.kill(os.getpid(), signal.SIGINT)
    return write(text)

sys.stdout.write = write_and_interrupt
sys.exit(main())
"""
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = [
    "--model", "test_efficientnet", "--weights", "null", "--image_size", "32", "--batch_size", "8",
]  # fmt: skip
RUN_FILES = {
    "config.yaml", "checkpoint.ckpt", "history.csv", "steps.csv", "metrics.json", "report.html",
    "learning_rates.png", "losses.png", "confusion_matrix.png", "top_losses.png",
    "calibration.png", "predictions.csv", "model",
}  # fmt: skip


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """What a command that succeeds says to a machine."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_train_with_a_config_into_a_pipe(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    quick = CONFIGS / "quick.yaml"
    done = run_python(COMMAND, "train", photos, "--config", quick, *SMALL, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert "\r" not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert {path.name for path in output.iterdir()} == RUN_FILES
    # header, the probe, 1 epoch in which more trains
    assert len((output / "history.csv").read_text().splitlines()) == 3
    stored = yaml.safe_load((output / "config.yaml").read_text())
    assert (stored["epochs"], stored["model"]) == (1, "test_efficientnet")  # file, command line


def test_predict_names_the_images_that_it_can_not_read(
    run_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    good = photos / "red" / "000.jpg"
    capsys.readouterr()
    assert main(["predict", str(run_folder), str(good), str(broken)]) == 1
    said = capsys.readouterr()
    assert said.out.split()[0] == str(good)
    assert said.out.split()[2] in ("blue", "green", "red")
    assert f"{broken}: " in said.err


def test_an_interrupted_run_is_continued_by_the_same_command(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = ["train", photos, *SMALL, "--epochs", "3", "--output", output]
    assert run_python(INTERRUPTED_COMMAND, *arguments).returncode == 130
    assert (output / "history.csv").is_file()
    assert (output / "losses.png").is_file()
    assert not (output / "report.html").exists()
    done = run_python(COMMAND, *arguments)
    assert done.returncode == 0, done.stderr
    assert "continuing after" in done.stdout
    assert len((output / "history.csv").read_text().splitlines()) == 5  # header, 1 + 3 epochs


def test_on_a_terminal_the_progress_bars_are_gone_at_the_end(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "COLUMNS", 140)  # the path of the run is long
    command = ["train", str(photos), *SMALL, "--epochs", "1", "--output", str(tmp_path / "run")]
    codes: list[int] = []
    text = terminal.on_a_terminal(monkeypatch, lambda: codes.append(main(command)))
    assert codes == [0]
    assert "\r" in text.replace("\r\n", "")  # there were bars
    lines = terminal.screen_after(text).lines
    rows = [line.split()[0] for line in lines if line.startswith(("probe  ", "body_2 and above "))]
    assert rows == ["probe", "body_2"]
    assert lines[-1].startswith("  finetune predict ")
    assert not any("%|" in line or "it/s" in line for line in lines)


def test_train_as_json_prints_nothing_else_on_standard_output(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(photos), *SMALL, "--epochs", "1", "--freeze-epochs", "0", "--json"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["validation"].keys() == {"loss", "accuracy"}
    assert found["classes"] == ["blue", "green", "red"]
    assert Path(found["report"]).is_file()
    assert "body_2 and above" in said.err  # the table of epochs is for people


def test_the_config_of_a_run_repeats_it(run_folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert main(["train", "--config", str(run_folder / "config.yaml"), "--output", str(again)]) == 0
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in (run_folder, again)]
    assert weights[0] == weights[1]


def test_the_saved_config_has_absolute_paths(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    folder, output = photos.name, tmp_path / "run"
    assert main(["train", folder, *SMALL, "--epochs", "1", "--output", str(output)]) == 0
    assert yaml.safe_load((output / "config.yaml").read_text())["data"] == str(photos)


def test_options_take_dashes_and_underscores(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for spelled in ("--batch-size=0", "--batch_size=0"):
        assert main(["train", str(photos), spelled]) == 1
        assert "--batch-size must be a whole number of at least 1, got 0" in capsys.readouterr().err


SINGLE = sorted(set(CONFIGS.glob("*.yaml")) - {CONFIGS / "multi_label.yaml"})


@pytest.mark.parametrize("file", SINGLE, ids=lambda file: file.stem)
def test_every_config_runs(file: Path, photos: Path, tmp_path: Path) -> None:
    model = "test_vit" if file.stem.startswith("vit") else "test_efficientnet"
    tiny = ["--model", model, "--weights", "null", "--image-size", "32", "--batch-size", "4"]
    short = ["--epochs", "1", "--output", str(tmp_path / "run")]
    assert main(["train", str(photos), "--config", str(file), *tiny, *short]) == 0
    assert (tmp_path / "run" / "report.html").is_file()


def test_layer_decay_gives_each_block_its_rate(photos: Path, tmp_path: Path) -> None:
    output, options = tmp_path / "run", ["--split", "layers", "--layer-decay", "0.5"]
    command = ["train", str(photos), *SMALL, *options, "--epochs", "1", "--freeze-epochs", "0"]
    assert main([*command, "--output", str(output)]) == 0
    with (output / "steps.csv").open() as stream:
        row = next(csv.DictReader(stream))
    rates = [float(value) for name, value in row.items() if name.startswith("lr_")]
    assert len(rates) > 4
    assert rates[:-1] == pytest.approx([0.5 * rate for rate in rates[1:]])


def test_a_table_in_place_of_class_folders(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in photos.rglob("*.jpg")]
    table.write_text("\n".join(["file,colour", *rows]))
    output = tmp_path / "run"
    command = ["train", str(photos), "--csv", str(table), "--label-column", "colour"]
    assert main([*command, *SMALL, "--epochs", "1", "--output", str(output)]) == 0
    assert json.loads((output / "metrics.json").read_text())["classes"] == ["blue", "green", "red"]


def test_an_existing_output_folder_is_not_touched(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    assert main(["train", str(photos), *SMALL, "--output", str(tmp_path)]) == 1
    assert "is no run folder; give another --output" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_is_not_overwritten(
    run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(photos), *SMALL, "--output", str(run_folder)]
    assert main([*command, "--epochs", "2"]) == 1
    assert "holds a run with other settings (epochs)" in capsys.readouterr().err
    assert main([*command, "--epochs", "1"]) == 1
    assert "holds this run, finished" in capsys.readouterr().err


def test_a_run_that_failed_at_once_does_not_lock_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_photos(tmp_path / "photos")
    (folder / "red" / "broken.jpg").write_text("no image")
    command = ["train", str(folder), *SMALL, "--epochs", "1", "--output", str(tmp_path / "run")]
    assert main(command) == 1
    assert "can't read image" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="left out 1 unreadable images"):
        assert main([*command, "--on-error", "skip"]) == 0
    assert "1 unreadable images were left out" in (tmp_path / "run" / "report.html").read_text()


def multi_label_table(folder: Path) -> Path:
    """Each second image has another label beside its colour."""
    images = sorted(folder.rglob("*.jpg"))
    rows = [f"{path},{path.parent.name}{'|even' if i % 2 else ''}" for i, path in enumerate(images)]
    table = folder.parent / "several.csv"
    table.write_text("\n".join(["file,labels", *rows]))
    return table


def test_several_labels_per_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = multi_label_table(write_photos(tmp_path / "photos"))
    output, given = tmp_path / "run", ["--csv", table, "--label-delimiter", "|"]
    config = ["--config", CONFIGS / "multi_label.yaml", "--epochs", "1", "--valid-fraction", "0.4"]
    found = as_json(capsys, "train", *given, *config, *SMALL, "--output", output)
    assert found["classes"] == ["blue", "even", "green", "red"]
    assert {"f1", "average_precision"} <= found["validation"].keys()
    found = as_json(capsys, "evaluate", output, table, "--label-delimiter", "|")
    assert found["images"] == 24
    assert found["metrics"].keys() == {"loss", "f1", "accuracy"}
    assert main(["predict", str(output), str(next((tmp_path / "photos").rglob("*.jpg")))]) == 0
    said = capsys.readouterr().out.split()[-1]
    assert said == "-" or said in ("blue", "even", "green", "red")
    assert (output / "report.html").is_file()


def test_images_in_both_training_and_validation_are_a_warning(tmp_path: Path) -> None:
    for part in ("train", "valid"):  # the same images
        write_photos(tmp_path / part)
    given = ["--train", "train", "--valid", "valid", "--output", str(tmp_path / "run")]
    with pytest.warns(UserWarning, match="24 validation images can be found in training, too"):
        assert main(["train", str(tmp_path), *SMALL, *given, "--epochs", "1"]) == 0
    assert "24 from training into validation" in (tmp_path / "run" / "report.html").read_text()


# --- the other commands


def test_predict_to_files(run_folder: Path, photos: Path, tmp_path: Path) -> None:
    names = [tmp_path / "p.csv", tmp_path / "p.jsonl"]
    for name in names:
        assert main(["predict", str(run_folder), str(photos), "--output", str(name)]) == 0
    with names[0].open() as stream:
        table = list(csv.DictReader(stream))
    lines = [json.loads(line) for line in names[1].read_text().splitlines()]
    assert [row["path"] for row in table] == sorted(map(str, photos.rglob("*.jpg")))
    assert [row["label"] for row in table] == [row["label"] for row in lines]
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_evaluate_agrees_with_the_validation_of_the_run(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "split"
    write_photos(folder / "train", per_class=6)
    write_photos(folder / "valid", size=(40, 48))
    given = ["--train", "train", "--valid", "valid"]
    output = tmp_path / "run"
    command = ["train", folder, *SMALL, *given, "--epochs", "1", "--output", output]
    trained = as_json(capsys, *command)["validation"]
    found = as_json(capsys, "evaluate", output, folder / "valid")
    assert found["metrics"]["accuracy"] == pytest.approx(trained["accuracy"])
    assert found["metrics"]["loss"] == pytest.approx(trained["loss"], rel=1e-4)
    assert found["images"] == sum(row["support"] for row in found["classes"]) == 24


def test_evaluate_refuses_classes_that_the_model_does_not_know(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path, classes=("red",))
    assert main(["evaluate", str(run_folder), str(tmp_path)]) == 0
    (tmp_path / "violet").mkdir()
    assert main(["evaluate", str(run_folder), str(tmp_path)]) == 1
    assert "classes that the model does not know: 'violet'" in capsys.readouterr().err


def test_lr_find(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curve = tmp_path / "images" / "curve.png"
    found = as_json(capsys, "lr-find", photos, *SMALL, "--curve", curve, "--steps", 30)
    assert found["suggestion"] == found["suggestions"]["valley"]
    assert len(found["lrs"]) == len(found["losses"])
    assert curve.read_bytes().startswith(b"\x89PNG")


def test_export_gives_the_same_predictions(
    run_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run_folder), "--output", str(tmp_path / "shipped")]) == 0
    image = photos / "red" / "000.jpg"
    rows = [as_json(capsys, "predict", m, image) for m in (run_folder, tmp_path / "shipped")]
    assert rows[0] == rows[1]


def test_export_of_a_model_without_a_record_of_its_training(
    run_folder: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(run_folder / "model", old)
    description = json.loads((old / "model.json").read_text())
    for name in ("training", "data", "results", "formats", "sha256"):
        description.pop(name, None)
    (old / "model.json").write_text(json.dumps({**description, "version": 1}))
    assert main(["export", str(old), "--output", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "model.safetensors").is_file()


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {row["name"]: row for row in as_json(capsys, "models", "resnet18")}
    assert "seresnet18" in listed or "legacy_seresnet18" in listed  # a plain word is a part
    assert listed["resnet18"] == {
        "name": "resnet18", "parameters": 11_176_512, "image_size": 224, "pretrained": True
    }  # fmt: skip
    tags = as_json(capsys, "models", "resnet18.*", "--pretrained")
    assert "resnet18.a1_in1k" in [row["name"] for row in tags]


def test_inspect(run_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json(capsys, "inspect", run_folder)["validation"].keys() == {"loss", "accuracy"}
    assert as_json(capsys, "inspect", run_folder / "model")["classes"] == ["blue", "green", "red"]
    saved = as_json(capsys, "inspect", run_folder / "checkpoint.ckpt")
    assert (saved["state"], saved["groups"]) == ("finished", ["body_1", "body_2", "head"])
    assert as_json(capsys, "inspect", CONFIGS / "quick.yaml")["epochs"] == 1
    assert as_json(capsys, "inspect", photos)["kind"] == "images"
    network = as_json(capsys, "inspect", "test_resnet", "--split", "stages")
    assert [group["name"] for group in network["groups"]][-1] == "head"
    assert all(group["parameters"] > 0 for group in network["groups"])


@pytest.mark.parametrize(
    ("command", "shown", "hidden"),
    [
        ("lr-find", "--mixup", "--epochs"),
        ("compare", "--weights", "--dropout"),
        ("cross-validate", "--epochs", "--output"),
    ],
)
def test_help_leaves_out_what_a_command_does_not_use(
    command: str, shown: str, hidden: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"\n  {shown} " in text
    assert f"\n  {hidden} " not in text


def test_help_shows_dashes_defaults_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    names = tuple(COMMANDS)
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in names)
    for name in names:
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"examples:\n  finetune {name}" in text
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--batch-size" in text
    assert "--batch_size" not in text
    assert "(default: 64)" in text
    # in groups: images, model, training
    titles = [line for line in text.splitlines() if line.endswith(":") and line[0].isalpha()]
    assert len(titles) == 6
    assert text.index("images there are") < text.index("--csv") < text.index("model is trained")
    assert text.index("--model") < text.index("how long it is trained") < text.index("--epochs")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("finetune 0.")
