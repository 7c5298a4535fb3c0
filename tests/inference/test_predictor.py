from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import COLOURS, write_photos
from torch import nn

from finetune.data.images.opening import ImageError
from finetune.data.images.pipeline import ImagePipeline
from finetune.data.images.preprocessing import Preprocessing
from finetune.inference.predictor import Predictor
from finetune.tasks import PostProcessing

# the mean of a channel says which colour it is; order unlike the alphabet's
CLASSES = ("red", "green", "blue")


class ChannelMeans(nn.Module):
    """Logits from the mean of each channel, and one unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(images).mean(dim=(2, 3)) * self.scale


def make_predictor(model: nn.Module | None = None) -> Predictor:
    pipeline = ImagePipeline(Preprocessing(16, mean=(0.0,) * 3, std=(1.0,) * 3))
    return Predictor(model or ChannelMeans().eval(), CLASSES, pipeline)


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    folder = write_photos(tmp_path, per_class=1)
    return {label: folder / label / "000.jpg" for label in COLOURS}


@pytest.mark.parametrize("label", CLASSES)
def test_one_item_gives_one_prediction(photos: dict[str, Path], label: str) -> None:
    assert make_predictor().predict(photos[label]).label == label


def test_probability_is_that_of_the_label_and_the_largest(photos: dict[str, Path]) -> None:
    prediction = make_predictor().predict(photos["green"])
    assert prediction.probability == prediction.probabilities["green"]
    assert prediction.probability == max(prediction.probabilities.values())


def test_probabilities_are_in_the_order_of_the_classes(photos: dict[str, Path]) -> None:
    assert tuple(make_predictor().predict(photos["green"]).probabilities) == CLASSES


def test_probabilities_sum_to_one(photos: dict[str, Path]) -> None:
    assert sum(make_predictor().predict(photos["red"]).probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_items_give_a_list_in_their_order(photos: dict[str, Path], kind: type) -> None:
    wanted = ["blue", "red", "red", "green", "blue"]
    predictions = make_predictor().predict(kind(photos[label] for label in wanted))
    assert [prediction.label for prediction in predictions] == wanted


def test_list_of_one_gives_a_list(photos: dict[str, Path]) -> None:
    (prediction,) = make_predictor().predict([photos["red"]])
    assert prediction.label == "red"


def test_empty_list_gives_an_empty_list() -> None:
    assert make_predictor().predict([]) == []


def test_batch_size_changes_nothing(photos: dict[str, Path]) -> None:
    items = [photos[label] for label in ["blue", "red", "green", "red", "blue"]]
    predictor = make_predictor()
    assert predictor.predict(items, batch_size=2) == predictor.predict(items)


def test_batch_size_bounds_the_batches(photos: dict[str, Path]) -> None:
    sizes = []
    predictor = make_predictor()
    predictor.model.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    predictor.predict([photos["red"]] * 5, batch_size=2)
    assert sizes == [2, 2, 1]


def test_every_kind_of_image_gives_the_same(photos: dict[str, Path], tmp_path: Path) -> None:
    with Image.open(photos["red"]) as image:
        image.save(tmp_path / "red.png")
    array = np.asarray(image)
    items = [tmp_path / "red.png", str(tmp_path / "red.png"), image, array]
    items.append(torch.from_numpy(array.copy()).permute(2, 0, 1))
    predictor = make_predictor()
    assert [predictor.predict(item) for item in items] == [predictor.predict(items[0])] * 5


def test_probabilities_are_a_table_on_the_cpu(photos: dict[str, Path]) -> None:
    table = make_predictor().probabilities([photos["red"], photos["blue"]])
    assert (table.shape, table.dtype, table.device.type) == ((2, 3), torch.float32, "cpu")
    assert table.argmax(dim=1).tolist() == [0, 2]


def test_model_predicts_in_evaluation_mode(photos: dict[str, Path]) -> None:
    model = ChannelMeans().train()
    predictions = make_predictor(model).predict([photos["red"], photos["blue"]])
    assert [prediction.label for prediction in predictions] == ["red", "blue"]
    assert int(model.norm.num_batches_tracked) == 0


@pytest.mark.parametrize("training", [True, False])
def test_model_keeps_its_mode(photos: dict[str, Path], training: bool) -> None:
    model = ChannelMeans().train(training)
    make_predictor(model).predict(photos["red"])
    assert [module.training for module in model.modules()] == [training, training]


def test_every_part_of_the_model_keeps_its_own_mode(photos: dict[str, Path]) -> None:
    model = ChannelMeans().train()
    model.norm.eval()
    make_predictor(model).predict(photos["red"])
    assert model.training
    assert not model.norm.training


def test_model_keeps_its_mode_after_an_error() -> None:
    model = ChannelMeans().train()
    with pytest.raises(ImageError, match="no such file"):
        make_predictor(model).predict("gone.jpg")
    assert model.training


def test_unreadable_file_is_named(photos: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    with pytest.raises(ImageError, match=r"can't read image .*torn\.jpg: "):
        make_predictor().predict([photos["red"], tmp_path / "torn.jpg"])


@pytest.mark.parametrize("kind", [str, lambda path: [path]])
def test_a_folder_is_told_to_predict_folder(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(ImageError, match=rf"folder; predict_folder\('{tmp_path}'\) takes one"):
        make_predictor().predict(kind(tmp_path))


def test_prediction_leaves_no_gradient(photos: dict[str, Path]) -> None:
    predictor = make_predictor()
    assert not predictor.probabilities([photos["red"]]).requires_grad
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


# --- several labels, and values


def predict_with(task: Any, photos: dict[str, Path], **fitted: Any) -> Any:
    predictor = Predictor(
        ChannelMeans().eval(),
        CLASSES,
        ImagePipeline(Preprocessing(32)),
        task=task,
        post_processing=PostProcessing(**fitted),
    )
    return predictor, predictor.predict(photos["red"])


def test_several_labels_are_those_above_their_thresholds(photos: dict[str, Path]) -> None:
    predictor, one = predict_with("multi_label", photos)
    assert predictor.thresholds == dict.fromkeys(CLASSES, 0.5)
    assert one.labels == tuple(name for name in CLASSES if one.probabilities[name] >= 0.5)
    assert one.labels == ("red",)
    assert sum(one.probabilities.values()) != pytest.approx(1)
    _, all_of_them = predict_with("multi_label", photos, thresholds=dict.fromkeys(CLASSES, 0.0))
    assert all_of_them.labels == CLASSES
    high = {"red": 1.0}
    assert predict_with("multi_label", photos, thresholds=high)[1].labels == ()


def test_values_are_the_outputs(photos: dict[str, Path]) -> None:
    _, one = predict_with("regression", photos)
    inputs = Preprocessing(32).inputs([photos["red"]], torch.device("cpu"))
    expected = ChannelMeans().eval()(inputs)[0].tolist()
    assert one.values == pytest.approx(dict(zip(CLASSES, expected, strict=True)))


def test_single_label_stays_a_label_and_its_probability(photos: dict[str, Path]) -> None:
    _, (label, probability, probabilities) = predict_with("single_label", photos)
    assert (label, probability) == ("red", max(probabilities.values()))


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [({"rde": 0.5}, "no class 'rde'; did you mean 'red'"), ({"red": 2.0}, "at most 1, got 2.0")],
)
def test_wrong_threshold_is_refused(
    thresholds: dict, message: str, photos: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=message):
        predict_with("multi_label", photos, thresholds=thresholds)


def test_unknown_task_is_refused(photos: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"task must be one of 'single_label', .* got 'multi'"):
        predict_with("multi", photos)


@pytest.mark.parametrize("classes", [("red", "green"), ("red", "green", "blue", "grey")])
def test_names_of_another_number_than_the_outputs_are_refused(
    photos: dict[str, Path], classes: tuple[str, ...]
) -> None:
    pipeline = ImagePipeline(Preprocessing(16))
    predictor = Predictor(ChannelMeans().eval(), classes, pipeline)
    message = f"classes has {len(classes)} names, for {len(classes)} outputs, and the model gives 3"
    with pytest.raises(ValueError, match=message):
        predictor.predict(photos["red"])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_at_least_one_image(photos: dict[str, Path], batch_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        make_predictor().predict([photos["red"]], batch_size=batch_size)


def test_a_model_of_nan_gives_no_prediction(photos: dict[str, Path]) -> None:
    model = ChannelMeans().eval()
    model.scale.data.fill_(float("nan"))
    predictor = make_predictor(model)
    with pytest.raises(ValueError, match="the model gives values that are not finite"):
        predictor.predict(photos["red"])
    with pytest.raises(ValueError, match="the model gives values that are not finite"):
        list(predictor.predict_folder([photos["red"]]))


def test_an_autocast_around_a_prediction_changes_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    predictor = make_predictor(model)
    image = torch.rand(3, 16, 16)
    expected = predictor.predict(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert predictor.predict(image) == expected


@pytest.mark.parametrize("make", [iter, set, lambda items: dict.fromkeys(items).keys()])
def test_several_items_in_no_list_are_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"or a list of items, got a .*; pass list\(...\)"):
        make_predictor().predict(make(["a.jpg", "b.jpg"]))


def test_a_column_of_pandas_is_refused() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match="got a Series; pass list"):
        make_predictor().predict(pandas.Series(["a.jpg"]))
