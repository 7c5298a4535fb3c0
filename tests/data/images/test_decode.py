import io
import pickle
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import CLOTHING, needs_clothing

from finetune.data.images.decode import read_image, wide_values
from finetune.data.images.opening import ImageError, image_extensions
from finetune.data.images.resize import RESIZE_METHODS, presize
from finetune.data.images.value_range import (
    checked_value_range,
    guessed_depth,
    stated_bits,
    to_eight_bits,
)

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
    with pytest.raises(ImageError, match=r"a\.tif: pixel values outside 16 bits.*value_range="):
        read_image(tmp_path / "a.tif")
    assert_flat(read_image(tmp_path / "a.tif", value_range=(value - 1, value)), WHITE)


def test_floats_of_a_tiff_are_read_like_those_of_an_array(tmp_path: Path) -> None:
    flat("F", 0.5).save(tmp_path / "a.tif")
    assert_flat(read_image(tmp_path / "a.tif"), (128, 128, 128))
    flat("F", 200).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"must lie in \[0, 1\].*got 200 to 200; .*value_range="):
        read_image(tmp_path / "a.tif")
    assert_flat(read_image(tmp_path / "a.tif", value_range=(0, 255)), (200, 200, 200))


def test_grey_levels_of_twelve_bits_are_kept(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    with pytest.warns(UserWarning, match="16-bit numbers that fill 12 bits only: 4095 was taken"):
        read = read_image(tmp_path / "a.tif")
    assert np.array_equal(pixels(read)[:, :, 0], ramp >> 4)


@pytest.mark.parametrize(("bits", "stated"), [((12,), 12), (10, 10), ((16,), None), ((8, 8), None)])
def test_tiff_states_its_bits(bits: Any, stated: int | None) -> None:
    image = SimpleNamespace(format="TIFF", tag_v2={258: bits})
    assert stated_bits(image) == stated


def test_stated_bits_are_no_guess() -> None:
    dark = np.array([[0, 200]], np.uint16)
    assert to_eight_bits(dark, bits=12).tolist() == [[0, 12]]


def test_depth_of_a_sample_holds_its_largest_value() -> None:
    bright, dark = np.full((2, 2), 3000, np.uint16), np.full((2, 2), 9, np.int64)
    with pytest.warns(UserWarning, match="fill 12 bits only"):
        assert guessed_depth([dark, bright]) == 12
    assert guessed_depth([dark, bright, bright * 10]) == 16
    assert guessed_depth([dark * 0.1]) is None
    # which will be refused by name
    assert guessed_depth([dark, np.full((2, 2), 1 << 20)]) is None
    assert guessed_depth([dark, -dark]) is None


def test_depth_goes_behind_what_a_file_states_and_before_a_guess() -> None:
    values = np.array([[0, 200]], np.uint16)
    assert to_eight_bits(values, 16).tolist() == [[0, 0]]
    assert to_eight_bits(values, 16, bits=12).tolist() == [[0, 12]]
    with pytest.raises(ValueError, match="outside 16 bits, from -1 to 5"):
        to_eight_bits(np.array([[-1, 5]]), 12)


@pytest.mark.parametrize("mode", ["I", "I;16"])
def test_wide_values_are_those_of_more_than_eight_bits(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "a.tif"
    flat(mode, 300).save(file)
    for source in (file, str(file), file.read_bytes(), {"path": str(file)}, Image.open(file)):
        values = wide_values(source)
        assert values is not None
        assert values.min() == values.max() == 300
    flat(colour=RED).save(tmp_path / "b.png")
    for source in (tmp_path / "b.png", tmp_path / "c.png", b"torn", np.zeros((2, 2), np.uint8)):
        assert wide_values(source) is None


@pytest.mark.parametrize("value", [1, 200, 255])
def test_eight_bits_in_a_wider_file_are_not_black(tmp_path: Path, value: int) -> None:
    for number, mode in enumerate(("I", "I;16")):
        flat(mode, value).save(tmp_path / f"{number}.tif")
        with pytest.warns(UserWarning, match="fill 8 bits only: 255 was taken for white; if it is"):
            assert_flat(read_image(tmp_path / f"{number}.tif"), (value,) * 3)


def test_given_range_decides_and_nothing_is_said(tmp_path: Path) -> None:
    flat("I;16", 200).save(tmp_path / "a.tif")
    assert_flat(read_image(tmp_path / "a.tif", value_range=(0, 400)), (128, 128, 128))
    assert_flat(read_image(tmp_path / "a.tif", value_range=(0, 65535)), (1, 1, 1))


def test_given_range_leaves_eight_bits_alone(tmp_path: Path) -> None:
    flat().save(tmp_path / "a.png")
    assert_flat(read_image(tmp_path / "a.png", value_range=(0, 4095)), RED)
    assert_flat(read_image(np.full((4, 4, 3), 7, np.uint8), value_range=(0, 4095)), (7, 7, 7))


def test_dark_pgm_of_sixteen_bits_is_dark(tmp_path: Path) -> None:
    flat("I;16", 200).save(tmp_path / "a.pgm")
    assert_flat(read_image(tmp_path / "a.pgm"), (0, 0, 0))


def test_colours_of_twelve_bits_in_sixteen_are_refused(tmp_path: Path) -> None:
    """Pillow gives only their upper 8 bits, which are almost black."""
    write_wide_colours(tmp_path / "a.png", 4095)
    with pytest.raises(ImageError, match="Pillow reads the upper 8, and these are at most 15"):
        read_image(tmp_path / "a.png")
    write_wide_colours(tmp_path / "a.png", 40000)
    assert_flat(read_image(tmp_path / "a.png"), (156, 156, 156))


def write_wide_colours(file: Path, value: int) -> None:
    """A PNG of three channels with 16 bits each, which Pillow can't write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    row = b"\0" + struct.pack(">H", value) * 3 * 4
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def test_fourth_band_of_a_tiff_is_no_transparency_unless_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    flat("RGBA", (*RED, 0)).save(file)
    assert_flat(read_image(file), WHITE)
    with Image.open(file) as image:
        assert image.tag_v2[338] == (2,)
    content = file.read_bytes()
    entry = struct.pack("<HHI", 338, 3, 1)
    assert content.count(entry) == 1
    # an unknown tag in its place, as in files of four bands from satellites
    file.write_bytes(content.replace(entry, struct.pack("<HHI", 65000, 3, 1)))
    assert_flat(read_image(file), RED)


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


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, float("inf")])
def test_float_outside_zero_to_one_is_refused(value: float) -> None:
    with pytest.raises(ImageError, match=r"floating point images must lie in \[0, 1\]"):
        read_image(np.full((5, 7, 3), value, dtype=np.float32))


@pytest.mark.parametrize("value", [0.001, 1 / 255])
def test_floats_that_were_divided_twice_are_refused(value: float) -> None:
    with pytest.raises(ImageError, match="were they divided by 255 twice"):
        read_image(np.full((5, 7, 3), value, dtype=np.float32))


def test_floats_of_a_black_image_are_black() -> None:
    assert_flat(read_image(np.zeros((5, 7, 3), np.float32)), (0, 0, 0))


def test_given_range_of_floats_is_a_window() -> None:
    values = np.array([[-1.0, 0.0, 1.0, 2.0]], np.float32)
    image = read_image(values, value_range=(-1, 1))
    assert pixels(image)[0, :, 0].tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_wide_integers_keep_their_grey_levels(dtype: type) -> None:
    for bits in (8, 12):
        ramp = (np.arange(256, dtype=dtype) << (bits - 8)).reshape(16, 16)
        with pytest.warns(UserWarning, match=f"fill {bits} bits only: {2**bits - 1} was taken"):
            read = read_image(ramp)
        assert pixels(read)[:, :, 0].ravel().tolist() == list(range(256))


def test_int64_tensor_of_zero_to_255_is_read() -> None:
    with pytest.warns(UserWarning, match="64-bit numbers that fill 8 bits"):
        assert_flat(read_image(torch.full((3, 5, 7), 200)), (200, 200, 200))


@pytest.mark.parametrize("dtype", [np.bool_, np.complex64])
def test_other_number_type_is_refused(dtype: type) -> None:
    with pytest.raises(ImageError, match="an image has whole numbers or floats as pixels, got"):
        read_image(np.zeros((5, 7, 3), dtype=dtype))


@pytest.mark.parametrize("value_range", [(0, 4095), [0, 4095], np.array([0, 4095])])
def test_range_may_be_any_two_numbers(value_range: Any) -> None:
    assert checked_value_range(value_range) == (0, 4095)


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (0, float("nan"))])
def test_range_that_is_none_is_refused(value_range: Any) -> None:
    with pytest.raises(ValueError, match=r"value_range.* (needs black < white|must be a)"):
        checked_value_range(value_range)


@pytest.mark.parametrize("value_range", [5, "0-255", (1, 2, 3), ("0", "1")])
def test_range_of_another_kind_is_refused(value_range: Any) -> None:
    with pytest.raises(TypeError, match="value_range"):
        checked_value_range(value_range)


@pytest.mark.parametrize("source", [7, None, object(), [1]])
def test_other_object_is_refused(source: object) -> None:
    with pytest.raises(ImageError, match="an image is a path, a PIL image, an array, a tensor,"):
        read_image(source)  # type: ignore[arg-type]


def encoded() -> bytes:
    buffer = io.BytesIO()
    flat().save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO])
def test_content_of_a_file_is_read(kind: Any) -> None:
    assert_flat(read_image(kind(encoded())), RED)


def test_open_file_is_read_and_stays_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    with (tmp_path / "a.png").open("rb") as file:
        file.seek(5)
        assert_flat(read_image(file), RED)
        assert file.tell() == 5


def test_cell_of_hugging_face_is_read(tmp_path: Path) -> None:
    flat().save(tmp_path / "a.png")
    assert_flat(read_image({"bytes": encoded(), "path": None}), RED)
    assert_flat(read_image({"bytes": None, "path": str(tmp_path / "a.png")}), RED)
    with pytest.raises(ImageError, match="a mapping has an image as 'bytes' or 'path', got"):
        read_image({"url": "x"})


def test_file_that_is_open_as_text_is_refused() -> None:
    with pytest.raises(ImageError, match="a file must be open in binary mode"):
        read_image(io.StringIO("x"))  # type: ignore[arg-type]


def test_opened_image_may_be_read_by_several_threads(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    for _ in range(5):
        with Image.open(tmp_path / "a.png") as image, ThreadPoolExecutor(4) as threads:
            for read in threads.map(read_image, [image] * 4):
                assert np.array_equal(np.asarray(read), noise)


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


# --- scaled decoding, and arrays in files


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


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_array_in_a_file_is_read_like_the_array(
    shape: tuple[int, ...], dtype: type, tmp_path: Path
) -> None:
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    expected = np.asarray(read_image(array, value_range=(0, 65535)))
    for source in (tmp_path / "a.npy", str(tmp_path / "a.npy")):
        assert np.array_equal(np.asarray(read_image(source, value_range=(0, 65535))), expected)
    values = wide_values(tmp_path / "a.npy")
    if dtype is np.uint8:
        assert values is None
    else:
        assert values is not None
        assert values.dtype == np.uint16
    assert ".npy" in image_extensions()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.zeros((2, 3, 4, 5)), "an image is"),
        (np.array([{"a": 1}], dtype=object), "Python objects"),
        (b"\x93NUMPY", "can't read image"),
        (b"", "can't read image"),
    ],
)
def test_a_file_without_an_image_array_is_named(
    content: np.ndarray | bytes, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(ImageError, match=rf"a\.npy.*{reason}|{reason}.*a\.npy"):
        read_image(file)
