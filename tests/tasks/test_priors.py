"""Answers for other shares of the classes than training saw."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny_learner
from torch import nn

from finetune import ImageDataLoaders, Learner, PostProcessing, load_learner, vision_learner
from finetune.data.sampling import Sampling
from finetune.tasks import MultiLabel, Regression, SingleLabel, TaskLike
from finetune.tasks.priors import between_classes, of_each_class

SHARES = {"a": 0.8, "b": 0.15, "c": 0.05}
LABELS = ["a"] * 15 + ["b"] * 3 + ["a", "b"] * 3


def make_learner(
    task: TaskLike = "single_label", sampling: Sampling | None = None, **options: object
) -> Learner:
    """15 and 3 images to train on, 3 and 3 to validate, or the same with several labels each."""
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in LABELS]
    labels: list = LABELS
    if task == "multi_label":
        labels = [[label] for label in LABELS]
    if task == "regression":
        labels = [float(number) for number in range(len(LABELS))]
    data = ImageDataLoaders.from_lists(
        images,
        labels,
        task=task,
        is_valid=[number >= 18 for number in range(24)],
        image_size=32,
        batch_size=6,
        augment="none",
        sampling=sampling,
    )
    made: dict = {"weights": None, "progress": False, "device": "cpu", "head": "linear", **options}
    return vision_learner(data, "test_resnet", dropout=0.0, **made)


@pytest.fixture(scope="module")
def learner() -> Learner:
    """Every test adjusts it anew; its weights stay."""
    made = make_learner()
    made.fit(1, 1e-3)
    return made


def bayes(probabilities: np.ndarray, factors: list[float]) -> np.ndarray:
    """Posterior probabilities at other shares, by the rule itself."""
    products: np.ndarray = probabilities * np.array(factors)
    return products / products.sum(axis=1, keepdims=True)


# --- the formulas


def test_the_shift_turns_one_posterior_into_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 3, generator=generator)
    priors = between_classes({"a": 0.2, "b": 0.3, "c": 0.5}, SHARES)
    fitted = PostProcessing(temperature=2.0, priors=priors)
    shifted = SingleLabel().activation(fitted.shifted(logits, list("abc")), 2.0).numpy()
    plain = SingleLabel().activation(logits, 2.0).numpy()
    assert shifted == pytest.approx(bayes(plain, [0.2 / 0.8, 0.3 / 0.15, 0.5 / 0.05]), abs=1e-6)


def test_a_label_keeps_its_odds_times_those_of_the_shares() -> None:
    priors = of_each_class({"a": 0.5}, {"a": 0.2, "b": 0.3})
    logits = torch.tensor([[0.3, -0.4]])
    shifted = PostProcessing(priors=priors).shifted(logits, ["a", "b"])
    odds = (shifted - logits).exp().flatten().tolist()
    assert odds == pytest.approx([0.8 / 0.2, 1.0])


def test_training_saw_images_sampling_and_weights() -> None:
    task = SingleLabel()
    weighted = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 4.0]))
    assert task.training_priors(SHARES, nn.functional.cross_entropy) == SHARES
    assert task.training_priors(SHARES, weighted) == pytest.approx(
        {"a": 0.8 / 1.3, "b": 0.3 / 1.3, "c": 0.2 / 1.3}
    )
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0]))
    assert MultiLabel().training_priors({"a": 0.25}, loss) == pytest.approx({"a": 0.5})


@pytest.mark.parametrize(
    ("priors", "error"),
    [
        ({"a": 0.5, "b": 0.2, "c": 0.2}, "add up to 1, these add up to 0.9"),
        ({"a": 0.5, "b": 0.5}, "priors need a share of every class, 'c' has none"),
        ({"a": 1.0, "b": 0.0, "c": 0.0}, r"priors\['b'\] must be a finite number above 0, got 0"),
        ({"a": 0.5, "bee": 0.5}, "priors: there is no class 'bee'"),
        ("even", "priors must be one of 'uniform', got 'even'"),
    ],
)
def test_shares_that_are_none_are_refused(priors: object, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        between_classes(priors, SHARES)  # type: ignore[arg-type]


def test_rounded_shares_are_made_to_add_up_to_one() -> None:
    priors = between_classes({"a": 0.333, "b": 0.333, "c": 0.333}, SHARES)
    assert sum(priors.target.values()) == pytest.approx(1, abs=1e-12)


def test_a_class_that_training_never_saw_can_not_be_adjusted() -> None:
    with pytest.raises(ValueError, match="training saw no image of the class 'c'"):
        between_classes("uniform", {"a": 0.5, "b": 0.5, "c": 0.0})


def test_a_regression_has_no_shares() -> None:
    with pytest.raises(ValueError, match=r"adjust_priors\(\) is for classes, .*'regression'"):
        make_learner("regression").adjust_priors("uniform")


def test_a_task_with_other_outputs_can_not_be_adjusted() -> None:
    class Ordered(SingleLabel):
        def class_scores(self, outputs: torch.Tensor) -> torch.Tensor:
            return outputs

    with pytest.raises(ValueError, match="can't be moved to other shares"):
        Ordered().training_priors(SHARES, nn.functional.cross_entropy)
    with pytest.raises(ValueError, match="can't be moved to other shares"):
        Regression().training_priors({}, nn.functional.mse_loss)


def test_data_that_do_not_say_the_sizes_of_their_classes_are_an_error() -> None:
    with pytest.raises(ValueError, match="how many images each class had in training is not known"):
        tiny_learner().adjust_priors("uniform")


# --- where they count


def test_answers_table_and_metrics_are_those_of_the_new_shares(learner: Learner) -> None:
    learner.adjust_priors(None)
    plain = learner.predictions()
    loss = learner.validate()["loss"]
    assert learner.adjust_priors("uniform") == {"a": 0.5, "b": 0.5}
    expected = bayes(plain.probabilities, [0.5 / (15 / 18), 0.5 / (3 / 18)])  # type: ignore[attr-defined]
    table = learner.predictions()
    assert table.probabilities == pytest.approx(expected, abs=1e-5)  # type: ignore[attr-defined]
    right = expected.argmax(axis=1) == plain.targets
    assert learner.validate() == {
        "loss": loss,
        "accuracy": pytest.approx(right.mean()),
        "balanced_accuracy": pytest.approx(
            (right[plain.targets == 0].mean() + right[plain.targets == 1].mean()) / 2
        ),
    }
    item = learner.data.valid.items[0]  # type: ignore[union-attr]
    assert list(learner.predict(item).probabilities.values()) == pytest.approx(  # type: ignore[union-attr]
        expected[0], abs=1e-4
    )


def test_outputs_that_are_there_already_are_evaluated_alike(learner: Learner) -> None:
    learner.adjust_priors({"a": 0.01, "b": 0.99})
    predictor = learner.predictor()
    assert predictor.evaluate(predictor.outputs()) == pytest.approx(learner.validate(), rel=1e-5)


def test_the_temperature_is_that_of_the_outputs_and_stays(learner: Learner) -> None:
    learner.adjust_priors(None)
    temperature = learner.calibrate()
    learner.adjust_priors("uniform")
    assert learner.predictor().temperature == temperature
    assert learner.calibrate() == pytest.approx(temperature)
    assert learner.predictor().post_processing.priors is not None


def test_after_balanced_training_uniform_changes_nothing() -> None:
    for options in ({"sampling": "balanced"}, {"class_weights": "balanced"}):
        balanced = make_learner(**options)  # type: ignore[arg-type]
        balanced.adjust_priors("uniform")
        priors = balanced.predictor().post_processing.priors
        assert priors is not None
        assert list(priors.shift.values()) == pytest.approx([0, 0], abs=1e-6)


def test_more_training_drops_them_with_a_warning() -> None:
    trained = make_learner()
    trained.adjust_priors("uniform")
    trained.fit(1)
    with pytest.warns(UserWarning, match=r"weights changed since adjust_priors\(\); its priors"):
        trained.validate()
    assert trained.predictor().post_processing == PostProcessing()


def test_checkpoints_keep_them(learner: Learner, tmp_path: Path) -> None:
    learner.adjust_priors("uniform")
    learner.save(tmp_path / "a.ckpt")
    fresh = make_learner()
    fresh.load(tmp_path / "a.ckpt")
    assert fresh.predictor().post_processing == learner.predictor().post_processing


def test_thresholds_are_tuned_to_them_and_given_up_for_others() -> None:
    labels = make_learner("multi_label")
    labels.tune_thresholds()
    with pytest.warns(UserWarning, match="thresholds are given up, tune again"):
        labels.adjust_priors("uniform")
    assert labels.thresholds is None
    probabilities = labels.predictions().probabilities  # type: ignore[attr-defined]
    thresholds = labels.tune_thresholds()
    lowest, highest = probabilities.min(axis=0), probabilities.max(axis=0)
    for number, threshold in enumerate(thresholds.values()):
        assert lowest[number] / 2 <= threshold <= highest[number]
    shift = math.log(1) - math.log((15 / 18) / (3 / 18))
    assert labels.predictor().post_processing.priors.shift["a"] == pytest.approx(shift)  # type: ignore[union-attr]


def test_an_export_has_them_in_its_graph_its_card_and_its_description(
    learner: Learner, tmp_path: Path
) -> None:
    learner.adjust_priors(None)
    learner.calibrate()
    learner.adjust_priors("uniform")
    image = learner.data.valid.items[0]  # type: ignore[union-attr]
    expected = list(learner.predict(image).probabilities.values())  # type: ignore[union-attr]
    learner.export(tmp_path / "model", ["safetensors", "torch_export"])
    loaded = load_learner(tmp_path / "model")
    assert list(loaded.predict(image).probabilities.values()) == pytest.approx(expected, abs=1e-4)  # type: ignore[union-attr]
    pixels = loaded.pipeline.inputs([image], torch.device("cpu"))
    preprocessing = json.loads((tmp_path / "model/model.json").read_text())["preprocessing"]
    mean, std = (torch.tensor(preprocessing[name]).view(3, 1, 1) for name in ("mean", "std"))
    graph = torch.export.load(tmp_path / "model/model.pt2").module()
    assert graph(pixels * std + mean)[0].tolist() == pytest.approx(expected, abs=1e-4)
    assert "share in answers" in (tmp_path / "model/README.md").read_text()


def test_the_code_in_a_card_adds_the_shift_to_what_an_mlp_head_gives(tmp_path: Path) -> None:
    """That of a linear head runs weights which have it already, see export/test_timm_config."""
    learner = make_learner(head="mlp")
    learner.calibrate()
    learner.adjust_priors("uniform")
    predictor = learner.predictor()
    outputs = predictor.outputs().outputs
    expected = predictor.post_processing.shifted(outputs, learner.data.classes) / (
        predictor.post_processing.temperature
    )
    learner.export(tmp_path / "model")
    card = (tmp_path / "model/README.md").read_text()
    code = card[card.index('shift = spec["post') : card.index(".numpy()\n```")]
    spec = json.loads((tmp_path / "model/model.json").read_text())
    variables: dict = {"torch": torch, "logits": outputs, "spec": spec}
    exec(code, variables)
    assert torch.allclose(variables["probabilities"], expected.softmax(dim=1), atol=1e-5)


def test_a_loaded_model_can_be_adjusted(learner: Learner, tmp_path: Path) -> None:
    learner.adjust_priors(None)
    learner.export(tmp_path / "model")
    loaded = load_learner(tmp_path / "model").with_priors("uniform")
    learner.adjust_priors("uniform")
    assert loaded.post_processing.priors == learner.predictor().post_processing.priors


def test_a_probe_sees_the_shares_that_its_priors_are_moved_from() -> None:
    """Sampling and class weights of the same shares are one problem, and one answer."""
    weights = []
    for options in ({"sampling": "balanced"}, {"class_weights": "balanced"}, {}):
        probed = make_learner(**options)  # type: ignore[arg-type]
        weights.append(probed.probe().bias)
    assert torch.allclose(weights[0], weights[1], atol=1e-4)
    assert not torch.allclose(weights[0], weights[2], atol=1e-2)
