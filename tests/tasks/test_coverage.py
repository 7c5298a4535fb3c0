"""Sets and intervals: from `calibrate(coverage=...)` to answers, files, exports and checkpoints."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune import (
    ImageDataLoaders,
    Learner,
    PostProcessing,
    load_learner,
    vision_learner,
    write_csv,
    write_jsonl,
)
from finetune.cli import main

TASKS = ("single_label", "multi_label", "regression")


def make_learner(task: str = "single_label") -> Learner:
    """20 images to train on, 40 to validate."""
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(60)]
    labels: list[Any] = [("a", "b", "c", "a")[number % 4] for number in range(60)]
    if task == "multi_label":
        labels = [[label] if label != "c" else ["a", "b"] for label in labels]
    if task == "regression":
        labels = [float(number % 7) for number in range(60)]
    data = ImageDataLoaders.from_lists(
        images,
        labels,
        task=task,  # type: ignore[arg-type]
        is_valid=[number >= 20 for number in range(60)],
        image_size=32,
        batch_size=10,
        augment="none",
    )
    learner = vision_learner(
        data, "test_resnet", weights=None, head="linear", dropout=0.0, progress=False, device="cpu"
    )
    learner.fit(1, 1e-3)
    return learner


@pytest.fixture(scope="module")
def learners() -> dict[str, Learner]:
    """Calibrated for 0.8; their weights stay."""
    made = {task: make_learner(task) for task in TASKS}
    for learner in made.values():
        learner.calibrate(coverage=0.8)
    return made


@pytest.fixture
def classifier(learners: dict[str, Learner]) -> Learner:
    return learners["single_label"]


def images_of(learner: Learner) -> list[Any]:
    return list(learner.data.valid.items)  # type: ignore[union-attr]


def test_sets_hold_the_truth_of_validation_and_begin_with_the_label(classifier: Learner) -> None:
    answers = classifier.predict(images_of(classifier))
    truth = classifier.data.valid_examples.texts()  # type: ignore[attr-defined]
    held = [name in answer.set for answer, name in zip(answers, truth, strict=True)]  # type: ignore[operator,union-attr]
    assert 0.8 <= np.mean(held) <= 0.9
    for answer in answers:
        assert answer.set[0] == answer.label  # type: ignore[index,union-attr]
        label, probability, probabilities = answer  # type: ignore[misc]
        by_probability = sorted(answer.set, key=lambda name: -probabilities[name])  # type: ignore[arg-type,union-attr]
        assert list(answer.set) == by_probability  # type: ignore[arg-type,union-attr]
        assert probabilities[label] == probability  # type: ignore[index]


def test_of_several_labels_each_that_is_there_is_in_the_set(learners: dict[str, Learner]) -> None:
    learner = learners["multi_label"]
    answers = learner.predict(images_of(learner))
    targets = learner.data.valid.targets  # type: ignore[union-attr]
    held = []
    for answer, row in zip(answers, targets.tolist(), strict=True):
        for name, is_there in zip(learner.data.classes or (), row, strict=True):
            if is_there:
                held.append(name in answer.set)  # type: ignore[operator,union-attr]
    assert 0.8 <= np.mean(held) <= 0.9


def test_of_numbers_the_truth_is_in_the_interval(learners: dict[str, Learner]) -> None:
    learner = learners["regression"]
    held = []
    truth = learner.data.valid.targets.flatten().tolist()  # type: ignore[union-attr]
    for answer, value in zip(learner.predict(images_of(learner)), truth, strict=True):
        low, high = answer.interval["target"]  # type: ignore[index,union-attr]
        assert (low + high) / 2 == pytest.approx(answer.value)  # type: ignore[union-attr]
        held.append(low <= value <= high)
    assert 0.8 <= np.mean(held) <= 0.9


def test_before_a_calibration_there_is_no_set() -> None:
    learner = make_learner()
    learner.calibrate()
    assert learner.predict(images_of(learner)[0]).set is None  # type: ignore[union-attr]


@pytest.mark.parametrize("coverage", [0, 1, -0.1, 1.5])
def test_a_coverage_is_a_share(classifier: Learner, coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage must be a finite number above 0 and below 1"):
        classifier.calibrate(coverage=coverage)


@pytest.mark.parametrize("task", TASKS)
def test_too_few_images_are_an_error_with_the_number(
    learners: dict[str, Learner], task: str
) -> None:
    before = learners[task].predictor().post_processing
    with pytest.raises(ValueError, match=r"coverage=0\.999 needs at least 999 validation images"):
        learners[task].calibrate(coverage=0.999)
    assert learners[task].predictor().post_processing == before


def test_more_training_drops_the_sets_with_a_warning() -> None:
    learner = make_learner()
    learner.calibrate(coverage=0.8)
    learner.fit(1)
    with pytest.warns(UserWarning, match="its (sets and .* are|temperature is) given up"):
        assert learner.predict(images_of(learner)[0]).set is None  # type: ignore[union-attr]


def test_other_priors_drop_them_and_they_can_be_fitted_to_those() -> None:
    learner = make_learner()
    learner.calibrate(coverage=0.8)
    with pytest.warns(UserWarning, match="its sets are given up"):
        learner.adjust_priors("uniform")
    assert learner.predictor().post_processing.coverage is None
    learner.calibrate(coverage=0.8)
    answers = learner.predict(images_of(learner))
    truth = learner.data.valid_examples.texts()  # type: ignore[attr-defined]
    held = [name in answer.set for answer, name in zip(answers, truth, strict=True)]  # type: ignore[operator,union-attr]
    assert np.mean(held) >= 0.8


def test_a_checkpoint_keeps_them(classifier: Learner, tmp_path: Path) -> None:
    classifier.save(tmp_path / "a.ckpt")
    fresh = make_learner()
    fresh.load(tmp_path / "a.ckpt")
    kept = classifier.predictor().post_processing.coverage
    assert kept is not None
    assert fresh.predictor().post_processing.coverage == kept


@pytest.mark.parametrize("task", TASKS)
def test_an_export_and_the_code_of_its_card_give_the_same(
    learners: dict[str, Learner], task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = learners[task]
    learner.export(tmp_path / "model")
    loaded = load_learner(tmp_path / "model")
    image = images_of(learner)[3]
    ours, theirs = learner.predict(image), loaded.predict(image)
    capsys.readouterr()
    code = learner.data.task.card.coverage_code
    assert code in (tmp_path / "model/README.md").read_text()
    spec = json.loads((tmp_path / "model/model.json").read_text())
    exec(code, {"spec": spec, "probabilities": loaded.probabilities([image]).numpy()})
    printed = capsys.readouterr().out
    if task == "regression":
        assert ours.interval["target"] == pytest.approx(theirs.interval["target"], rel=1e-4)  # type: ignore[index,union-attr]
        numbers = [float(word) for word in printed.split()[1:]]
        assert numbers == pytest.approx(theirs.interval["target"], rel=1e-4)  # type: ignore[index,union-attr]
    else:
        assert ours.set == theirs.set  # type: ignore[union-attr]
        members = eval(printed.replace("set()", "()"))
        assert set(members) == set(theirs.set)  # type: ignore[arg-type,union-attr]


@pytest.mark.parametrize("writer", [write_csv, write_jsonl])
def test_files_have_what_a_calibration_adds(
    learners: dict[str, Learner], photos: Path, tmp_path: Path, writer: Callable[..., Any]
) -> None:
    for task, names in (("single_label", {"set"}), ("regression", {"low(target)", "interval"})):
        rows = list(learners[task].predict_folder(photos / "red", progress=False))
        target = tmp_path / f"{task}.rows"
        writer(rows, target)
        with target.open() as stream:
            first = (
                next(csv.DictReader(stream)) if writer is write_csv else json.loads(next(stream))
            )
        assert names & first.keys()
        if task == "single_label":
            words = first["set"].split(", ") if writer is write_csv else first["set"]
            assert tuple(words) == rows[0].set


def test_the_command_line_shows_what_else_may_be_true(
    learners: dict[str, Learner], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task, pattern in (("single_label", " (or "), ("regression", " to ")):
        learners[task].calibrate(coverage=0.95)
        learners[task].export(tmp_path / task)
        learners[task].calibrate(coverage=0.8)
        assert main(["predict", str(tmp_path / task), str(photos / "red")]) == 0
        assert pattern in capsys.readouterr().out


def test_without_coverage_answers_are_as_before() -> None:
    assert PostProcessing().to_dict().keys() == {"temperature", "thresholds"}
