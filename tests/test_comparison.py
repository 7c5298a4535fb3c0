"""compare: the probes of several backbones, with errors and a recommendation."""

from pathlib import Path

import pytest
from support import write_photos

from finetune import Callback, Comparison, ImageDataLoaders, compare, vision_learner
from finetune.comparison import Candidate
from finetune.training.events import Precompute

NAMES = ["test_resnet", "test_efficientnet"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageDataLoaders:
    folder = write_photos(tmp_path_factory.mktemp("compared") / "photos", per_class=12)
    return ImageDataLoaders.from_folder(folder, image_size=32, batch_size=8)


@pytest.fixture(scope="module")
def comparison(data: ImageDataLoaders) -> Comparison:
    return compare(data, NAMES, weights=None, progress=False)


def candidate(name: str, behind: float, error: float, step_seconds: float) -> Candidate:
    return Candidate((name,), 0.9 - behind, 0.01, behind, error, 1, 1, 32, 1.0, step_seconds)


def test_there_is_a_row_for_each_backbone_and_for_the_best_side_by_side(comparison: Comparison):
    names = {row.name for row in comparison.candidates}
    assert set(NAMES) < names
    assert len(names) == 3
    assert any(" + " in name for name in names)


def test_what_is_recommended_makes_a_learner(data: ImageDataLoaders, comparison: Comparison):
    for row in comparison.candidates:
        learner = vision_learner(data, row.backbones, weights=None, progress=False)
        parameters = learner.model.get_submodule("backbone").parameters()
        assert sum(parameter.numel() for parameter in parameters) == row.parameters


def test_the_best_comes_first_and_is_behind_nobody(comparison: Comparison):
    scores = [row.score for row in comparison.candidates]
    assert scores == sorted(scores, reverse=True)
    assert comparison.candidates[0].behind == 0
    assert comparison.candidates[0].behind_error == 0


def test_the_same_call_gives_the_same_scores(data: ImageDataLoaders, comparison: Comparison):
    again = compare(data, NAMES, weights=None, progress=False)
    assert [(row.name, row.score) for row in again.candidates] == [
        (row.name, row.score) for row in comparison.candidates
    ]


def test_of_those_as_good_as_the_best_the_fastest_is_recommended():
    rows = (
        candidate("best", 0.0, 0.0, 1.0),
        candidate("as good", 0.005, 0.01, 0.2),
        candidate("worse", 0.05, 0.01, 0.1),
    )
    comparison = Comparison("accuracy", rows)
    assert comparison.recommended.name == "as good"
    assert "as good as the best within the error" in str(comparison)


def test_candidates_without_time_are_named(data: ImageDataLoaders):
    comparison = compare(data, NAMES, weights=None, seconds=1e-6, progress=False)
    assert [row.name for row in comparison.candidates] == NAMES[:1]
    assert comparison.not_tried == ("test_efficientnet",)
    assert "no time was left for test_efficientnet" in str(comparison)


def test_fine_tuning_finds_the_features_of_the_comparison(
    data: ImageDataLoaders, comparison: Comparison
):
    computed: list[Precompute] = []

    class Watch(Callback):
        def on_precompute(self, event: Precompute) -> None:
            computed.append(event)

    learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    learner.fine_tune(1, unfreeze="all", callbacks=[Watch()])
    # those of validation, at which a comparison does not look
    assert {event.view for event in computed} == {None}


def test_other_weights_have_other_features(data: ImageDataLoaders, comparison: Comparison):
    computed: list[Precompute] = []

    class Watch(Callback):
        def on_precompute(self, event: Precompute) -> None:
            computed.append(event)

    learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    learner.unfreeze()
    learner.fit_one_cycle(1, 1e-3)
    learner.probe(callbacks=[Watch()])
    assert computed


def test_a_pattern_stands_for_backbones_with_weights(data: ImageDataLoaders):
    with pytest.raises(ValueError, match=r"no backbone with weights matches 'resnot\*'"):
        compare(data, ["resnot*"])


def test_an_unknown_metric_is_refused_before_anything_runs(data: ImageDataLoaders):
    with pytest.raises(ValueError, match="there is no metric 'acuracy'"):
        compare(data, NAMES, weights=None, metric="acuracy")


def test_a_regression_is_compared_by_its_error(tmp_path: Path):
    folder = write_photos(tmp_path / "photos", per_class=8)
    files = sorted(folder.rglob("*.jpg"))
    targets = [float(number) for number in range(len(files))]
    data = ImageDataLoaders.from_lists(
        files, targets, task="regression", image_size=32, batch_size=8
    )
    comparison = compare(data, NAMES, weights=None, progress=False, together=False)
    scores = [row.score for row in comparison.candidates]
    assert comparison.metric == "mae"
    assert scores == sorted(scores)
