"""Images of other channels than red, green and blue, all the way through the house."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import copy_of, same_state

from finetune import Augmentation, ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.data.images.augment import Augment
from finetune.data.images.decode import read_bands, read_image
from finetune.data.images.opening import ImageError
from finetune.data.images.preprocessing import Preprocessing
from finetune.export import read_description
from finetune.export.recipes import read_source
from finetune.models.backbones import create_backbone

BANDS = 5


def measurements(folder: Path) -> Path:
    """Arrays of five bands and 16 bits, in which the last band tells the classes apart."""
    noise = np.random.default_rng(0)
    for label, level in (("dry", 1000), ("wet", 6000)):
        (folder / label).mkdir()
        for number in range(8):
            values = noise.integers(0, 3000, (40, 30 + 5 * number, BANDS)).astype(np.uint16)
            values[..., -1] += level
            np.save(folder / label / f"{number}.npy", values)
    return folder


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measurements(tmp_path_factory.mktemp("fields"))


def data_of(fields: Path, **options: object) -> ImageDataLoaders:
    settings = {
        "channels": BANDS,
        "value_range": (0, 10_000),
        "image_size": 32,
        "batch_size": 4,
        "valid_fraction": 0.5,
        **options,
    }
    return ImageDataLoaders.from_folder(fields, **settings)  # type: ignore[arg-type]


def learner_of(data: ImageDataLoaders, backbone: str | list[str] = "test_resnet") -> Learner:
    return vision_learner(data, backbone, weights=None, progress=False, precision="fp32")


# --- reading


def test_bands_are_those_of_the_array() -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 8, BANDS), dtype=np.uint8)
    for source in (values, torch.from_numpy(values).permute(2, 0, 1)):
        bands = read_bands(source, BANDS)
        assert np.array_equal(np.stack([np.asarray(band) for band in bands], -1), values)


def test_one_channel_is_the_grey_of_any_image() -> None:
    image = Image.new("RGB", (8, 6), (200, 100, 50))
    (band,) = read_bands(image, 1)
    assert np.array_equal(np.asarray(band), np.asarray(image.convert("L")))


def test_a_fourth_band_is_kept_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    bands = read_bands(tmp_path / "a.png", 4)
    assert np.array_equal(np.stack([np.asarray(band) for band in bands], -1), pixels)


def test_pages_of_a_file_are_channels(tmp_path: Path) -> None:
    pages = [Image.new("L", (8, 6), level) for level in (10, 20, 30)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:] * 2)
    bands = read_bands(tmp_path / "a.tif", BANDS)
    assert [np.asarray(band).mean() for band in bands] == [10, 20, 30, 20, 30]


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_another_number_of_channels_is_said(channels: int, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    message = rf"a\.png: it has 3 channels, not channels={channels}"
    with pytest.raises(ImageError, match=message):
        read_bands(tmp_path / "a.png", channels)


def test_what_is_no_file_is_said_as_of_any_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="it is a folder; name image files"):
        read_bands(tmp_path, 4)
    with pytest.raises(ImageError, match="there is no such file"):
        read_bands(tmp_path / "gone.png", 4)


# --- data


@pytest.mark.parametrize("resize", ["crop", "squish", "pad"])
def test_batches_have_the_channels(fields: Path, resize: str, tmp_path: Path) -> None:
    data = data_of(fields, resize=resize, cache_folder=tmp_path)
    for view in (None, 0):
        for batch in data.train.epoch(0, 0):
            inputs = data.prepare(batch, view).inputs
            assert inputs.shape[1:] == (BANDS, 32, 32)
            assert data.displayable(inputs).shape[1:] == (32, 32, 3)
    data.show_batch(2)


def test_a_cache_folder_keeps_grey_and_colour_apart(photos: Path, tmp_path: Path) -> None:
    shapes = []
    in_use = []  # all at once
    for channels in (1, 3, 1):
        data = ImageDataLoaders.from_folder(
            photos, channels=channels, image_size=32, batch_size=4, cache_folder=tmp_path
        )
        shapes.append(next(iter(data.valid.epoch(0, 0))).inputs.shape[1])
        in_use.append(data)
    assert shapes == [1, 3, 1]


def test_named_augmentations_leave_values_alone(tmp_path: Path) -> None:
    levels = [0, 50, 100, 150, 255]
    image = np.broadcast_to(np.array(levels, np.uint8), (40, 40, BANDS)).copy()
    data = ImageDataLoaders.from_lists(
        [image] * 8, ["a", "b"] * 4, channels=BANDS, image_size=32, batch_size=2, augment="strong"
    )
    mean, std = data.preprocessing.normalisation(torch.device("cpu"))
    batch = next(iter(data.train.epoch(0, 0)))
    pixels = data.prepare(batch, 3).inputs * std.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1)
    expected = (torch.tensor(levels) / 255).view(1, -1, 1, 1).expand_as(pixels)
    assert torch.allclose(pixels, expected, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_named_augmentations_change_values_of_grey_and_colours(channels: int) -> None:
    assert len(values_seen(channels, "strong")) > 1


def test_an_augmentation_of_ones_own_does_what_it_says() -> None:
    own = Augmentation(flip=0, rotate=0, warp=0, lighting=0.4, lighting_probability=1)
    assert len(values_seen(BANDS, own)) > 1
    assert len(values_seen(BANDS, "strong")) == 1


def values_seen(channels: int, augment: Augment) -> set[float]:
    """The values of the first channel, in flat images of one value, of random views of them."""
    images = [np.full((40, 40, channels), 100, np.uint8)] * 8
    data = ImageDataLoaders.from_lists(
        images, ["a", "b"] * 4, channels=channels, image_size=32, batch_size=4, augment=augment
    )
    batch = next(iter(data.train.epoch(0, 0)))
    return set(data.prepare(batch, 3).inputs[:, 0].flatten().round(decimals=2).tolist())


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [(1, (0.3,), (0.6,)), (2, (0.1, 0.3), (0.4, 0.6)), (5, (0.1, 0.3, 0.5, 0.1, 0.3), None)],
)
def test_bands_are_normalised_as_the_colours_of_the_backbone_in_turn(
    channels: int, mean: tuple[float, ...], std: tuple[float, ...] | None
) -> None:
    expected_std = std or (0.4, 0.6, 0.8, 0.4, 0.6)
    images = [np.full((40, 40, channels), 51, np.uint8)] * 8
    data = ImageDataLoaders.from_lists(
        images, ["a", "b"] * 4, channels=channels, image_size=32, batch_size=4, augment=None
    ).for_backbone(32, mean=(0.1, 0.3, 0.5), std=(0.4, 0.6, 0.8))
    batch = next(iter(data.train.epoch(0, 0)))
    values = (51 / 255 - torch.tensor(mean)) / torch.tensor(expected_std)
    assert torch.allclose(data.prepare(batch, None).inputs.mean(dim=(0, 2, 3)), values, atol=1e-5)
    described = data.describe_inputs()
    assert described["mean"] == pytest.approx(mean)
    assert described["std"] == pytest.approx(expected_std)


def test_a_summary_decodes_them(fields: Path) -> None:
    assert not data_of(fields).summary(decode=True).unreadable


def test_each_band_has_a_range_of_its_own_everywhere(fields: Path, tmp_path: Path) -> None:
    windows = [(0, 3000), (0, 2500), [100, 3000], (-1, 1), (0, 9000)]
    data = data_of(fields, value_range=windows, cache_folder=tmp_path)
    values = np.full((40, 40, BANDS), 1500, np.uint16)
    seen = data.displayable(data.inputs([values], torch.device("cpu")))
    assert seen[0, 0, 0] == pytest.approx([128 / 255, 153 / 255, 123 / 255], abs=1e-6)
    described = Preprocessing.from_dict(json.loads(json.dumps(data.describe_inputs())))
    assert described == data.preprocessing
    assert "0 to 3000, 0 to 2500, 100 to 3000, -1 to 1, 0 to 9000" in described.steps()[1]
    # what differs in one window alone is kept apart, and is another run
    windows[4] = (0, 10_000)
    other = data_of(fields, value_range=windows, cache_folder=tmp_path)
    last_bands = []
    for loaders in (data, other):
        batch = next(iter(loaders.valid.epoch(0, 0)))
        last_bands.append(batch.inputs[:, -1].float().mean())
    assert last_bands[0] > last_bands[1] * 1.05
    assert data.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("value_range", "message"),
    [
        ([(0, 1)] * 3, r"value_range has 3 pairs for channels=5; pass channels=3, or 5 pairs"),
        ([(0, 1)] * 4 + [(2, 2)], r"value_range\[4\] needs black < white, got \(2, 2\)"),
        ([(0, 1), 5, (0, 1), 7, 8], r"value_range\[1\] must be two numbers .*, got 5"),
    ],
)
def test_ranges_that_are_none_are_said(fields: Path, value_range: list, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        data_of(fields, value_range=value_range)


def test_each_page_has_a_range_of_its_own(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((6, 8), 1000, np.uint16)) for _ in range(2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    bands = read_bands(tmp_path / "a.tif", 2, value_range=[(0, 2000), (0, 1000)])
    assert [np.asarray(band).mean() for band in bands] == [128, 255]


def test_colours_of_an_array_may_have_ranges_of_their_own() -> None:
    values = np.full((6, 8, 3), 1000, np.uint16)
    windows = [(0, 1000), (0, 2000), (1000, 2000)]
    assert read_image(values, value_range=windows).getpixel((0, 0)) == (255, 128, 0)
    with pytest.raises(ImageError, match=r"value_range has 3 pairs, .* the image has 1 channel"):
        read_image(values[:, :, 0], value_range=windows)
    eight_bits = np.full((6, 8, 3), 7, np.uint8)
    assert read_image(eight_bits, value_range=windows).getpixel((0, 0)) == (7, 7, 7)


# --- models


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("channels", [1, BANDS])
def test_weights_for_colours_become_those_of_other_channels(backbone: str, channels: int) -> None:
    colours = create_backbone(backbone, image_size=160, weights=None).eval()
    ours = create_backbone(
        backbone, image_size=160, weights=colours.state_dict(), channels=channels
    ).eval()
    grey = torch.rand(2, 1, 160, 160)
    if channels == 1:  # what is grey in three channels gives the same
        expected = colours(grey.expand(-1, 3, -1, -1))
        assert torch.allclose(ours(grey), expected, atol=1e-4)
    else:
        assert ours(grey.expand(-1, channels, -1, -1)).isfinite().all()


def test_torchvision_takes_colours_only(fields: Path) -> None:
    with pytest.raises(ValueError, match="takes images of 3 channels only, got channels=5"):
        learner_of(data_of(fields), "torchvision/resnet18")


def test_the_class_that_one_band_tells_is_learned(fields: Path) -> None:
    learner = learner_of(data_of(fields))
    learner.fine_tune(1)
    file = fields / "wet" / "0.npy"
    assert learner.validate()["accuracy"] == 1
    assert learner.predict(file).label == "wet"
    assert learner.predict(np.load(file)).label == "wet"
    assert learner.activation_map(file).values.shape == (32, 32)
    learner.predictions().plot_top_losses(2)
    with pytest.raises(ImageError, match="it has 3 channels, not channels=5"):
        learner.predict(np.zeros((8, 8, 3), np.uint8))


def test_several_backbones_see_them(fields: Path) -> None:
    learner = learner_of(data_of(fields), ["test_resnet", "test_efficientnet"])
    learner.probe()
    assert learner.validate()["accuracy"] == 1


def test_a_run_that_goes_on_ends_alike(fields: Path, tmp_path: Path) -> None:
    whole = learner_of(data_of(fields))
    whole.fine_tune(1, checkpoint=tmp_path / "run.ckpt")
    again = learner_of(data_of(fields))
    again.fine_tune(1, checkpoint=tmp_path / "run.ckpt")
    assert same_state(copy_of(again.model.state_dict()), whole.model.state_dict())


# --- exports


@pytest.mark.parametrize("channels", [1, BANDS])
@pytest.mark.parametrize("resize", ["crop", "pad", "squish"])
def test_the_code_of_the_card_reads_what_the_model_sees(
    channels: int,
    resize: str,
    fields: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if channels == 1:
        data = ImageDataLoaders.from_folder(
            photos, channels=1, image_size=32, batch_size=8, resize=resize
        )
        image = photos / "red" / "000.jpg"
    else:
        data = data_of(fields, resize=resize)
        image = fields / "wet" / "3.npy"
    learner = learner_of(data)
    learner.probe()
    learner.export(tmp_path / "model")
    code = read_source(read_description(tmp_path / "model"))
    monkeypatch.chdir(tmp_path / "model")
    names: dict[str, np.ndarray] = {}
    suffix = os.path.splitext(image)[1]
    exec(code.replace(f"photo{suffix}", str(image)), names)
    preprocessing = learner.data.preprocessing
    mean, std = preprocessing.normalisation(torch.device("cpu"))
    inputs = preprocessing.inputs([image], torch.device("cpu"))
    expected = inputs * std.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1)
    assert np.allclose(names["images"], expected.numpy(), atol=1e-5)
    expected_answer = learner.predict(image).probabilities
    loaded = load_learner(tmp_path / "model")
    assert loaded.predict(image).probabilities == pytest.approx(expected_answer, abs=1e-5)


@pytest.mark.slow
def test_graphs_and_the_rest_of_the_card(fields: Path, tmp_path: Path) -> None:
    learner = learner_of(data_of(fields), ["test_resnet", "test_efficientnet"])
    learner.probe()
    learner.export(tmp_path / "model", ["safetensors", "onnx", "torch_export"])
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["formats"]["onnx"]["input"]["shape"] == ["batch", BANDS, 32, 32]
    assert not (tmp_path / "model" / "config.json").exists()
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"images with {BANDS} channels of 32 x 32 pixels" in card
    file = fields / "dry" / "2.npy"
    read, *loads = [block.split("```")[0] for block in card.split("```python\n")[1:]]
    expected = list(learner.predict(file).probabilities.values())
    before = os.getcwd()
    os.chdir(tmp_path / "model")
    try:
        for load in loads[:3]:
            names: dict[str, np.ndarray] = {}
            exec(read.replace("photo.npy", str(file)) + load, names)
            assert names["probabilities"][0].tolist() == pytest.approx(expected, abs=1e-4)
    finally:
        os.chdir(before)
