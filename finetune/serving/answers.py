"""What the server answers to images: rows, as `finetune predict --json` has them."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from finetune.data.images.opening import ImageError
from finetune.inference.predictor import Predictor
from finetune.tasks import FilePrediction


class Upload(NamedTuple):
    """A file that somebody sent. name: what they call it; it is never opened here."""

    name: str
    content: bytes


def answers(predictor: Predictor, uploads: Sequence[Upload]) -> list[dict[str, Any]]:
    """A row for each upload, in their order; one that is no image has an `error`, no label."""
    try:
        predictions = predictor.predict([upload.content for upload in uploads])
    except ImageError:
        if len(uploads) == 1:
            raise
        # one of them is no image: the others are answered without it
        return [_answer_alone(predictor, upload) for upload in uploads]
    rows = []
    for upload, prediction in zip(uploads, predictions, strict=True):
        row = predictor.task.file_prediction(upload.name, prediction)
        unknown = getattr(prediction, "unknown", None)
        rows.append(_as_json(row._replace(unknown=unknown)))
    return rows


def _answer_alone(predictor: Predictor, upload: Upload) -> dict[str, Any]:
    try:
        return answers(predictor, [upload])[0]
    except ImageError as error:
        return error_row(upload, error)


def picture(predictor: Predictor, upload: Upload) -> bytes:
    """A PNG of what the model sees of an image, for files that a browser does not show.

    Of more than three channels these are the first three. Raises ImageError for what is no image.
    """
    inputs = predictor.pipeline.inputs([upload.content], torch.device("cpu"))
    values = predictor.pipeline.displayable(inputs)[0]
    stream = io.BytesIO()
    Image.fromarray(np.uint8(np.round(255 * values))).save(stream, "PNG")
    return stream.getvalue()


def error_row(upload: Upload, error: ImageError) -> dict[str, Any]:
    """The row of a file that is no image."""
    return _as_json(FilePrediction(upload.name, error=reason_of(error)))


def reason_of(error: ImageError) -> str:
    """Why a file can't be read, for people who do not know how it is stored here."""
    if isinstance(error.__cause__, UnidentifiedImageError):
        return "this is no image of a kind that can be read"
    return error.reason


def _as_json(row: FilePrediction) -> dict[str, Any]:
    content = row.to_dict()
    if row.unknown is not None:
        content["is_unknown"] = row.is_unknown
    return content
