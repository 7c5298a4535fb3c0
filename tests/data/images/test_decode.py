import io
import pickle
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import CLOTHING, needs_clothing

from finetune.data.images.decode import RESIZE_METHODS, ImageError, presize, read_image

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
LOSSY = 6  # most levels of 255 by which JPEG and WebP change a flat colour here


def flat(mode: str = "RGB", colour: object = RED, size: tuple[int, int] = (24, 16)) -> Image.Image:
    return Image.new(mode, size, colour)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def assert_flat(image: Image.Image, colour: tuple[int, ...], tolerance: int = 0) -> None:
    assert image.mode == "RGB"
    assert np.abs(pixels(image) - np.array(colour)).max() <= tolerance


# --- file formats


@pytest.mark.parametrize(
    ("suffix", "tolerance"),
    [(".jpg", LOSSY), (".png", 0), (".webp", LOSSY), (".bmp", 0), (".gif", 0), (".tif", 0)],
)
def test_format_is_read(tmp_path: Path, suffix: str, tolerance: int) -> None:
    file = tmp_path / f"a{suffix}"
    flat().save(file)
    image = read_image(file)
    assert image.size == (24, 16)
    assert_flat(image, RED, tolerance)


def test_path_may_be_a_string(tmp_path: Path) -> None:
    flat().save(tmp_path / "a.png")
    assert_flat(read_image(str(tmp_path / "a.png")), RED)


def test_content_counts_and_not_the_file_name(tmp_path: Path) -> None:
    flat().save(tmp_path / "a.jpg", format="PNG")
    assert_flat(read_image(tmp_path / "a.jpg"), RED)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_first_frame_of_several_is_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    lossless = {"lossless": True} if suffix == ".webp" else {}
    flat().save(file, save_all=True, append_images=[flat(colour=BLUE)], **lossless)
    assert_flat(read_image(file), RED)


# --- colour modes


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, WHITE),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("RGB", RED, RED),
        ("RGBA", (*RED, 255), RED),
        ("I;16", 77 << 8, (77, 77, 77)),
    ],
)
def test_mode_of_a_png_becomes_rgb(
    tmp_path: Path, mode: str, colour: object, expected: tuple[int, ...]
) -> None:
    flat(mode, colour).save(tmp_path / "a.png")
    assert_flat(read_image(tmp_path / "a.png"), expected)


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    flat().convert("P").save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
    assert_flat(read_image(tmp_path / "a.png"), RED)


def test_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (24, 16), 1)
    image.putpalette([0, 0, 0, *RED, *BLUE])
    image.paste(2, (0, 0, 12, 16))
    image.save(tmp_path / "a.png", transparency=1)
    read = read_image(tmp_path / "a.png")
    assert read.getpixel((0, 0)) == BLUE
    assert read.getpixel((20, 0)) == WHITE


def test_palette_with_several_alphas_is_composed(tmp_path: Path) -> None:
    image = Image.new("P", (24, 16), 1)
    image.putpalette([0, 0, 0, *RED])
    image.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    assert_flat(read_image(tmp_path / "a.png"), WHITE)


@pytest.mark.parametrize(
    ("mode", "colour"), [("RGBA", (*RED, 0)), ("LA", (0, 0)), ("PA", (0, 0)), ("RGBa", (0,) * 4)]
)
def test_transparent_part_becomes_white(mode: str, colour: tuple[int, ...]) -> None:
    assert_flat(read_image(flat(mode, colour)), WHITE)


def test_half_transparent_part_is_mixed_with_white() -> None:
    assert_flat(read_image(flat("RGBA", (*RED, 128))), (255, 127, 127), tolerance=1)


def test_transparent_colour_of_an_rgb_png_becomes_white(tmp_path: Path) -> None:
    flat().save(tmp_path / "a.png", transparency=RED)
    assert_flat(read_image(tmp_path / "a.png"), WHITE)


@pytest.mark.parametrize("min_side", [None, 4])
def test_cmyk_jpeg_becomes_rgb(tmp_path: Path, min_side: int | None) -> None:
    flat("CMYK", (0, 255, 255, 0), (64, 48)).save(tmp_path / "a.jpg")
    assert_flat(read_image(tmp_path / "a.jpg", min_side=min_side), RED, LOSSY)


@pytest.mark.parametrize("min_side", [None, 4])
def test_grey_jpeg_becomes_rgb(tmp_path: Path, min_side: int | None) -> None:
    flat("L", 77, (64, 48)).save(tmp_path / "a.jpg")
    assert_flat(read_image(tmp_path / "a.jpg", min_side=min_side), (77, 77, 77), LOSSY)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "CMYK"])
def test_other_colour_space_becomes_rgb(mode: str) -> None:
    assert_flat(read_image(flat().convert(mode)), RED, tolerance=2)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_lose_the_lower_eight(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 255, 256, 511], [32768, 40000, 65279, 65535]], dtype=np.uint16)
    file = tmp_path / f"a{suffix}"
    Image.fromarray(values).save(file)
    expected = np.repeat((values >> 8)[:, :, None], 3, axis=2)
    assert np.array_equal(pixels(read_image(file)), expected)


def test_thirty_two_bit_integers_within_sixteen_are_read(tmp_path: Path) -> None:
    flat("I", 40000).save(tmp_path / "a.tif")
    assert_flat(read_image(tmp_path / "a.tif"), (156, 156, 156))


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_outside_sixteen_bits_are_refused(tmp_path: Path, value: int) -> None:
    flat("I", value).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: pixel values outside 16 bits"):
        read_image(tmp_path / "a.tif")


def test_float_tiff_is_refused_with_a_reason(tmp_path: Path) -> None:
    flat("F", 0.5).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: floating point pixels have no known range"):
        read_image(tmp_path / "a.tif")


# --- EXIF


def with_orientation(upright: Image.Image, orientation: int) -> Image.Image:
    """What a camera stores, so that a viewer obeying `orientation` shows `upright`."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return upright.transpose(back[orientation]) if orientation in back else upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_every_exif_orientation_comes_out_upright(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    upright = Image.new("RGB", (64, 32), WHITE)
    upright.paste(RED, (0, 0, 32, 16))
    upright.paste(BLUE, (0, 16, 32, 32))
    exif = Image.Exif()
    exif[274] = orientation
    quality = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
    with_orientation(upright, orientation).save(tmp_path / f"a{suffix}", exif=exif, **quality)
    image = read_image(tmp_path / f"a{suffix}")
    assert image.size == upright.size
    assert np.abs(pixels(image) - pixels(upright)).max() <= LOSSY


# --- images in memory


def test_uint8_array_comes_back_unchanged() -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(pixels(read_image(array)), array)


def test_uint8_tensor_comes_back_unchanged() -> None:
    tensor = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    assert np.array_equal(pixels(read_image(tensor)), tensor.permute(1, 2, 0).numpy())


def test_array_need_not_be_contiguous() -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(pixels(read_image(array[::-1, ::-1])), array[::-1, ::-1])


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_one_channel_array_becomes_grey(shape: tuple[int, ...]) -> None:
    assert_flat(read_image(np.full(shape, 9, dtype=np.uint8)), (9, 9, 9))


def test_one_channel_tensor_becomes_grey() -> None:
    image = read_image(torch.full((1, 5, 7), 9, dtype=torch.uint8))
    assert image.size == (7, 5)
    assert_flat(image, (9, 9, 9))


def test_transparent_part_of_an_array_becomes_white() -> None:
    assert_flat(read_image(np.zeros((5, 7, 4), dtype=np.uint8)), WHITE)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_uint16_loses_the_lower_eight_bits(kind: object) -> None:
    values = np.array([[0, 255, 256], [511, 65279, 65535]], dtype=np.uint16)
    source = values if kind is np.array else torch.tensor(values)
    assert np.array_equal(pixels(read_image(source))[:, :, 0], values >> 8)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_array_is_scaled_and_rounded(dtype: type) -> None:
    values = np.arange(256).reshape(16, 16)
    image = read_image((values / 255).astype(dtype))
    assert np.array_equal(pixels(image)[:, :, 0], values)


def test_float_tensor_that_needs_a_gradient_is_read() -> None:
    assert_flat(read_image(torch.ones(3, 5, 7, requires_grad=True)), WHITE)


def test_pil_image_is_left_as_it_was() -> None:
    image = flat("RGBA", (*RED, 0))
    read_image(image)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (*RED, 0)


@pytest.mark.parametrize("shape", [(7,), (5, 7, 2), (5, 7, 5), (1, 5, 7, 3)])
def test_array_of_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"<ndarray>: an image is \[H, W\] or has 1, 3 or 4 ch"):
        read_image(np.zeros(shape, dtype=np.uint8))


def test_tensor_with_channels_last_is_refused() -> None:
    with pytest.raises(ImageError, match=r"<Tensor>: an image is \[H, W\] or has 1, 3 or 4 ch"):
        read_image(torch.zeros(5, 7, 3, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 7, 3), (5, 0, 3), (0, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_array_without_pixels_is_refused(shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ImageError, match="<ndarray>: "):
        read_image(np.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_float_outside_zero_to_one_is_refused(value: float) -> None:
    with pytest.raises(ImageError, match=r"floating point images must lie in \[0, 1\]"):
        read_image(np.full((5, 7, 3), value, dtype=np.float32))


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.bool_, np.complex64])
def test_other_number_type_is_refused(dtype: type) -> None:
    with pytest.raises(ImageError, match="an image is uint8, uint16 or float, got"):
        read_image(np.zeros((5, 7, 3), dtype=dtype))


def test_other_object_is_refused() -> None:
    with pytest.raises(ImageError, match="<int>: an image is"):
        read_image(7)  # type: ignore[arg-type]


# --- bad files


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_truncated_file_is_named(tmp_path: Path, format: str) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format)
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(ImageError, match=r"can't read image .*cut\.jpg: .*truncated"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("content", [b"", b"a text, not an image\n", b"\xff\xd8\xff", b"GIF89a"])
def test_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"can't read image .*bad\.jpg: "):
        read_image(tmp_path / "bad.jpg")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg: there is no such file"):
        read_image(tmp_path / "gone.jpg")


def test_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"it is a folder; name image files"):
        read_image(tmp_path)


@pytest.mark.parametrize("limit", [300, 100])  # 384 pixels: PIL warns at one, raises at the other
def test_decompression_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    flat().save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=r"bomb\.png: .*decompression bomb"):
        read_image(tmp_path / "bomb.png")


def test_decompression_bomb_is_refused_also_where_warnings_are_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat().save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match=r"bomb\.png: .*decompression bomb"):
            read_image(tmp_path / "bomb.png")


def test_warning_filters_stay_when_two_threads_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`warnings.catch_warnings` is not thread-safe: interleaved, it leaks a filter for good."""
    for name in "ab":
        flat().save(tmp_path / f"{name}.png")
    a_is_open, b_is_open, a_is_done = (threading.Event() for _ in range(3))
    plain_open = Image.open

    def open_in_turn(path: Path) -> Image.Image:
        (a_is_open if path.name == "a.png" else b_is_open).set()
        (b_is_open if path.name == "a.png" else a_is_done).wait(1)
        return plain_open(path)

    def first() -> None:
        read_image(tmp_path / "a.png")
        a_is_done.set()

    monkeypatch.setattr(Image, "open", open_in_turn)
    with warnings.catch_warnings():
        before = list(warnings.filters)
        thread = threading.Thread(target=first)
        thread.start()
        a_is_open.wait(1)
        read_image(tmp_path / "b.png")
        thread.join()
        assert list(warnings.filters) == before


def test_image_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "torn")))
    assert (error.source, error.reason) == ("a.jpg", "torn")
    assert str(error) == "can't read image a.jpg: torn"


# --- scaled decoding and presizing


def test_scaled_decoding_reads_no_more_than_needed(tmp_path: Path) -> None:
    flat(size=(640, 480)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg", min_side=100).size == (160, 120)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 90)])
def test_scaled_decoding_keeps_the_shorter_side_long_enough(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    flat(size=size).save(tmp_path / "a.jpg")
    assert min(read_image(tmp_path / "a.jpg", min_side=70).size) >= 70


@pytest.mark.parametrize("method", RESIZE_METHODS)
def test_scaled_decoding_stays_close_to_full_decoding(tmp_path: Path, method: str) -> None:
    y, x = np.mgrid[:480, :640]
    waves = np.stack([np.sin(x / 40), np.cos(y / 30), np.sin((x + y) / 50)], axis=-1)
    Image.fromarray((waves * 100 + 128).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    full = presize(read_image(tmp_path / "a.jpg"), 64, method)
    scaled = presize(read_image(tmp_path / "a.jpg", min_side=64), 64, method)
    difference = np.abs(full.astype(int) - scaled)
    assert difference.mean() < 1
    assert difference.max() < 8


@needs_clothing
def test_scaled_decoding_of_photos_stays_close_to_full_decoding() -> None:
    """The JPEG library's filter is sharper than the resize; elsewhere they agree."""
    for file in sorted((CLOTHING / "validation" / "hat").glob("*.jpg"))[:4]:
        full = presize(read_image(file), 128)
        scaled = presize(read_image(file, min_side=128), 128)
        difference = full.astype(int) - scaled
        assert np.abs(difference).mean() < 8
        assert abs(difference.mean()) < 0.5


@pytest.mark.parametrize("method", RESIZE_METHODS)
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (32, 32), (5, 90), (1, 1)])
def test_presize_gives_a_square(method: str, size: tuple[int, int]) -> None:
    square = presize(flat(size=size), 32, method)
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8


def stripes() -> Image.Image:
    """Blue, red, blue from left to right, the red middle half as wide."""
    image = flat(colour=BLUE, size=(80, 40))
    image.paste(RED, (20, 0, 60, 40))
    return image


def test_crop_keeps_the_middle() -> None:
    assert np.array_equal(presize(stripes(), 40, "crop"), pixels(flat(size=(40, 40))))


def test_squish_keeps_everything() -> None:
    square = presize(stripes(), 40, "squish")
    assert square[20, 2].tolist() == square[20, 37].tolist() == list(BLUE)
    assert square[0, 20].tolist() == list(RED)


def test_pad_surrounds_with_black() -> None:
    square = presize(stripes(), 40, "pad")
    assert square[20, 2].tolist() == list(BLUE)
    assert not square[:10].any()
    assert not square[30:].any()
    assert square[10:30].any(axis=2).all()


def test_presize_leaves_a_square_of_that_side_unchanged() -> None:
    array = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for method in RESIZE_METHODS:
        assert np.array_equal(presize(Image.fromarray(array), 32, method), array)
