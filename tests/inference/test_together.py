"""Several images of one thing: one answer to all of them, and one row of a table."""

from pathlib import Path

import numpy as np
import pytest
import torch

from finetune import ImageDataLoaders, Learner, load_learner, vision_learner


@pytest.fixture(scope="module")
def learner(photos: Path) -> Learner:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8, valid_fraction=0.4)
    made = vision_learner(data, "test_resnet", weights=None, progress=False, precision="fp32")
    made.probe()
    return made


def files_of(photos: Path) -> list[Path]:
    return [photos / "red" / "000.jpg", photos / "red" / "001.jpg", photos / "blue" / "000.jpg"]


def test_the_answer_is_that_to_the_mean_of_the_outputs(learner: Learner, photos: Path) -> None:
    apart = [learner.predict(file).probabilities for file in files_of(photos)]
    logits = torch.tensor([list(row.values()) for row in apart]).double().log()
    expected = logits.mean(dim=0).softmax(dim=0).tolist()
    together = learner.predict_together(files_of(photos))
    assert list(together.probabilities.values()) == pytest.approx(expected, abs=1e-5)


def test_of_one_image_it_is_what_predict_says(learner: Learner, photos: Path) -> None:
    (file, *_) = files_of(photos)
    expected = learner.predict(file).probabilities
    assert learner.predict_together([file]).probabilities == pytest.approx(expected)


def test_an_exported_model_answers_alike(learner: Learner, photos: Path, tmp_path: Path) -> None:
    learner.export(tmp_path / "model")
    expected = learner.predict_together(files_of(photos)).probabilities
    loaded = load_learner(tmp_path / "model")
    assert loaded.predict_together(files_of(photos)).probabilities == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:all .* predictions are right")
def test_it_has_no_set_and_the_mean_of_how_unknown_the_images_are(photos: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8, valid_fraction=0.4)
    learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    learner.probe()
    learner.calibrate(coverage=0.5)
    apart = [learner.predict(file) for file in files_of(photos)]
    together = learner.predict_together(files_of(photos))
    assert all(answer.set is not None for answer in apart)
    assert together.set is None
    assert together.unknown == pytest.approx(
        np.mean([answer.unknown for answer in apart]), abs=1e-3
    )


def test_a_table_has_a_row_for_each_group(learner: Learner) -> None:
    items = [str(item) for item in learner.data.valid_examples.items]
    groups = [f"all of {Path(item).parent.name}" for item in items]
    table = learner.predictions(groups=groups)
    assert list(table.items) == list(dict.fromkeys(groups))
    members = [item for item, group in zip(items, groups, strict=True) if group == groups[0]]
    assert len(members) > 1
    expected = learner.predict_together(members).probabilities
    assert table[0].probabilities.tolist() == pytest.approx(list(expected.values()), abs=1e-4)
    assert table[0].target == Path(members[0]).parent.name
    assert len(learner.predictions()) == len(items)  # the table of the images is as it was


def test_the_outputs_of_a_group_are_the_mean_of_those_of_its_images(learner: Learner) -> None:
    predictor = learner.predictor()
    groups = [Path(item).parent.name for item in map(str, predictor.outputs().items)]
    is_first = torch.tensor([group == groups[0] for group in groups])
    of_images = predictor.outputs().outputs[is_first]
    assert (of_images - of_images[0]).abs().max() > 1e-3  # so that the first one is another answer
    of_group = predictor.outputs(groups=groups).outputs[0]
    assert torch.allclose(of_group, of_images.mean(dim=0), atol=1e-6)


@pytest.mark.parametrize("groups", [lambda path: path.parent.name, r"([a-z]+)/[^/]+$"])
def test_groups_may_be_found_in_the_paths(learner: Learner, groups: object) -> None:
    table = learner.predictions(groups=groups)  # type: ignore[arg-type]
    assert sorted(map(str, table.items)) == sorted(learner.data.classes)
    assert len(table) == len(learner.data.classes)


def test_metrics_count_groups(learner: Learner) -> None:
    predictor = learner.predictor()
    outputs = predictor.outputs(groups=lambda path: path.parent.name)
    table = learner.predictions(groups=lambda path: path.parent.name)
    assert predictor.evaluate(outputs)["accuracy"] == pytest.approx(table.accuracy)
    assert predictor.evaluate(outputs)["loss"] == pytest.approx(table.losses.mean())


def test_images_of_a_group_have_one_label(learner: Learner) -> None:
    with pytest.raises(ValueError, match="images of group 'all' do not all have the same label"):
        learner.predictions(groups=lambda path: "all")


def test_a_group_for_each_image(learner: Learner) -> None:
    with pytest.raises(ValueError, match=r"\d+ images but 1 groups"):
        learner.predictions(groups=["one"])


def test_one_answer_needs_an_image(learner: Learner) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        learner.predict_together([])
