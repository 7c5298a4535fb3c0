"""What report.html says."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from finetune.cli import build, report
from finetune.config import TrainConfig
from finetune.tasks import resolve_task


def facts(photos: Path, **options: Any) -> dict[str, str]:
    given = {"model": "test_efficientnet", "weights": None, "batch_size": 8, **options}
    config = TrainConfig(str(photos), **given)
    learner = build.learner_of(config, build.data_of(config))
    return dict(report.facts(learner, learner.data, config).rows)  # type: ignore[arg-type]


def test_the_image_size_is_that_of_the_backbone_unless_it_is_set(photos: Path) -> None:
    assert facts(photos)["size"] == "160 px, crop"
    assert facts(photos, image_size=64)["size"] == "64 px, crop"


@pytest.mark.filterwarnings("ignore:groups= are not divided")
def test_the_report_says_how_the_task_splits_the_images(photos: Path, tables: Path) -> None:
    assert facts(photos)["held out"] == "20% of each class, at random, seed 0"
    table = {"csv": str(tables / "labels.csv"), "image_column": "file", "label_column": "labels"}
    several = facts(photos, task="multi_label", label_delimiter="|", **table)
    assert several["held out"] == "20% of each class, at random, seed 0"
    assert facts(photos, groups=r"(\d+)\.jpg")["held out"].endswith(r"undivided groups (\d+)\.jpg")


@pytest.mark.parametrize(
    ("name", "value", "task", "shown"),
    [
        ("f1", 0.5, "multi_label", "50.0 %"),
        ("loss", 0.5, "multi_label", "0.500"),
        ("points_of_mine", 12.5, "single_label", "12.5000"),
        ("mae", 0.5, "regression", "0.5000"),
        ("r2", 0.5, "regression", "0.5000"),
        ("loss", 0.5, "regression", "0.500"),
    ],
)
def test_only_shares_are_in_percent(name: str, value: float, task: str, shown: str) -> None:
    assert resolve_task(task).metric_headline(name, value) == shown  # type: ignore[arg-type]


def test_a_share_of_images_has_its_standard_error(run_folder: Path) -> None:
    """Of 24 photos, some are for validation; 100 % is said without."""
    answer = json.loads((run_folder / "metrics.json").read_text())
    count, accuracy = answer["images"]["validation"], answer["validation"]["accuracy"]
    error = math.sqrt(accuracy * (1 - accuracy) / count)
    assert answer["standard_errors"] == {"accuracy": pytest.approx(error)}
    card = (run_folder / "model" / "README.md").read_text()
    page = (run_folder / "report.html").read_text()
    assert (f"| accuracy | {accuracy:.4f} ± {error:.4f} |" in card) == (error > 0)
    assert (f"{100 * accuracy:.1f} % ± {100 * error:.1f}" in page) == (error > 0)


def test_the_report_of_a_regression_has_no_percent_in_its_headline(values_run: Path) -> None:
    head = (values_run / "report.html").read_text().partition("What was trained on what")[0]
    assert "validation mae" in head
    assert " %<" not in head
