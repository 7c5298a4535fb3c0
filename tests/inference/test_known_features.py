"""`prediction.unknown`, from `calibrate(coverage=...)` to answers, files and exports."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny_data

from finetune import ImageDataLoaders, Learner, load_learner, vision_learner, write_csv
from finetune.cli import main
from finetune.data.loaders import IndexedLoader
from finetune.inference import known_features
from finetune.tasks.familiarity import MOST_FEATURES

HEADS = ("mlp", "linear")


def faint(seed: int, count: int) -> list[np.ndarray]:
    """Images of one colour with a little noise."""
    noise = np.random.default_rng(seed)
    images = []
    for number in range(count):
        colour = np.array([200, 60, 60] if number % 2 else [60, 60, 200])
        pixels = colour + noise.normal(0, 12, (32, 32, 3)) + noise.normal(0, 10, 3)
        images.append(pixels.clip(0, 255).astype(np.uint8))
    return images


def strange(count: int) -> list[np.ndarray]:
    noise = np.random.default_rng(9)
    return [noise.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(count)]


def make_learner(head: Any = "linear", task: str = "single_label") -> Learner:
    """40 images to train on, 60 to validate."""
    labels: list[Any] = ["b", "a"] * 50
    if task == "regression":
        labels = [float(number % 2) for number in range(100)]
    data = ImageDataLoaders.from_lists(
        faint(0, 100),
        labels,
        task=task,  # type: ignore[arg-type]
        is_valid=[number >= 40 for number in range(100)],
        image_size=32,
        batch_size=10,
        augment="none",
    )
    learner = vision_learner(
        data, "test_resnet", weights=None, head=head, progress=False, device="cpu"
    )
    learner.fit_one_cycle(2, 3e-3)
    return learner


@pytest.fixture(scope="module")
def learner() -> Learner:
    made = make_learner()
    made.calibrate(coverage=0.9)
    return made


@pytest.mark.parametrize("task", ["single_label", "regression"])
def test_what_is_like_validation_is_known_and_noise_is_not(task: str) -> None:
    learner = make_learner(task=task)
    learner.calibrate(coverage=0.9)
    known = [answer.unknown for answer in learner.predict(faint(1, 40))]
    unknown = [answer.unknown for answer in learner.predict(strange(20))]
    assert np.median(known) == pytest.approx(0.5, abs=0.25)  # type: ignore[call-overload]
    assert min(unknown) > max(known)  # type: ignore[type-var]
    assert all(answer.is_unknown for answer in learner.predict(strange(20)))
    assert np.mean([answer.is_unknown for answer in learner.predict(faint(1, 40))]) < 0.3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_outputs_that_are_not_finite_are_refused_all_the_same(
    learner: Learner, value: float, tmp_path: Path
) -> None:
    learner.export(tmp_path)
    predictor = load_learner(tmp_path)
    with torch.no_grad():
        for parameter in predictor.model.parameters():
            parameter.fill_(value)
    with pytest.raises(ValueError, match="the model gives values that are not finite"):
        predictor.predict(faint(1, 2))
    with pytest.raises(ValueError, match="the model gives values that are not finite"):
        predictor.predict_together(faint(1, 2))


def test_before_a_calibration_nothing_is_told() -> None:
    learner = make_learner()
    learner.calibrate()
    answer = learner.predict(strange(1)[0])
    assert answer.unknown is None
    assert not answer.is_unknown


def test_of_a_batch_each_has_what_it_has_alone(learner: Learner) -> None:
    images = [*faint(2, 3), *strange(2)]
    together = [answer.unknown for answer in learner.predict(images)]
    alone = [learner.predict(image).unknown for image in images]
    assert together == pytest.approx(alone, abs=1e-3)


def test_threads_get_their_own(learner: Learner) -> None:
    predictor = learner.predictor()
    images = [*faint(2, 8), *strange(8)]
    alone = [predictor.predict(image).unknown for image in images]
    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(lambda image: predictor.predict(image).unknown, images))
    assert at_once == pytest.approx(alone, abs=1e-6)


def test_of_many_training_images_some_are_drawn(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_features, "MOST_FEATURES", 7)
    fitted = [learner.predictor().familiarity(learner.data.train) for _ in range(2)]
    first, second = (found.features for found in fitted)  # type: ignore[union-attr]
    assert first.shape[0] == 7
    assert torch.equal(first, second)
    assert MOST_FEATURES == 4000


def test_data_without_numbers_are_read_as_they_come() -> None:
    class Squeezed(torch.nn.Sequential):
        pass

    from collections import OrderedDict

    backbone = torch.nn.Linear(4, 3)
    model = Squeezed(OrderedDict(backbone=backbone, head=torch.nn.Linear(3, 2)))
    data = tiny_data(40)
    assert not isinstance(data.train, IndexedLoader)
    made = Learner(data, model, loss=torch.nn.functional.cross_entropy, progress=False)
    made.calibrate(coverage=0.8)
    familiarity = made.predictor().post_processing.familiarity
    assert familiarity is not None
    assert familiarity.features.shape == (40, 3)
    assert made.predict(torch.full((4,), 50.0)).unknown is not None


def test_a_model_without_a_backbone_has_its_energy_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 2))
    made = Learner(
        tiny_data(40), model, loss=torch.nn.functional.cross_entropy, split=lambda m: [[m]],
        progress=False,
    )  # fmt: skip
    made.calibrate(coverage=0.8)
    familiarity = made.predictor().post_processing.familiarity
    assert familiarity is not None
    assert familiarity.distance is None
    assert made.predict(torch.zeros(4)).unknown is not None


def test_a_checkpoint_keeps_it(learner: Learner, tmp_path: Path) -> None:
    learner.save(tmp_path / "a.ckpt")
    fresh = make_learner()
    fresh.load(tmp_path / "a.ckpt")
    images = [*faint(2, 2), *strange(1)]
    ours, theirs = learner.predict(images), fresh.predict(images)
    assert [a.unknown for a in ours] == pytest.approx([a.unknown for a in theirs], abs=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_an_export_and_the_code_of_its_card_give_the_same(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_learner(head)
    made.calibrate(coverage=0.9)
    folder = tmp_path / "model"
    made.export(folder)
    made.export(folder, overwrite=True)  # the features are a file of ours
    images = [*faint(2, 2), *strange(1)]
    expected = [answer.unknown for answer in made.predict(images)]
    loaded = [answer.unknown for answer in load_learner(folder).predict(images)]
    assert loaded == pytest.approx(expected, abs=2e-3)
    card = (folder / "README.md").read_text()
    code = card[card.index("\n", card.index("```python\n", card.index("From `model.safet"))) :]
    code = code[: code.index("```")]
    spec = json.loads((folder / "model.json").read_text())
    inputs = made.data.inputs(images, torch.device("cpu"))
    mean, std = (
        torch.tensor(spec["preprocessing"][name]).view(3, 1, 1) for name in ("mean", "std")
    )
    pixels = (inputs * std + mean).numpy()
    variables: dict[str, Any] = {"np": np, "spec": spec, "images": pixels}
    monkeypatch.chdir(folder)
    exec(code, variables)
    # it ends at the strangest image of validation
    assert variables["unknown"] == pytest.approx(expected, abs=0.02)


def test_damaged_features_are_not_loaded(learner: Learner, tmp_path: Path) -> None:
    learner.export(tmp_path / "model")
    file = tmp_path / "model/features.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"features\.safetensors' can't be loaded"):
        load_learner(tmp_path / "model")


def test_files_and_the_command_line_tell_it(
    learner: Learner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, image in (("known", faint(2, 1)[0]), ("strange", strange(1)[0])):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    rows = list(learner.predict_folder(tmp_path, progress=False))
    write_csv(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as stream:
        known, unknown = csv.DictReader(stream)
    assert float(known["unknown"]) < 0.95 < float(unknown["unknown"])
    learner.export(tmp_path / "model")
    assert main(["predict", str(tmp_path / "model"), str(tmp_path / "strange.png")]) == 0
    assert ", unknown" in capsys.readouterr().out
