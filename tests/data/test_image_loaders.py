import io
import json
import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import write_photos
from torch import Tensor
from torchvision.transforms import v2

from finetune import ImageDataLoaders
from finetune.data.images.augment import Augmentation
from finetune.data.images.decode import read_image
from finetune.data.images.opening import ImageError
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.loaders import Batch
from finetune.inference.reading import Reader

CPU = torch.device("cpu")
SMALL = {"image_size": 16, "batch_size": 4, "num_workers": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos in each of three classes; look, don't touch."""
    return write_photos(tmp_path_factory.mktemp("photos"))


def from_photos(folder: Path, **options: object) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(folder, **{**SMALL, **options})  # type: ignore[arg-type]


def train_views(data: ImageDataLoaders, epoch: int = 0, start: int = 0) -> dict[int, Tensor]:
    """What the model gets to see of each training example in one epoch, by its number."""
    seen: dict[int, Tensor] = {}
    for batch in data.train.epoch(data.seed, epoch, start):
        ready = data.prepare(batch, epoch)
        seen |= dict(zip(batch.indices.tolist(), ready.inputs, strict=True))  # type: ignore[union-attr]
    return seen


def valid_batches(data: ImageDataLoaders, epoch: int = 0) -> list[Batch]:
    assert data.valid is not None
    batches = data.valid.epoch(data.seed, epoch)
    return [data.prepare(batch, None) for batch in batches]


def same_views(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    return all(torch.equal(one[i], other[i]) for i in one.keys() & other.keys())


def damage(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes()[:300])


# --- sources


def test_folder_is_split_at_random(photos: Path) -> None:
    data = from_photos(photos, valid_fraction=0.25)
    assert (len(data.train_examples), len(data.valid_examples)) == (17, 7)
    assert data.classes == ("blue", "green", "red")
    assert not set(data.train_examples.items) & set(data.valid_examples.items)


def test_split_depends_on_the_seed_alone(photos: Path) -> None:
    held_out = [tuple(from_photos(photos, seed=seed).valid_examples.items) for seed in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]


def test_folder_with_a_given_split(tmp_path: Path) -> None:
    write_photos(tmp_path / "train", per_class=4)
    write_photos(tmp_path / "validation", per_class=2, size=(50, 40))
    data = from_photos(tmp_path, train="train", valid="validation")
    assert (len(data.train_examples), len(data.valid_examples)) == (12, 6)
    assert all("validation" in str(item) for item in data.valid_examples.items)


def test_validation_folder_may_not_have_a_class_of_its_own(tmp_path: Path) -> None:
    write_photos(tmp_path / "train", per_class=4, classes=("blue", "red"))
    write_photos(tmp_path / "valid", per_class=1, classes=("blue", "green"))
    with pytest.raises(ValueError, match="training lacks: 'green'; training has 'blue', 'red'"):
        from_photos(tmp_path, train="train", valid="valid")


@pytest.mark.parametrize("given", [{"train": "train"}, {"valid": "valid"}])
def test_half_of_a_given_split_is_refused(photos: Path, given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give both train= and valid=, or neither; got train="):
        from_photos(photos, **given)


def test_folder_that_holds_a_split_is_not_taken_for_classes(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        write_photos(tmp_path / part, per_class=1)
    with pytest.raises(ValueError, match="pass train='train', valid='valid'"):
        from_photos(tmp_path)


def test_csv_paths_are_relative_to_its_folder(photos: Path, tmp_path: Path) -> None:
    write_photos(tmp_path, per_class=4, classes=("blue", "red"))
    rows = [f"{c}/00{i}.jpg,{c},{int(i == 0)}" for c in ("red", "blue") for i in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label,held out", *rows]))
    data = ImageDataLoaders.from_csv(tmp_path / "labels.csv", valid_column="held out", **SMALL)
    assert (len(data.train_examples), len(data.valid_examples)) == (6, 2)
    assert len(train_views(data)) == 4


def test_csv_paths_are_relative_to_a_given_folder(photos: Path, tmp_path: Path) -> None:
    rows = [f"{c},{c}/00{i}.jpg" for c in ("red", "blue") for i in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(["kind,file", *rows]))
    data = ImageDataLoaders.from_csv(
        tmp_path / "labels.csv", photos, image_column="file", label_column="kind", **SMALL
    )
    assert data.classes == ("blue", "red")
    assert len(train_views(data)) == 4


def test_lists_may_hold_every_kind_of_image(photos: Path) -> None:
    path = photos / "red" / "000.jpg"
    image = read_image(path)
    array = np.asarray(image)
    images = [str(path), path, image, array, torch.from_numpy(array.copy()).permute(2, 0, 1)]
    marks = [False] * 5 + [True] * 5
    with pytest.warns(UserWarning, match="2 validation images can be found in training, too"):
        data = ImageDataLoaders.from_lists(images * 2, list("ababa") * 2, is_valid=marks, **SMALL)
    assert len(train_views(data)) == 4
    assert [len(batch) for batch in valid_batches(data)] == [5]


def test_content_of_a_file_is_an_image_like_its_path(photos: Path) -> None:
    path = photos / "red" / "000.jpg"
    content = path.read_bytes()
    data = ImageDataLoaders.from_lists([path, content] * 4, list("abba") * 2, **SMALL)
    sources = [path, content, io.BytesIO(content), {"bytes": content, "path": None}]
    inputs = data.inputs(sources, CPU)
    assert all(torch.equal(view, inputs[0]) for view in inputs)
    assert data.summary(decode=True).unreadable == ()


def test_range_of_pixels_is_kept_for_prediction() -> None:
    images = [np.full((20, 20), 4095, np.uint16)] * 8
    data = ImageDataLoaders.from_lists(images, list("ab") * 4, value_range=(0, 8190), **SMALL)
    white = data.displayable(data.inputs(images[:1], CPU))
    assert white.max() == pytest.approx(128 / 255, abs=1e-6)
    described = Preprocessing.from_dict(json.loads(json.dumps(data.describe_inputs())))
    assert described == data.preprocessing
    assert "from 0 (black) to 8190 (white)" in described.steps()[1]
    assert "value_range" not in Preprocessing(16).to_dict()


def twelve_bits(dark: int = 3) -> list[np.ndarray]:
    """Twelve images of 16-bit numbers, of which the last ones are bright; the others are dark."""
    values = [100] * dark * 3 + [4000] * (12 - 3 * dark)
    return [np.full((20, 20), value, np.uint16) for value in values]


def test_depth_is_guessed_once_for_all_images_and_kept() -> None:
    with pytest.warns(UserWarning, match="fill 12 bits only: 4095 was taken") as said:
        data = ImageDataLoaders.from_lists(twelve_bits(), list("abc") * 4, **SMALL)
    assert [Path(warning.filename) for warning in said] == [Path(__file__)]
    described = Preprocessing.from_dict(json.loads(json.dumps(data.describe_inputs())))
    assert described == data.preprocessing
    assert "the upper 8 of 12 bits" in described.steps()[1]
    # a dark one, which alone would be taken for one of 8 bits
    dark = data.displayable(described.inputs(twelve_bits()[:1], CPU))
    assert dark.max() == pytest.approx((100 >> 4) / 255, abs=1e-6)
    list(data.train.epoch(0, 0))  # without another warning


def test_depth_of_sixteen_bits_is_not_said() -> None:
    images = [*twelve_bits(4)[:11], np.full((20, 20), 60000, np.uint16)]
    labels, is_valid = list("ab") * 6, [True] * 2 + [False] * 10
    data = ImageDataLoaders.from_lists(images, labels, is_valid=is_valid, **SMALL)
    assert data.preprocessing.value_range == 16


def test_given_range_goes_before_a_guess() -> None:
    images = twelve_bits()
    data = ImageDataLoaders.from_lists(images, list("abc") * 4, value_range=(0, 4000), **SMALL)
    assert data.preprocessing.value_range == (0, 4000)


def test_depth_says_nothing_of_floats_and_of_eight_bits() -> None:
    with pytest.warns(UserWarning, match="fill 12 bits only"):
        data = ImageDataLoaders.from_lists(twelve_bits(), list("abc") * 4, **SMALL)
    grey = [np.full((20, 20), 0.5), np.full((20, 20), 128, np.uint8)]
    shown = data.displayable(data.inputs(grey, CPU))
    assert shown.min() == shown.max() == pytest.approx(128 / 255, abs=1e-6)
    assert ImageDataLoaders.from_lists([grey[1]] * 12, list("abc") * 4, **SMALL).preprocessing == (
        Preprocessing(16)
    )


def test_image_beyond_the_depth_that_was_guessed_is_said_where_it_is_asked_for() -> None:
    with pytest.warns(UserWarning, match="fill 8 bits only"):
        data = ImageDataLoaders.from_lists(twelve_bits(4), list("abc") * 4, **SMALL)
    with pytest.warns(UserWarning, match="fill 12 bits only") as said:
        data.inputs([np.full((20, 20), 4000, np.uint16)] * 2, CPU)
    assert {Path(warning.filename) for warning in said} == {Path(__file__)}


def test_sample_reads_no_pixels_of_files_with_eight_bits(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(image: Image.Image) -> None:
        raise AssertionError("pixels were read")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert len(from_photos(photos).train_examples) > 10


def test_dataset_with_its_own_validation_set() -> None:
    grey = [(np.full((16, 16, 3), i * 8, np.uint8), i % 2) for i in range(12)]
    data = ImageDataLoaders.from_dataset(grey[:8], grey[8:], classes=("even", "odd"), **SMALL)
    assert (len(data.train_examples), len(data.valid_examples)) == (8, 4)
    assert data.classes == ("even", "odd")
    assert valid_batches(data)[0].targets.tolist() == [0, 1, 0, 1]


def test_dataset_is_split_at_random() -> None:
    grey = [(np.full((16, 16, 3), i * 8, np.uint8), i % 2) for i in range(12)]
    data = ImageDataLoaders.from_dataset(grey, valid_fraction=0.34, **SMALL)
    assert (len(data.train_examples), len(data.valid_examples)) == (8, 4)
    assert len(train_views(data)) == 8


def test_repr_says_what_there_is(photos: Path) -> None:
    assert repr(from_photos(photos, valid_fraction=0.25)) == (
        "ImageDataLoaders(17 training and 7 validation images, 3 classes, 16 px, batches of 4)"
    )


# --- bad input


def test_fewer_training_images_than_a_batch_are_refused(photos: Path) -> None:
    with pytest.raises(
        ValueError, match="17 training images make no batch of 64; pass batch_size="
    ):
        from_photos(photos, valid_fraction=0.25, batch_size=64)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_bad_batch_size_is_refused(photos: Path, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be .*, got {batch_size}"):
        from_photos(photos, batch_size=batch_size)


@pytest.mark.parametrize("fraction", [0, 1, 1.5])
def test_bad_valid_fraction_is_refused(photos: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match=f"valid_fraction must be .*, got {fraction}"):
        from_photos(photos, valid_fraction=fraction)


def test_bad_on_error_is_refused(photos: Path) -> None:
    with pytest.raises(ValueError, match="on_error must be one of 'raise', 'skip', got 'ignore'"):
        from_photos(photos, on_error="ignore")


def test_bad_image_size_is_refused(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"image_size must be .* of at least 1 .*, got -5"):
        from_photos(photos, image_size=-5)


def test_image_size_zero_is_refused(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"image_size must be .* of at least 1 .*, got 0"):
        from_photos(photos, image_size=0)


def test_bad_resize_is_refused(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"resize must be one of .* got 'stretch'"):
        from_photos(photos, resize="stretch")


@pytest.mark.parametrize("num_workers", [0, -1])
def test_bad_number_of_workers_is_refused_at_once(photos: Path, num_workers: int) -> None:
    rule = f"num_workers must be .* of at least 1 .*, got {num_workers}"
    with pytest.raises(ValueError, match=rule):
        from_photos(photos, num_workers=num_workers)


# --- unreadable files


def test_unreadable_file_is_named_when_it_is_reached(tmp_path: Path) -> None:
    damage(write_photos(tmp_path), "red/003.jpg")
    data = from_photos(tmp_path, augment=None, batch_size=1)
    parts = data.train_examples, data.valid_examples
    loaders = [data.train, data.valid]
    (bad,) = (i for i, part in enumerate(parts) if any("red/003" in str(p) for p in part.items))
    assert list(loaders[1 - bad].epoch(0, 0))  # type: ignore[union-attr]
    with pytest.raises(ImageError, match=r"can't read image .*red.003\.jpg: "):
        list(loaders[bad].epoch(0, 0))  # type: ignore[union-attr]


def test_skipped_files_are_listed_and_warned_of(tmp_path: Path) -> None:
    damage(write_photos(tmp_path), "red/003.jpg", "blue/000.jpg")
    with pytest.warns(UserWarning, match="left out 2 unreadable images:\n") as warned:
        data = ImageDataLoaders.from_folder(tmp_path, on_error="skip", **SMALL)
    assert all(isinstance(error, ImageError) for error in data.skipped)
    names = {Path(error.source).relative_to(tmp_path).as_posix() for error in data.skipped}
    assert names == {"red/003.jpg", "blue/000.jpg"}
    assert all(str(error) in str(warned[0].message) for error in data.skipped)
    assert warned[0].filename == __file__  # it points to the caller's line


def test_every_way_in_warns_with_the_callers_line(tmp_path: Path) -> None:
    damage(write_photos(tmp_path), "red/003.jpg")
    images = sorted(tmp_path.glob("*/*.jpg"))
    labels = [image.parent.name for image in images]
    table = tmp_path / "labels.csv"
    rows = [f"{image},{label}" for image, label in zip(images, labels, strict=True)]
    table.write_text("\n".join(["image,label", *rows]))
    with pytest.warns(UserWarning, match="left out 1 unreadable images:\n") as of_table:
        ImageDataLoaders.from_csv(table, on_error="skip", **SMALL)
    with pytest.warns(UserWarning, match="left out 1 unreadable images:\n") as of_lists:
        ImageDataLoaders.from_lists(images, labels, on_error="skip", **SMALL)
    assert of_table[0].filename == of_lists[0].filename == __file__


def test_skipped_files_are_not_replaced(tmp_path: Path) -> None:
    bad = {"red/003.jpg", "blue/000.jpg", "blue/001.jpg"}
    damage(write_photos(tmp_path), *bad)
    with pytest.warns(UserWarning, match="left out 3"):
        data = from_photos(tmp_path, on_error="skip", batch_size=1)
    items = [
        str(item) for part in (data.train_examples, data.valid_examples) for item in part.items
    ]
    assert len(items) == len(set(items)) == 24 - 3
    assert not bad & {Path(item).relative_to(tmp_path).as_posix() for item in items}
    assert len(train_views(data)) == len(data.train_examples)
    assert sum(len(batch) for batch in valid_batches(data)) == len(data.valid_examples)


def test_skipping_keeps_labels_and_the_split_of_the_others(tmp_path: Path) -> None:
    write_photos(tmp_path)
    whole = from_photos(tmp_path)
    damage(tmp_path, "green/002.jpg")
    with pytest.warns(UserWarning, match="left out 1"):
        part = from_photos(tmp_path, on_error="skip")
    for before, after in (
        (whole.train_examples, part.train_examples),
        (whole.valid_examples, part.valid_examples),
    ):
        labels = dict(zip(before.items, before.labels.tolist(), strict=True))
        assert set(after.items) == {i for i in before.items if "green/002" not in str(i)}
        assert after.labels.tolist() == [labels[item] for item in after.items]


def test_nothing_is_skipped_where_all_is_readable(photos: Path) -> None:
    assert from_photos(photos, on_error="skip").skipped == ()


def test_many_skipped_files_are_listed_in_part(tmp_path: Path) -> None:
    write_photos(tmp_path)
    damage(tmp_path, *(f"red/00{i}.jpg" for i in range(6)), *(f"blue/00{i}.jpg" for i in range(6)))
    with pytest.warns(UserWarning, match=r"(?s)left out 12 .*and 2 more, see \.skipped") as warned:
        assert len(from_photos(tmp_path, on_error="skip", batch_size=2).skipped) == 12
    assert len(str(warned[0].message).splitlines()) == 12


def test_unreadable_items_of_a_dataset_are_skipped_too(tmp_path: Path) -> None:
    """torchvision's ImageFolder raises PIL's own error, without a path for all of them."""
    from torchvision.datasets import ImageFolder

    damage(write_photos(tmp_path), "red/003.jpg")
    with pytest.warns(UserWarning, match="left out 1 unreadable images"):
        data = ImageDataLoaders.from_dataset(ImageFolder(str(tmp_path)), on_error="skip", **SMALL)
    assert len(data.skipped) == 1


# --- stateless randomness: what the model sees is a pure function of (seed, epoch, index)


def test_view_depends_on_the_epoch(photos: Path) -> None:
    data = from_photos(photos)
    one, other = train_views(data, 0), train_views(data, 1)
    assert not any(torch.equal(one[i], other[i]) for i in one.keys() & other.keys())


def test_view_depends_on_the_seed(photos: Path) -> None:
    array = np.asarray(read_image(photos / "red" / "000.jpg"))
    views = []
    for seed in (0, 1):
        data = ImageDataLoaders.from_lists(
            [array] * 6, list("ababab"), is_valid=[False] * 4 + [True] * 2, seed=seed, **SMALL
        )
        views.append(train_views(data))
    assert not any(torch.equal(views[0][i], views[1][i]) for i in range(4))


def test_views_of_one_image_under_two_numbers_differ(photos: Path) -> None:
    array = np.asarray(read_image(photos / "red" / "000.jpg"))
    data = ImageDataLoaders.from_lists(
        [array] * 6, list("ababab"), is_valid=[False] * 4 + [True] * 2, **SMALL
    )
    views = list(train_views(data).values())
    assert not any(torch.equal(views[i], views[j]) for i in range(4) for j in range(i))


def test_views_repeat_bit_for_bit(photos: Path) -> None:
    one, other = train_views(from_photos(photos), 3), train_views(from_photos(photos), 3)
    assert list(one) == list(other)
    assert same_views(one, other)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_view_does_not_depend_on_the_batch(photos: Path, batch_size: int) -> None:
    one = train_views(from_photos(photos, batch_size=4), 1)
    other = train_views(from_photos(photos, batch_size=batch_size), 1)
    assert len(one.keys() & other.keys()) >= 12
    assert same_views(one, other)


def test_start_in_the_middle_gives_the_same_views(photos: Path) -> None:
    data = from_photos(photos)
    whole, rest = train_views(data, 2), train_views(from_photos(photos), 2, start=2)
    assert list(rest) == list(whole)[8:]
    assert same_views(whole, rest)


@pytest.mark.parametrize("num_workers", [1, 4])
def test_number_of_workers_changes_no_view(photos: Path, num_workers: int) -> None:
    one = train_views(from_photos(photos))
    other = train_views(from_photos(photos, num_workers=num_workers))
    assert list(one) == list(other)
    assert same_views(one, other)


def test_global_generators_change_no_view_and_are_left_alone(photos: Path) -> None:
    expected = train_views(from_photos(photos))
    torch.manual_seed(9)
    np.random.seed(9)
    random.seed(9)
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    assert same_views(train_views(from_photos(photos)), expected)
    assert states == (
        random.getstate(),
        str(np.random.get_state()),
        torch.get_rng_state().tolist(),
    )


# --- the validation view


def test_validation_view_repeats_in_every_epoch(photos: Path) -> None:
    data = from_photos(photos)
    for one, other in zip(valid_batches(data, 0), valid_batches(data, 5), strict=True):
        assert torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize("resize", ["crop", "squish", "pad"])
def test_validation_view_is_what_prediction_sees(photos: Path, resize: str) -> None:
    data = from_photos(photos, resize=resize)
    predicted = data.inputs(data.valid_examples.items, CPU)
    assert torch.equal(torch.cat([batch.inputs for batch in valid_batches(data)]), predicted)


def test_validation_view_is_what_prediction_sees_after_suiting_a_backbone(photos: Path) -> None:
    data = from_photos(photos).for_backbone(32, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    predicted = data.inputs(data.valid_examples.items, CPU)
    assert torch.equal(torch.cat([batch.inputs for batch in valid_batches(data)]), predicted)


def test_validation_view_is_the_middle_of_the_presized_image(photos: Path) -> None:
    data = from_photos(photos).for_backbone(16, (0.0,) * 3, (1.0,) * 3)
    with Image.open(str(data.valid_examples.items[0])) as image:
        image.draft("RGB", (36, 36))
        height = width = min(image.size)
        left, top = (image.width - width) / 2, (image.height - height) / 2
        box = (left, top, left + width, top + height)
        presized = np.asarray(image.resize((18, 18), Image.Resampling.BILINEAR, box))
    view = valid_batches(data)[0].inputs[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(view - presized[1:-1, 1:-1]).max() < 1e-4


def test_training_without_augmentation_sees_what_prediction_sees(photos: Path) -> None:
    data = from_photos(photos, augment=None)
    for number, view in train_views(data).items():
        assert torch.equal(view, data.inputs([data.train_examples.items[number]], CPU)[0])


def test_validation_is_not_augmented(photos: Path) -> None:
    wild = Augmentation(flip=1, rotate=45, lighting=0.9)
    plain, augmented = (valid_batches(from_photos(photos, augment=a))[0] for a in (None, wild))
    assert torch.equal(plain.inputs, augmented.inputs)


# --- elongated images


def wide_images() -> list[np.ndarray]:
    """Black, with a red left and a green right end that no middle square reaches."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :8, 0] = 255
    image[:, -8:, 1] = 255
    return [image] * 8


def from_wide(**options: object) -> ImageDataLoaders:
    labels = list("ab") * 4
    return ImageDataLoaders.from_lists(wide_images(), labels, **{**SMALL, **options}).for_backbone(
        16, (0.0,) * 3, (1.0,) * 3
    )


def seen_channels(views: Iterable[Tensor]) -> list[bool]:
    """Whether red, green and blue are in any of these views."""
    return (torch.stack(list(views)).amax(dim=(0, 2, 3)) > 0.2).tolist()


def test_training_sees_both_ends_and_validation_the_middle() -> None:
    data = from_wide()
    epochs = [train_views(data, epoch).values() for epoch in range(6)]
    assert seen_channels(chain.from_iterable(epochs)) == [True, True, False]
    assert seen_channels(valid_batches(data)[0].inputs) == [False, False, False]


def test_training_images_are_evaluated_by_their_middle() -> None:
    """A random view, too, is that of the same image in a list."""
    data = from_wide()
    reader = Reader(data, data.classes, data.task, known_loaders=(data.train, data.valid))
    listed = data.pipeline.cache(data.train_examples.items)
    for view in (None, 0):
        for batch in reader.open(data.train).loader.epoch(0, 0):
            prepared = data.prepare(batch, view).inputs
            assert seen_channels(prepared) == [False, False, False]
            same = replace(batch, inputs=listed.images(batch.indices))
            assert torch.equal(prepared, data.prepare(same, view).inputs)


@pytest.mark.parametrize("resize", ["squish", "pad"])
def test_image_that_becomes_a_square_is_kept_as_one(resize: str) -> None:
    batch = next(from_wide(resize=resize).train.epoch(0, 0))
    assert batch.inputs.shape == (4, 3, 18, 18)


def test_function_of_an_image_gets_its_middle_square() -> None:
    shapes = []

    def noted(image: Tensor) -> Tensor:
        shapes.append(list(image.shape))
        return image

    data = from_wide(augment=noted)
    assert seen_channels(train_views(data).values()) == [False, False, False]
    assert shapes == [[3, 18, 18]] * 4


def test_whole_images_of_another_size_are_refused() -> None:
    batch = next(from_wide().train.epoch(0, 0))
    with pytest.raises(ValueError, match=r"must be \[B, 3, 32, 32\], got \[4, 3, 26, 18\]"):
        from_wide(image_size=32).prepare(batch, 0)


# --- suiting a backbone


def test_backbone_decides_the_size_where_none_was_given(photos: Path) -> None:
    data = from_photos(photos, image_size=None).for_backbone(32, (0.5,) * 3, (0.5,) * 3)
    assert valid_batches(data)[0].inputs.shape[-2:] == (32, 32)


def test_given_size_goes_before_the_backbones(photos: Path) -> None:
    data = from_photos(photos).for_backbone(32, (0.5,) * 3, (0.5,) * 3)
    assert valid_batches(data)[0].inputs.shape[-2:] == (16, 16)


def test_views_are_normalised_for_the_backbone(photos: Path) -> None:
    plain = from_photos(photos).for_backbone(16, (0.0,) * 3, (1.0,) * 3)
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    shifted = from_photos(photos).for_backbone(16, mean, std)
    expected = (train_views(plain)[0] - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(
        3, 1, 1
    )
    assert torch.allclose(train_views(shifted)[0], expected, atol=1e-5)


def test_suiting_a_backbone_leaves_the_original_alone(photos: Path) -> None:
    data = from_photos(photos)
    before = valid_batches(data)[0].inputs
    data.for_backbone(16, (0.0,) * 3, (1.0,) * 3)
    assert torch.equal(valid_batches(data)[0].inputs, before)


def test_description_rebuilds_the_preprocessing(photos: Path) -> None:

    data = from_photos(photos, resize="pad").for_backbone(16, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    rebuilt = Preprocessing.from_dict(data.describe_inputs())
    items = data.valid_examples.items
    assert torch.equal(rebuilt.inputs(items, CPU), data.inputs(items, CPU))


def test_images_are_counted_by_class_and_part(photos: Path) -> None:
    counts = from_photos(photos).class_counts()
    assert list(counts) == ["train", "valid"]
    assert counts["train"] == {"images": 19, "classes": {"blue": 7, "green": 6, "red": 6}}
    assert counts["valid"] == {"images": 5, "classes": {"blue": 1, "green": 2, "red": 2}}


class Named:
    """A data set of grey images with its own list of classes."""

    def __init__(self, classes: list[str], targets: list[int]) -> None:
        self.classes, self.targets = classes, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (40, 40)), self.targets[index]


def test_validation_labels_are_told_by_name() -> None:
    train = Named(["a", "b", "c"], [0, 1, 2, 2])
    data = ImageDataLoaders.from_dataset(train, Named(["a", "c"], [0, 1]), batch_size=2)
    assert data.valid_examples.labels.tolist() == [0, 2]


def test_a_class_that_only_validation_has_is_named() -> None:
    with pytest.raises(ValueError, match="validation has classes that training lacks: 'd'"):
        ImageDataLoaders.from_dataset(
            Named(["a", "b"], [0, 1]), Named(["a", "d"], [0, 1]), batch_size=2
        )


# --- tasks and own augmentation


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_unreadable_files_are_skipped_in_every_task(tmp_path: Path, task: str) -> None:
    damage(write_photos(tmp_path), "red/003.jpg")
    files = sorted(tmp_path.rglob("*.jpg"))
    labels = [[f.parent.name, "photo"] if task == "multi_label" else i for i, f in enumerate(files)]
    with pytest.warns(UserWarning, match="left out 1 unreadable"):
        data = ImageDataLoaders.from_lists(files, labels, task=task, on_error="skip", **SMALL)  # type: ignore[arg-type]
    left = [*data.train_examples.items, *data.valid_examples.items]
    assert len(left) == 23
    targets = torch.cat([data.train_examples.labels, data.valid_examples.labels])
    for file, target in zip(left, targets, strict=True):
        names = [name for name, there in zip(data.classes, target, strict=True) if there]
        label = files.index(file) if task == "regression" else sorted([file.parent.name, "photo"])  # type: ignore[union-attr]
        assert (target.item() if task == "regression" else names) == label


def test_label_without_a_readable_training_image_is_refused(tmp_path: Path) -> None:
    damage(write_photos(tmp_path), "red/003.jpg")
    files = sorted(tmp_path.rglob("*.jpg"))
    labels = [["rare"] if f.match("red/003.jpg") else ["usual"] for f in files]
    marks = [i < 4 for i in range(24)]
    with pytest.raises(ValueError, match="a class is left without a readable training image"):
        ImageDataLoaders.from_lists(
            files, labels, is_valid=marks, task="multi_label", on_error="skip", **SMALL
        )


def test_repr_says_targets_of_a_regression() -> None:
    images = [np.zeros((20, 20, 3), np.uint8)] * 10
    data = ImageDataLoaders.from_lists(images, range(10), task="regression", **SMALL)
    assert "1 target," in repr(data)


def test_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task must be one of .* got 'multilabel'"):
        ImageDataLoaders.from_lists(["1.jpg"], [["a"]], task="multilabel")  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_own_augmentation_does_not_depend_on_the_batch(photos: Path, batch_size: int) -> None:
    own = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomResizedCrop(16), v2.ColorJitter(0.5)])
    one = train_views(from_photos(photos, augment=own), 1)
    other = train_views(from_photos(photos, augment=own, batch_size=batch_size), 1)
    assert len(one.keys() & other.keys()) >= 12
    assert same_views(one, other)
    assert not same_views(one, train_views(from_photos(photos, augment=own), 2))


@pytest.mark.parametrize("labels", [list("abcd"), [1.5, 2.5, 3.25, 4.0]])
def test_one_image_a_class_is_told_with_the_way_out(labels: list) -> None:
    images = [np.zeros((8, 8, 3), np.uint8)] * 4
    with pytest.raises(ValueError, match=r"one image only: .* pass task='regression' for numbers"):
        ImageDataLoaders.from_lists(images, labels, image_size=8, batch_size=2)
