"""cross_validate: every image is predicted by a model that has not trained on it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import COLOURS, write_photos
from torch import nn

from finetune import CrossValidation, ImageDataLoaders, Learner, cross_validate, vision_learner
from finetune.interpret.predictions import Predictions

SMALL: dict[str, Any] = {"image_size": 8, "batch_size": 4, "augment": "none"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three colours, eight photos each; a blue one is in the folder of the red ones."""
    folder = write_photos(tmp_path_factory.mktemp("photos"), size=(8, 8))
    blue = Image.new("RGB", (8, 8), COLOURS["blue"])
    blue.save(folder / "red" / "wrong.png")
    return folder


def mean_colour(data: ImageDataLoaders) -> Learner:
    """The smallest model that can tell the photos, with weights from torch's global generator."""
    body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(body, nn.Linear(3, 3))
    return Learner(
        data,
        model,
        loss=nn.functional.cross_entropy,
        metrics=["accuracy"],
        split=lambda model: [[model]],
        progress=False,
        device="cpu",
        precision="fp32",
    )


def train(learner: Learner) -> None:
    learner.fit(12, 0.3)


@pytest.fixture(scope="module")
def data(photos: Path) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(photos, **SMALL)


@pytest.fixture(scope="module")
def result(data: ImageDataLoaders) -> CrossValidation:
    return cross_validate(data, mean_colour, folds=4, fit=train)


def test_every_image_has_a_row_in_the_order_of_the_data(
    result: CrossValidation, photos: Path
) -> None:
    files = sorted(map(str, [*photos.rglob("*.jpg"), *photos.rglob("*.png")]))
    assert list(result.predictions.items) == files
    assert [row.target for row in result.predictions] == [Path(file).parent.name for file in files]


def test_row_is_predicted_by_the_model_that_was_trained_without_it(
    result: CrossValidation, data: ImageDataLoaders
) -> None:
    rows = {row.item: row for row in result.predictions}
    for number, fold in enumerate(data.folds(4)):
        torch.manual_seed(0)
        learner = mean_colour(fold)
        learner.model.load_state_dict(_first_weights(data))
        train(learner)
        for expected in learner.predictions():
            row: Any = rows[expected.item]
            assert row.fold == number
            assert np.array_equal(row.probabilities, expected.probabilities)  # type: ignore[attr-defined]
            assert row.loss == expected.loss


def _first_weights(data: ImageDataLoaders) -> dict[str, Any]:
    """The weights with which every fold began."""
    states: list[dict[str, Any]] = []

    def noted(part: ImageDataLoaders) -> Learner:
        learner = mean_colour(part)
        states.append({name: value.clone() for name, value in learner.model.state_dict().items()})
        return learner

    cross_validate(data, noted, folds=4, fit=lambda learner: None)
    assert all(torch.equal(state["1.weight"], states[0]["1.weight"]) for state in states)
    return states[0]


def test_call_repeats_itself_and_leaves_the_global_generator_alone(
    result: CrossValidation, data: ImageDataLoaders
) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = cross_validate(data, mean_colour, folds=4, fit=train)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.mean == result.mean
    assert np.array_equal(again.predictions.losses, result.predictions.losses)


def test_means_and_standard_errors_are_those_of_the_folds(result: CrossValidation) -> None:
    values = [fold.metrics["accuracy"] for fold in result.folds]
    assert result.mean["accuracy"] == pytest.approx(sum(values) / 4)
    variance = sum((value - sum(values) / 4) ** 2 for value in values) / 3
    assert result.standard_error["accuracy"] == pytest.approx(math.sqrt(variance / 4))
    assert [fold.validation for fold in result.folds] == [7, 6, 6, 6]
    assert [fold.training for fold in result.folds] == [18, 19, 19, 19]


def test_accuracy_of_the_table_is_that_of_the_folds(result: CrossValidation) -> None:
    assert isinstance(result.predictions, Predictions)
    right = sum(fold.validation * fold.metrics["accuracy"] for fold in result.folds)
    assert result.predictions.accuracy == pytest.approx(right / 25)
    assert result.report().rows[0].name == "blue"
    assert result.predictions.accuracy > 0.9


def test_wrong_label_is_found(result: CrossValidation) -> None:
    (row,) = result.suspicious_labels()
    assert Path(str(row.item)).name == "wrong.png"
    assert (row.label, row.looks_like) == ("red", "blue")


def test_rows_open_their_images(result: CrossValidation, photos: Path) -> None:
    number = [Path(str(item)).name for item in result.predictions.items].index("wrong.png")
    (image,) = result.predictions.images([number])
    assert np.asarray(image)[0, 0].tolist() == list(COLOURS["blue"])


def test_file_has_the_fold_of_each_row(result: CrossValidation, tmp_path: Path) -> None:
    result.predictions.to_csv(tmp_path / "rows.csv")
    header, first, *_ = (tmp_path / "rows.csv").read_text().splitlines()
    assert header.split(",")[5] == "fold"
    assert int(first.split(",")[5]) == result.predictions[0].fold


def test_other_probabilities_keep_the_folds(result: CrossValidation) -> None:
    assert isinstance(result.predictions, Predictions)
    assert result.predictions.at_temperature(2.0).folds == result.predictions.folds


def test_result_is_shown_as_a_table(result: CrossValidation) -> None:
    lines = repr(result).splitlines()
    assert lines[0] == "4 folds of 25 images"
    assert lines[1].split() == ["fold", "training", "validation", "loss", "accuracy"]
    assert lines[3].split()[:3] == ["1", "18", "7"]
    assert lines[-2].split()[0] == "mean"
    assert lines[-1].split()[-1] == f"{result.standard_error['accuracy']:.4f}"
    assert "<table>" in result._repr_html_()


def test_name_of_a_backbone_is_fine_tuned_with_the_options(data: ImageDataLoaders) -> None:
    options: dict[str, Any] = {
        "weights": None,
        "head": "linear",
        "device": "cpu",
        "precision": "fp32",
        "progress": False,
    }
    result = cross_validate(data, "test_resnet", 1, folds=2, **options)
    learner = vision_learner(data.folds(2)[1], "test_resnet", **options)
    learner.fine_tune(1)
    assert result.folds[1].metrics == learner.validate()


def test_several_labels_have_a_table_of_theirs() -> None:
    images = [np.full((8, 8, 3), 20 * number, np.uint8) for number in range(12)]
    labels = [["dark"]] * 6 + [["light"], ["light", "white"]] * 3
    data = ImageDataLoaders.from_lists(images, labels, task="multi_label", **SMALL)

    def make(part: ImageDataLoaders) -> Learner:
        learner = mean_colour(part)
        return Learner(
            part,
            learner.model,
            loss=nn.functional.binary_cross_entropy_with_logits,
            metrics=["f1"],
            split=lambda model: [[model]],
            progress=False,
            device="cpu",
        )

    result = cross_validate(data, make, folds=3, fit=lambda learner: learner.fit(1))
    assert list(result.predictions.items) == list(range(12))
    assert result.predictions[0].target == "dark"
    with pytest.raises(ValueError, match=r"suspicious_labels\(\) is for one class per example"):
        result.suspicious_labels()


def test_progress_says_the_fold(data: ImageDataLoaders, capsys: pytest.CaptureFixture) -> None:
    def make(part: ImageDataLoaders) -> Learner:
        learner = mean_colour(part)
        learner.progress = True
        return learner

    cross_validate(data, make, folds=2, fit=lambda learner: None)
    assert capsys.readouterr().out == "fold 1 of 2\nfold 2 of 2\n"


# --- what would not be honest, and what is no call


def test_learner_of_other_data_is_refused(data: ImageDataLoaders) -> None:
    with pytest.raises(ValueError, match="the learner has other data than those of its fold"):
        cross_validate(data, lambda part: mean_colour(data), folds=2)


def test_training_on_other_data_is_refused(data: ImageDataLoaders) -> None:
    def on_all(learner: Learner) -> None:
        learner.data = data

    with pytest.raises(ValueError, match="the learner has other data than those of its fold"):
        cross_validate(data, mean_colour, folds=2, fit=on_all)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: cross_validate(data, mean_colour, 1, fit=train), "fit= trains in place of"),
        (lambda data: cross_validate(data, mean_colour, head="mlp"), "head: options go with the"),
        (lambda data: cross_validate(data, mean_colour, folds=1), "folds must be a whole number"),
        (lambda data: cross_validate(data, mean_colour, folds=99), "99 folds need as many images"),
    ],
)
def test_calls_that_contradict_themselves_are_refused(
    data: ImageDataLoaders, call: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(data)


def test_function_that_makes_no_learner_is_refused(data: ImageDataLoaders) -> None:
    with pytest.raises(TypeError, match="backbone must be a Learner, which the function returns"):
        cross_validate(data, lambda part: part)  # type: ignore[arg-type,return-value]


def test_misspelled_option_is_named(data: ImageDataLoaders) -> None:
    with pytest.raises(TypeError, match="no option 'haed'; did you mean 'head'"):
        cross_validate(data, "test_resnet", haed="mlp")
