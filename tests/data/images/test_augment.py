import math
from collections.abc import Iterator
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finetune.data.images.augment import (
    DRAWS,
    Augmentation,
    Draws,
    augment,
    center_crop,
    draw_numbers,
    homographies,
)
from finetune.data.images.preprocessing import Preprocessing
from finetune.data.images.whole import WholeImages
from finetune.image_size import ImageSize
from finetune.nested import count_examples

STILL = {"flip": 0.0, "min_window": 1.0, "rotate": 0.0, "warp": 0.0, "lighting": 0.0}
ZERO, ONE = torch.zeros(3), torch.ones(3)

specs = st.builds(
    Augmentation,
    flip=st.floats(0, 1),
    min_window=st.floats(0.01, 1),
    rotate=st.floats(0, 180),
    warp=st.floats(0, 0.5, exclude_max=True),
    affine_probability=st.floats(0, 1),
    lighting=st.floats(0, 1, exclude_max=True),
    lighting_probability=st.floats(0, 1),
)


def noise(count: int = 4, side: int = 16, seed: int = 0, height: int | None = None) -> Tensor:
    """uint8 [count, 3, height, side]; height: None for squares."""
    source = torch.Generator().manual_seed(seed)
    shape = (count, 3, height or side, side)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)


def draws_of(count: int = 4, epoch: int = 0, first: int = 0) -> Draws:
    return draw_numbers(0, epoch, torch.arange(first, first + count), torch.device("cpu"))


def views(
    images: Tensor | WholeImages, spec: Augmentation, size: ImageSize, draws: Draws | None = None
) -> Tensor:
    """Augmented views in [0, 1], not normalised."""
    if draws is None:
        draws = draws_of(count_examples(images))
    return augment(images, draws, spec, size, ZERO, ONE)


def fixed(**numbers: float) -> Draws:
    """Draws of one image: all in the middle, so that nothing moves, but what is named."""
    row = dict.fromkeys(DRAWS, 0.5) | {"affine": 0.0, "lit": 0.0} | numbers
    return {name: torch.tensor([number]) for name, number in row.items()}


def dot(x: int, y: int, side: int = 33) -> Tensor:
    """A bright 3 x 3 dot on black, its middle at column x and row y."""
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    image[:, :, y - 1 : y + 2, x - 1 : x + 2] = 255
    return image


def place_of(view: Tensor) -> tuple[float, float]:
    """Column and row of the middle of what is bright."""
    light = view[0, 0]
    steps = torch.arange(len(light), dtype=torch.float32)
    weight = light.sum()
    return float((light.sum(0) * steps).sum() / weight), float(
        (light.sum(1) * steps).sum() / weight
    )


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# --- the deterministic view


def test_center_crop_is_the_middle() -> None:
    images = noise(side=20)
    view = center_crop(images, 16, ZERO, ONE)
    assert torch.allclose(view * 255, images[:, :, 2:18, 2:18].float(), atol=1e-4)


def test_center_crop_of_a_rectangle_is_its_middle() -> None:
    images = noise(side=20)[:, :, :14]
    view = center_crop(images, (10, 16), ZERO, ONE)
    assert torch.allclose(view * 255, images[:, :, 2:12, 2:18].float(), atol=1e-4)
    with pytest.raises(ValueError, match=r"no middle of 16 x 10 px in images"):
        center_crop(images, (16, 10), ZERO, ONE)


def test_an_image_that_is_too_small_has_no_middle() -> None:
    with pytest.raises(ValueError, match=r"no middle of 16 px in images \[1, 3, 12, 12\]"):
        center_crop(torch.zeros(1, 3, 12, 12, dtype=torch.uint8), 16, ZERO, ONE)


def test_center_crop_is_normalised_by_channel() -> None:
    white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    view = center_crop(white, 8, torch.tensor([0.5, 0.25, 0.0]), torch.tensor([0.5, 0.25, 2.0]))
    assert torch.allclose(view[0, :, 0, 0], torch.tensor([1, 3, 0.5]))


def test_images_stay_as_they_were() -> None:
    images = noise()
    before = images.clone()
    center_crop(images, 12, ONE / 2, ONE / 4)
    views(images, Augmentation(), 12)
    assert torch.equal(images, before)


# --- the identity


def test_nothing_happens_where_nothing_may() -> None:
    images = noise(8)
    view = views(images, Augmentation(**STILL), 16)
    assert (view - images / 255).abs().max() < 1e-5


def test_nothing_happens_where_the_draws_are_in_the_middle() -> None:
    images = noise(1)
    view = views(images, Augmentation(min_window=1, flip=0.5), 16, fixed(affine=0.9, lit=0.9))
    assert (view - images / 255).abs().max() < 1e-5


def test_probability_zero_keeps_the_affine_part_and_the_light_away() -> None:
    spec = Augmentation(0, 1, 45, 0.3, affine_probability=0, lighting=0.5, lighting_probability=0)
    images = noise(8)
    assert (views(images, spec, 16) - images / 255).abs().max() < 1e-5


def test_view_that_may_not_move_is_normalised_like_the_deterministic_one() -> None:
    images, mean, std = noise(), torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1])
    view = augment(images, draws_of(), Augmentation(**STILL), 16, mean, std)
    assert torch.allclose(view, center_crop(images, 16, mean, std), atol=1e-4)


def test_nothing_happens_to_a_rectangle_where_nothing_may() -> None:
    images = noise(8)[:, :, :9]
    view = views(images, Augmentation(**STILL), (9, 16))
    assert (view - images / 255).abs().max() < 1e-5


# --- geometry


def test_a_rotated_rectangle_keeps_its_shapes() -> None:
    spec = Augmentation(**{**STILL, "rotate": 45.0, "affine_probability": 1.0})
    # 20 pixels to the right of the middle, which a rotation by 45 degrees takes to a diagonal
    image = torch.zeros(1, 3, 65, 129, dtype=torch.uint8)
    image[:, :, 31:34, 83:86] = 255
    view = views(image, spec, (65, 129), fixed(affine=0.0, angle=0.0))
    # beyond the middle the image is mirrored, and the dot with it
    rows, columns = torch.nonzero(view[0, 0, :, 39:90] > 0.3).float().mean(dim=0).tolist()
    distance = 20 / 2**0.5
    assert abs(rows - 32) == pytest.approx(distance, abs=1)
    assert abs(columns - 25) == pytest.approx(distance, abs=1)


def test_flip_of_probability_one_mirrors_left_and_right() -> None:
    images = noise(8)
    view = views(images, Augmentation(**{**STILL, "flip": 1.0}), 16)
    assert (view - images.flip(3) / 255).abs().max() < 1e-5


def test_flip_happens_as_often_as_its_probability() -> None:
    mirrored = homographies(draws_of(4000), Augmentation(**{**STILL, "flip": 0.3}))[:, 0, 0] < 0
    assert abs(float(mirrored.float().mean()) - 0.3) < 0.03


@pytest.mark.parametrize(
    ("start", "turned"), [((28, 16), (16, 28)), ((16, 28), (4, 16)), ((4, 16), (16, 4))]
)
@pytest.mark.parametrize("angle", [1.0, 0.0])
def test_rotation_takes_a_dot_around_the_centre(
    start: tuple[int, int], turned: tuple[int, int], angle: float
) -> None:
    """A quarter turn moves the dot, and the other way for the other sign: a rotation, no shear."""
    spec = Augmentation(**{**STILL, "rotate": 90.0})
    x, y = place_of(views(dot(*start), spec, 33, fixed(angle=angle)))
    opposite = (32 - turned[0], 32 - turned[1])
    assert (x, y) == pytest.approx(opposite if angle else turned, abs=0.01)


def test_rotation_by_its_degrees() -> None:
    spec = Augmentation(**{**STILL, "rotate": 30.0})
    x, y = place_of(views(dot(28, 16), spec, 33, fixed(angle=0.0)))
    assert math.degrees(math.atan2(y - 16, x - 16)) == pytest.approx(30, abs=1)
    assert math.hypot(x - 16, y - 16) == pytest.approx(12, abs=0.2)


@pytest.mark.parametrize(("flip", "expected"), [(0.0, 20), (1.0, 12)])
def test_flip_of_a_rotated_image_mirrors_the_view(flip: float, expected: int) -> None:
    spec = Augmentation(**{**STILL, "rotate": 90.0, "flip": flip})
    x, y = place_of(views(dot(28, 20), spec, 33, fixed(angle=1.0)))
    assert (x, y) == pytest.approx((expected, 4), abs=0.01)


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5)])
def test_window_is_cut_at_its_place(x: float, y: float) -> None:
    """A window of half the side, in the view's own size: no resampling but the cut."""
    images = noise(1, side=32)
    spec = Augmentation(**{**STILL, "min_window": 0.5})
    view = views(images, spec, 16, fixed(window=0.0, shift_x=x, shift_y=y))
    left, top = round(16 * x), round(16 * y)
    assert (view - images[:, :, top : top + 16, left : left + 16] / 255).abs().max() < 1e-5


def test_window_is_no_smaller_than_allowed_and_inside_the_image() -> None:
    spec = Augmentation(**{**STILL, "min_window": 0.6})
    matrices = homographies(draws_of(2000), spec)
    window, shift = matrices[:, 0, 0], matrices[:, :2, 2].abs().amax(1)
    assert 0.6 <= window.min() < 0.61
    assert 0.99 < window.max() <= 1
    assert bool((window + shift <= 1 + 1e-6).all())


def test_warp_brings_one_edge_nearer() -> None:
    """Towards the right the image is sampled ever finer, towards the left ever coarser."""
    matrix = homographies(fixed(tilt_x=1.0), Augmentation(**{**STILL, "warp": 0.2}))[0]
    left, right = (matrix @ torch.tensor([x, 1.0, 1.0]) for x in (-1.0, 1.0))
    assert float(left[1] / left[2]) == pytest.approx(1 / 0.8)
    assert float(right[1] / right[2]) == pytest.approx(1 / 1.2)


@settings(max_examples=30, deadline=None)
@given(spec=specs, epoch=st.integers(0, 99))
def test_homographies_are_invertible(spec: Augmentation, epoch: int) -> None:
    matrices = homographies(draws_of(16, epoch), spec).double()
    window = spec.min_window
    assert bool((matrices.det().abs() >= 0.99 * window**2).all())
    identity = torch.eye(3, dtype=torch.float64).expand(16, 3, 3)
    assert torch.allclose(matrices @ matrices.inverse(), identity, atol=1e-6)


# --- elongated images


def both_ends(height: int, width: int) -> WholeImages:
    """One image with a red end, a black middle and a green end, along its longer axis."""
    image = torch.zeros(max(height, width), min(height, width), 3, dtype=torch.uint8)
    image[:4, :, 0] = 255
    image[-4:, :, 1] = 255
    return WholeImages(image[None].permute(0, 3, 1, 2), torch.tensor([[height, width]]))


@pytest.mark.parametrize("size", [(24, 16), (16, 24)], ids=["tall", "wide"])
def test_views_reach_both_ends_of_an_elongated_image(size: tuple[int, int]) -> None:
    red, green = [], []
    for number in range(40):
        view = views(both_ends(*size), Augmentation(**STILL), 16, draws_of(1, first=number))
        red.append(float(view[:, 0].max()))
        green.append(float(view[:, 1].max()))
    assert max(red) == max(green) == pytest.approx(1, abs=1e-5)
    # and its middle square, between them
    assert min(max(pair) for pair in zip(red, green, strict=True)) < 1e-3


def test_view_of_a_wide_image_is_upright() -> None:
    end = views(both_ends(16, 24), Augmentation(**STILL), 16, fixed(place=0.0))[0, 0]
    assert bool((end[:, :4] > 0.99).all())
    assert bool((end[:, 5:] < 0.01).all())


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_view_of_a_wide_image_is_that_of_its_square(place: float) -> None:
    """Everything that may happen, happens as it would to the square that the view sees."""
    image = noise(1, 24, height=16)
    whole = WholeImages(image.transpose(2, 3), torch.tensor([[16, 24]]))
    draws = {name: torch.tensor([0.3]) for name in DRAWS} | {"place": torch.tensor([place])}
    start = round(8 * place)
    expected = views(image[..., start : start + 16], Augmentation(), 14, draws)
    assert torch.allclose(views(whole, Augmentation(), 14, draws), expected, atol=1e-5)


def test_view_of_a_square_is_the_same_beside_elongated_images() -> None:
    images = noise(3, height=24)
    sizes = torch.tensor([[16, 16], [24, 16], [16, 24]])
    alone = views(images[:1, :, 4:20], Augmentation(), 14, draws_of(1))
    together = views(WholeImages(images, sizes), Augmentation(), 14, draws_of(3))
    assert torch.equal(together[:1], alone)


# --- light


def test_brightness_multiplies_and_changes_nothing_else() -> None:
    images = noise(1) // 2  # so that nothing is clipped
    spec = Augmentation(**{**STILL, "lighting": 0.4})
    view = views(images, spec, 16, fixed(brightness=1.0))
    assert torch.allclose(view, images / 255 * 1.4, atol=1e-5)


def test_contrast_keeps_the_mean() -> None:
    images = noise(1) // 4 + 96
    view = views(images, Augmentation(**{**STILL, "lighting": 0.4}), 16, fixed(contrast=1.0))
    image = images / 255
    assert torch.allclose(view, image.mean() + (image - image.mean()) * 1.4, atol=1e-5)


def test_light_is_the_same_for_every_channel_and_pixel() -> None:
    images = noise(6) // 4 + 96
    view = views(images, Augmentation(**{**STILL, "lighting": 0.3}), 16)
    for image, seen in zip(images / 255, view, strict=True):
        scale = seen.std() / image.std()
        assert torch.allclose(seen, seen.mean() + (image - image.mean()) * scale, atol=1e-5)


# --- the whole


@settings(max_examples=30, deadline=None)
@given(spec=specs, size=st.integers(1, 24), epoch=st.integers(0, 99))
def test_views_are_finite_and_in_range_for_any_valid_spec(
    spec: Augmentation, size: int, epoch: int
) -> None:
    view = views(noise(3, 16), spec, size, draws_of(3, epoch))
    assert view.shape == (3, 3, size, size)
    assert view.dtype == torch.float32
    assert bool(((view >= 0) & (view <= 1)).all())


def test_views_show_no_black_corners() -> None:
    white = torch.full((64, 3, 24, 24), 255, dtype=torch.uint8)
    spec = Augmentation(rotate=45, warp=0.3, affine_probability=1, lighting=0)
    assert views(white, spec, 20).min() > 0.999


def test_view_does_not_depend_on_the_memory_layout() -> None:
    images = noise(8)
    turned = images.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(views(images, Augmentation(), 14), views(turned, Augmentation(), 14))


@pytest.mark.parametrize(
    ("side", "size", "together"),
    [(16, 14, 1), (16, 14, 3), (16, 14, 8), (256, 224, 1), (256, 224, 4)],
)
@pytest.mark.usefixtures("two_threads")
def test_view_does_not_depend_on_the_batch(side: int, size: int, together: int) -> None:
    """At 224 px a batch of one is large enough for torch to share a sum among its threads."""
    images, spec = noise(8, side), Augmentation(lighting_probability=1)
    seen = []
    for first in range(0, 8, together):
        part = images[first : first + together]
        seen.append(views(part, spec, size, draws_of(len(part), first=first)))
    assert torch.equal(torch.cat(seen), views(images, spec, size, draws_of(8)))


@pytest.mark.parametrize("name", DRAWS)
def test_every_draw_is_used(name: str) -> None:
    everything = {field.name: field.default or 0.5 for field in fields(Augmentation)}
    # of an elongated image, because the place of the square is drawn, too
    images = WholeImages(noise(1, 16, height=24), torch.tensor([[24, 16]]))
    spec = Augmentation(**everything)
    start = {draw: torch.tensor([0.4]) for draw in DRAWS}
    changed = {**start, name: torch.tensor([0.99])}
    plain = views(images, spec, 16, start)
    assert not torch.allclose(views(images, spec, 16, changed), plain)


def test_a_draw_is_keyed_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """An augmentation that is added, in any place, leaves the others as they were."""
    before = draws_of()
    monkeypatch.setattr("finetune.data.images.augment.DRAWS", ("new", *reversed(DRAWS)))
    after = draws_of()
    assert set(after) == {*before, "new"}
    for name, numbers in before.items():
        assert torch.equal(after[name], numbers)


@pytest.mark.parametrize("name", ["flip", "affine_probability", "lighting_probability"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_bad_probability_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .* and at most 1, got {value}"):
        Augmentation(**{name: value})


@pytest.mark.parametrize("value", [0, -0.5, 1.5, float("nan")])
def test_bad_window_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"min_window must be .*, got {value}"):
        Augmentation(min_window=value)


@pytest.mark.parametrize("value", [{"lighting": 1.0}, {"lighting": -0.1}, {"warp": 0.5}])
def test_bad_lighting_or_warp_is_refused(value: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"(lighting|warp) must be .* of at least 0 and below"):
        Augmentation(**value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_rotation_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="rotate"):
        Augmentation(rotate=value)


def test_views_do_not_depend_on_the_default_type() -> None:
    images = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8)
    preprocessing = Preprocessing(16, mean=(0.41, 0.42, 0.43))  # not made by another test

    def views() -> Tensor:
        draws = draw_numbers(0, 0, torch.arange(3), torch.device("cpu"))
        mean, std = preprocessing.normalisation(torch.device("cpu"))
        return augment(images, draws, Augmentation(), 16, mean, std)

    torch.set_default_dtype(torch.float64)
    try:
        unusual = views()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(unusual, views())
