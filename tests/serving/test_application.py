"""The endpoints: rows for images, 4xx for what is none, limits, several requests at once."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from PIL import Image
from starlette.testclient import TestClient
from support import write_photos

from finetune import ImageDataLoaders, Predictor, vision_learner
from finetune.serving.application import Limits, serving_application

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("serve") / "photos", per_class=16)


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    """Calibrated, so that there are sets, and unknown images."""
    data = ImageDataLoaders.from_folder(folder, image_size=32, batch_size=8, valid_fraction=0.4)
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False)
    learner.probe(views=1)
    with pytest.warns(UserWarning, match="predictions are right"):
        learner.calibrate(coverage=0.9)
    return learner.predictor()


@pytest.fixture
def client(predictor: Predictor) -> Iterator[TestClient]:
    limits = Limits(megabytes=0.1, images=3)
    application = serving_application(predictor, ["127.0.0.1"], limits)
    # all requests in one event loop, as of a server
    with TestClient(application, base_url=ADDRESS) as opened:
        yield opened


def form(*files: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", file) for file in files]


def jpeg(path: Path) -> tuple[str, bytes]:
    return (path.name, path.read_bytes())


def test_images_are_answered_as_the_predictor_answers(
    client: TestClient, predictor: Predictor, folder: Path
) -> None:
    paths = [folder / "red" / "000.jpg", folder / "blue" / "001.jpg"]
    answer = client.post("/predict", files=form(*map(jpeg, paths)))
    assert answer.status_code == 200
    rows = answer.json()["predictions"]
    assert [row["path"] for row in rows] == ["000.jpg", "001.jpg"]
    for row, expected in zip(rows, predictor.predict(paths), strict=True):
        assert row["label"] == expected.label
        assert row["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
        assert tuple(row["set"]) == expected.set
        assert row["unknown"] == pytest.approx(expected.unknown, abs=1e-6)
        assert row["is_unknown"] == expected.is_unknown
        assert row["error"] == ""


def test_a_file_that_is_no_image_has_an_error_and_the_others_an_answer(
    client: TestClient, folder: Path
) -> None:
    photo = jpeg(folder / "red" / "000.jpg")
    answer = client.post("/predict", files=form(photo, ("notes.txt", b"hello"), photo))
    assert answer.status_code == 200
    first, wrong, last = answer.json()["predictions"]
    assert first["label"] == last["label"] == "red"
    assert wrong["label"] is None
    assert wrong["path"] == "notes.txt"
    assert wrong["error"] == "this is no image of a kind that can be read"


def test_no_image_at_all_is_a_mistake_of_the_client(client: TestClient, folder: Path) -> None:
    half = (folder / "red" / "000.jpg").read_bytes()[:300]
    for content in (b"", b"hello", half):
        answer = client.post("/predict", files=form(("photo.jpg", content)))
        assert answer.status_code == 422
        (row,) = answer.json()["predictions"]
        assert row["error"]
        assert "/" not in row["error"]  # no path of this machine
        assert client.post("/activation_map", files=form(("a", content))).status_code == 422


def test_the_name_of_a_file_is_never_opened(client: TestClient, folder: Path) -> None:
    name = str(folder / "red" / "000.jpg")
    answer = client.post("/predict", files=form((name, b"nothing")))
    assert answer.status_code == 422
    answer = client.post("/predict", data={"images": name}, files=form(("a.jpg", b"nothing")))
    assert answer.status_code == 400
    assert "is a text and no file" in answer.json()["error"]


@pytest.mark.parametrize(
    ("request_with", "status", "message"),
    [
        ({"json": {"images": []}}, 415, "send images as files of a form"),
        ({"content": b"x"}, 415, "got no content-type"),
        ({"files": {"images": ("a.jpg", b"x" * 200_000)}}, 413, "larger than 0.1 MB"),
        ({"files": [("images", ("a.jpg", b"x"))] * 4}, 413, "a request may have 3 images"),
        ({"files": [("images", ("a.jpg", b"x"))] * 9}, 400, "Too many files"),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
            400,
            "Missing boundary",
        ),
        (
            {
                "content": b"--a--\r\n",
                "headers": {"content-type": "multipart/form-data; boundary=a"},
            },
            400,
            "there is no file in the form",
        ),
    ],
)
def test_a_wrong_request_is_answered_with_what_to_do(
    client: TestClient, request_with: dict[str, Any], status: int, message: str
) -> None:
    for address in ("/predict", "/activation_map"):
        answer = client.post(address, **request_with)
        assert answer.status_code == status
        assert message in answer.json()["error"]


def test_a_decompression_bomb_is_refused(client: TestClient) -> None:
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    assert len(stream.getvalue()) < 100_000
    answer = client.post("/predict", files=form(("bomb.png", stream.getvalue())))
    assert answer.status_code == 422
    assert "decompression bomb" in answer.json()["predictions"][0]["error"]


def test_a_heat_map_is_an_image_of_the_size_of_the_input(
    client: TestClient, folder: Path, predictor: Predictor
) -> None:
    photo = folder / "red" / "000.jpg"
    answer = client.post("/activation_map", files=form(jpeg(photo)))
    assert answer.headers["content-type"] == "image/png"
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(pixels, predictor.activation_map(photo).overlay())
    other = client.post("/activation_map?target=blue", files=form(jpeg(photo)))
    expected = predictor.activation_map(photo, "blue").overlay()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(other.content))), expected)
    wrong = client.post("/activation_map?target=bleu", files=form(jpeg(photo)))
    assert wrong.status_code == 422
    assert "did you mean 'blue'" in wrong.json()["error"]
    two = client.post("/activation_map", files=form(jpeg(photo), jpeg(photo)))
    assert two.status_code == 400


def npy(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, pixels)
    return stream.getvalue()


def float_tiff(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.float32)).save(stream, "TIFF")
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["npy", "float tiff", "jpeg"])
def test_a_picture_shows_any_image_as_the_model_sees_it(
    client: TestClient, folder: Path, kind: str
) -> None:
    ramp = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))
    content = {
        "npy": npy(np.stack([ramp, 0 * ramp, 0 * ramp], axis=-1)),
        "float tiff": float_tiff(ramp),
        "jpeg": (folder / "red" / "000.jpg").read_bytes(),
    }[kind]
    answer = client.post("/picture", files=form(("a", content)))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    image = np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)
    assert image.shape == (32, 32, 3)
    if kind == "jpeg":
        assert image[..., 0].mean() > 100 > image[..., 2].mean()
    else:
        assert image[16, 2, 0] < 40
        assert image[16, 29, 0] > 210
    if kind == "npy":
        assert image[..., 1:].max() < 10
    (row,) = client.post("/predict", files=form(("a", content))).json()["predictions"]
    assert row["error"] == ""


def test_a_picture_of_many_bands_is_of_the_first_three(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        bands = np.full((32, 32, 5), 9 * number, np.uint8)
        np.save(tmp_path / "ab"[number % 2] / f"{number}.npy", bands)
    data = ImageDataLoaders.from_folder(tmp_path, image_size=32, batch_size=2, channels=5)
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False)
    bands = np.zeros((32, 32, 5), np.uint8)
    bands[..., 1] = 200
    bands[..., 4] = 255
    application = serving_application(learner.predictor(), ["127.0.0.1"])
    with TestClient(application, base_url=ADDRESS) as client:
        answer = client.post("/picture", files=form(("a.npy", npy(bands))))
        assert answer.status_code == 200, answer.text
        image = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert np.allclose(image, (0, 200, 0), atol=2)
        wrong = client.post("/picture", files=form(("a.npy", npy(bands[..., :4]))))
    assert wrong.status_code == 422
    assert "4 channels, not channels=5" in wrong.json()["error"]


def test_a_picture_is_of_one_image(client: TestClient, folder: Path) -> None:
    photo = jpeg(folder / "red" / "000.jpg")
    answer = client.post("/picture", files=form(photo, photo))
    assert (answer.status_code, answer.json()["error"]) == (
        400, "a picture is of one image; send one a request",
    )  # fmt: skip
    answer = client.post("/picture", files=form(("notes.txt", b"hello")))
    assert answer.status_code == 422


def test_several_requests_at_once_are_answered_like_one_by_one(
    client: TestClient, folder: Path
) -> None:
    paths = sorted(folder.rglob("*.jpg"))[::4]

    def ask(path: Path) -> tuple[Any, bytes]:
        rows = client.post("/predict", files=form(jpeg(path))).json()
        return rows, client.post("/activation_map", files=form(jpeg(path))).content

    one_by_one = [ask(path) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, paths)) == one_by_one


def test_the_model_is_described(client: TestClient) -> None:
    assert client.get("/model").json() == {
        "task": "single_label",
        "classes": ["blue", "green", "red"],
        "coverage": 0.9,
        "tells_unknown": True,
        "most_images": 3,
        "most_megabytes": 0.1,
    }


def test_the_page_is_there_and_other_addresses_are_not(client: TestClient) -> None:
    assert "What is in this image?" in client.get("/").text
    assert client.get("/serving.js").status_code == 200
    assert client.get("/../../etc/passwd").status_code == 404
    assert client.get("/predict").status_code == 405
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="images must be a whole number of at least 1"):
        Limits(images=0)
    with pytest.raises(ValueError, match="megabytes must be a finite number above 0"):
        Limits(megabytes=0)
