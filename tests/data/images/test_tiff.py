"""TIFF files of several bands, or of several bands with more than 8 bits."""

import io
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from finetune import ImageDataLoaders, load_learner, vision_learner
from finetune.data.images.decode import read_bands, read_image, wide_values
from finetune.data.images.headers import read_header
from finetune.data.images.opening import ImageError
from finetune.data.packing import PackSettings, pack

SIZE = (12, 20)
"""Height and width."""


def values_of(channels: int, dtype: str = "uint16", largest: float = 9000) -> np.ndarray:
    return (np.random.default_rng(0).random((*SIZE, channels)) * largest).astype(dtype)


def write(file: Path, values: np.ndarray, planes: str = "contig", **options: object) -> Path:
    """A file with all channels in one page. planes: "contig" for pixel by pixel, or "separate"."""
    if planes == "separate":
        values = values.transpose(2, 0, 1)
    options = {"photometric": "minisblack", "metadata": None, **options}
    tifffile.imwrite(file, values, planarconfig=planes, **options)  # type: ignore[arg-type]
    return file


def bands_in(source: object, channels: int, **options: object) -> np.ndarray:
    bands = read_bands(source, channels, **options)  # type: ignore[arg-type]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def forget_tifffile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)


# --- bands


@pytest.mark.parametrize("channels", [2, 4, 13])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize(
    ("dtype", "value_range"),
    [("uint8", None), ("uint16", (0, 8000)), ("float32", (-10, 9000)), ("int16", (-10, 9000))],
)
def test_bands_are_those_of_the_array(
    tmp_path: Path,
    channels: int,
    planes: str,
    dtype: str,
    value_range: tuple[float, float] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    values = values_of(channels, dtype, 250 if dtype == "uint8" else 9000)
    file = write(tmp_path / "a.tif", values, planes)
    expected = bands_in(values, channels, value_range=value_range)
    for source in (file, file.read_bytes(), io.BytesIO(file.read_bytes())):
        assert np.array_equal(bands_in(source, channels, value_range=value_range), expected)
    header = read_header([file], 0)
    assert (header.width, header.height, header.format) == (20, 12, "TIFF")
    assert not caplog.record_tuples  # Pillow logs an error for thirteen


def test_each_band_may_have_a_range_of_its_own(tmp_path: Path) -> None:
    values = values_of(5)
    windows = [(0, 9000), (100, 5000), (0, 1), (-5, 9000), (0, 300)]
    read = bands_in(write(tmp_path / "a.tif", values), 5, value_range=windows)
    assert np.array_equal(read, bands_in(values, 5, value_range=windows))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_band_beside_the_colours_is_kept_or_left_out(tmp_path: Path, dtype: str) -> None:
    largest = 250 if dtype == "uint8" else 60_000
    values = values_of(4, dtype, largest)
    file = write(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unspecified"])
    window = (0, largest)
    assert np.array_equal(
        bands_in(file, 4, value_range=window), bands_in(values, 4, value_range=window)
    )
    colours = np.asarray(read_image(file, value_range=window))
    assert np.array_equal(colours, np.asarray(read_image(values[..., :3], value_range=window)))


def test_a_fourth_channel_of_which_nothing_is_said_is_left_out(tmp_path: Path) -> None:
    values = values_of(4, largest=60_000)
    file = write(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    with tifffile.TiffFile(file) as opened:
        tag = opened.pages[0].tags["ExtraSamples"]
    content = bytearray(file.read_bytes())
    content[tag.offset : tag.offset + 2] = struct.pack("<H", 65_000)
    expected = np.asarray(read_image(values[..., :3]))
    assert np.array_equal(np.asarray(read_image(bytes(content))), expected)


def test_smaller_copies_and_masks_are_no_channels(tmp_path: Path) -> None:
    values, eight_bits = values_of(5), values_of(4, "uint8", 250)
    for name, full, options in (
        ("a.tif", values, {"photometric": "minisblack"}),
        ("b.tif", eight_bits, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    ):
        with tifffile.TiffWriter(tmp_path / name) as file:
            file.write(full, planarconfig="contig", **options)
            file.write(full[::2, ::2], planarconfig="contig", subfiletype=1, **options)
            file.write(full[..., 0] > 99, photometric="minisblack", subfiletype=4)
        channels = full.shape[2]
        read = bands_in(tmp_path / name, channels, value_range=(0, 9000))
        assert np.array_equal(read, bands_in(full, channels, value_range=(0, 9000)))


def test_several_pages_of_several_channels_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for _ in range(2):
            file.write(values_of(5), photometric="minisblack", planarconfig="contig")
    with pytest.raises(ImageError, match=r"it has 2 pages, the first with 5 channels; save a page"):
        read_bands(tmp_path / "a.tif", 5)


def test_what_is_taken_for_channels_is_said(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values_of(5), photometric="minisblack")
    message = r"it has 12 channels, not channels=5: its pages, of 20 x 5 pixels, are taken for"
    with pytest.raises(ImageError, match=message):
        read_bands(tmp_path / "a.tif", 5)
    message = r"it has 20 channels, not channels=5: an array of the shape \(5, 12, 20\) is \[H, W"
    with pytest.raises(ImageError, match=message):
        read_bands(values_of(5).transpose(2, 0, 1), 5)
    with pytest.raises(ImageError, match=r"it has 5 channels that are no red.*; pass channels=5"):
        read_image(write(tmp_path / "b.tif", values_of(5)))


def test_a_page_stays_the_present_one_of_an_image_of_the_caller(tmp_path: Path) -> None:
    pages = [Image.new("L", (8, 6), level) for level in (10, 20, 60)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(1)
        assert bands_in(image, 3).mean() == 30
        assert image.tell() == 1
        assert wide_values(image, channels=3) is None
        assert wide_values(image, channels=4) is None
        assert image.tell() == 1
        assert np.asarray(image).mean() == 20


# --- colours


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_colours_of_sixteen_bits_are_those_of_the_array(
    tmp_path: Path, planes: str, byteorder: str
) -> None:
    values = values_of(3, largest=60_000)
    file = write(tmp_path / "a.tif", values, planes, photometric="rgb", byteorder=byteorder)
    for value_range in (None, 16, (0, 5000), [(0, 5000), (90, 10_000), (0, 60_000)]):
        expected = np.asarray(read_image(values, value_range=value_range))
        assert np.array_equal(np.asarray(read_image(file, value_range=value_range)), expected)
        with Image.open(file) as image:
            assert np.array_equal(np.asarray(read_image(image, value_range=value_range)), expected)


def test_transparency_of_sixteen_bits_becomes_white(tmp_path: Path) -> None:
    values = values_of(4, largest=60_000)
    values[..., 3] = [0, 65535] * 10
    file = write(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    read = np.asarray(read_image(file))
    assert (read[:, ::2] == 255).all()
    assert np.array_equal(read[:, 1::2], values[:, 1::2, :3] >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_file_says(tmp_path: Path, orientation: int) -> None:
    colours = values_of(3, "uint8", 255)
    tags = [(274, "H", 1, orientation, True)]
    expected = read_image(write(tmp_path / "a.tif", colours, photometric="rgb", extratags=tags))
    wide = colours.astype(np.uint16) << 8
    file = write(tmp_path / "b.tif", wide, photometric="rgb", extratags=tags)
    assert np.array_equal(np.asarray(read_image(file)), np.asarray(expected))
    bands = bands_in(write(tmp_path / "c.tif", wide, extratags=tags), 3, value_range=(0, 65280))
    assert np.array_equal(bands, np.asarray(expected))
    write(tmp_path / "d.tif", values_of(5), extratags=tags)
    header = read_header([tmp_path / "d.tif"], 0)
    assert (header.width, header.height) == expected.size


# --- depth


def test_depth_is_that_of_all_bands_and_pages(tmp_path: Path) -> None:
    values = values_of(4, largest=60_000)
    values[..., 0] = 5
    one_page = write(tmp_path / "a.tif", values)
    tifffile.imwrite(tmp_path / "b.tif", values.transpose(2, 0, 1), photometric="minisblack")
    for file in (one_page, tmp_path / "b.tif"):
        wide = wide_values(file, channels=4)
        assert wide is not None
        assert wide.max() == values.max()
    eight_bits = write(tmp_path / "c.tif", values_of(4, "uint8", 9))
    assert wide_values(eight_bits, channels=4) is None


def test_sixteen_bits_that_are_hardly_used_are_said() -> None:
    images = [values_of(3, largest=9000) for _ in range(8)]
    message = "16 bits whose largest value is 89.*65535 was taken for white, so that 36 of 256"
    with pytest.warns(UserWarning, match=message):
        ImageDataLoaders.from_lists(images, ["a", "b"] * 4, image_size=16, batch_size=2)


# --- without tifffile


@pytest.mark.parametrize("channels", [5, 13])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_what_to_install_is_said(
    tmp_path: Path, channels: int, dtype: str, planes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.tif", values_of(channels, dtype, 200), planes)
    forget_tifffile(monkeypatch)
    message = r"a\.tif: Pillow can't read.* pip install 'finetune-vision\[tiff\]'"
    with pytest.raises(ImageError, match=message):
        read_bands(file, channels, value_range=(0, 1))
    if planes == "contig":  # else Pillow knows the size, if no more
        header = read_header([file], 0)
        assert header.error is not None
        assert "finetune-vision[tiff]" in header.error.reason


def test_colours_of_sixteen_bits_need_it_for_a_range_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = values_of(3, largest=60_000)
    file = write(tmp_path / "a.tif", values, photometric="rgb")
    apart = write(tmp_path / "b.tif", values, "separate", photometric="rgb")
    forget_tifffile(monkeypatch)
    for value_range in (None, 16, (0, 65535)):
        assert np.array_equal(np.asarray(read_image(file, value_range=value_range)), values >> 8)
    with pytest.raises(ImageError, match=r"finetune-vision\[tiff\]"):
        read_image(file, value_range=(0, 60_000))
    # Pillow would mistake bytes of red for green
    with pytest.raises(ImageError, match=r"finetune-vision\[tiff\]"):
        read_image(apart)


def test_no_tiff_file_is_no_reason_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(tmp_path / "a.tif", values_of(5)).read_bytes()
    forget_tifffile(monkeypatch)
    for content in (b"", b"torn", b"II*\0", whole[:7]):
        (tmp_path / "b.tif").write_bytes(content)
        with pytest.raises(ImageError, match=r"b\.tif: cannot identify image file"):
            read_bands(tmp_path / "b.tif", 5)


# --- where else files are read


def test_other_files_of_sixteen_bits_say_that_a_range_is_lost(tmp_path: Path) -> None:
    png = sixteen_bit_png(values_of(3, largest=60_000))
    assert np.asarray(read_image(png)).max() > 200
    message = r"16 bits, of which Pillow reads the upper 8, too few for value_range=\(0, 60000\)"
    for read in (read_image, lambda source, **options: read_bands(source, 4, **options)):
        content = sixteen_bit_png(values_of(4 if read is not read_image else 3, largest=60_000))
        with pytest.raises(ImageError, match=message):
            read(content, value_range=(0, 60_000))


def sixteen_bit_png(values: np.ndarray) -> bytes:
    """A PNG file of RGB or RGBA, which Pillow can't write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    return content


def test_packing_leaves_alone_what_would_lose_something(tmp_path: Path) -> None:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "b").mkdir()
    folder = tmp_path / "photos" / "a"
    nir = {"photometric": "rgb", "extrasamples": ["unspecified"]}
    write(folder / "bands.tif", values_of(5))
    write(folder / "nir.tif", values_of(4, "uint8", 250), **nir)
    write(folder / "deep.tif", values_of(3), photometric="rgb")
    tifffile.imwrite(folder / "pages.tif", values_of(5, "uint8", 250).transpose(2, 0, 1))
    (folder / "deep.png").write_bytes(sixteen_bit_png(values_of(3)))
    Image.new("RGB", (20, 12)).save(tmp_path / "photos" / "b" / "photo.tif")
    packed = pack(tmp_path / "photos", tmp_path / "shards", PackSettings(size=8))
    with tarfile.open(packed.pattern) as archive:
        names = {name for name in archive.getnames() if not name.endswith(".cls")}
    kept = {"a/bands.tif", "a/nir.tif", "a/deep.tif", "a/pages.tif", "a/deep_2.png"}
    assert names - {"a/deep_2.tif", "a/deep.png"} - kept == {"b/photo.jpg"}


def test_a_classifier_of_bands_in_tiff_files(tmp_path: Path) -> None:
    for label, level in (("dry", 1), ("wet", 3)):
        (tmp_path / label).mkdir()
        for number in range(6):
            values = values_of(6, largest=2000 + number)
            values[..., 5] *= level
            write(tmp_path / label / f"{number}.tif", values)
    data = ImageDataLoaders.from_folder(
        tmp_path,
        channels=6,
        value_range=[(0, 2000)] * 5 + [(0, 6000)],
        image_size=32,
        batch_size=4,
        valid_fraction=0.5,
        cache_folder=tmp_path / "cache",
    )
    learner = vision_learner(data, "test_resnet", weights=None, progress=False, precision="fp32")
    learner.probe()
    assert learner.validate()["accuracy"] == 1
    assert not data.summary(decode=True).unreadable
    learner.export(tmp_path / "model")
    file = tmp_path / "wet" / "0.tif"
    expected = learner.predict(file).probabilities
    loaded = load_learner(tmp_path / "model")
    assert loaded.predict(file.read_bytes()).probabilities == pytest.approx(expected, abs=1e-5)
