"""The server of one model: a page, and addresses for programs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from finetune import arguments
from finetune.data.images.opening import ImageError
from finetune.inference.predictor import Predictor
from finetune.serving.answers import Upload, answers, error_row, picture, reason_of
from finetune.web.application import create_application, error_answer, file_route

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.datastructures import FormData
    from starlette.requests import Request
    from starlette.responses import Response

_FILES = ("serving.css", "serving.js")
_HOW_TO_SEND = "send images as files of a form, such as: curl -F images=@photo.jpg ADDRESS/predict"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for, and how many are worked on at once.

    megabytes: of the body of a request, 1e6 bytes each. images: in a request. at_once: requests
    that are computed at the same time; others wait.
    """

    megabytes: float = 20.0
    images: int = 16
    at_once: int = 2

    def __post_init__(self) -> None:
        arguments.real_number("megabytes", self.megabytes, above=0, at_most=1e4)
        arguments.whole_number("images", self.images, at_least=1, at_most=1000)
        arguments.whole_number("at_once", self.at_once, at_least=1, at_most=1000)


class _RefusedError(Exception):
    """A request that is answered with an error. status: of HTTP, 4xx."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _Server:
    """Answers requests with a predictor, which any number of threads may use."""

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        import anyio

        self.predictor = predictor
        self.limits = limits
        self._turns = anyio.CapacityLimiter(limits.at_once)

    async def describe(self, _request: Request) -> Response:
        """What a client has to know of the model."""
        from starlette.responses import JSONResponse

        predictor = self.predictor
        coverage = predictor.post_processing.coverage
        return JSONResponse(
            {
                "task": predictor.task.name,
                "classes": predictor.classes,
                "coverage": None if coverage is None else coverage.share,
                "tells_unknown": predictor.post_processing.familiarity is not None,
                "most_images": self.limits.images,
                "most_megabytes": self.limits.megabytes,
            }
        )

    async def predict(self, request: Request) -> Response:
        """{"predictions": [row, ...]}; 422 where none of the files is an image."""
        from starlette.responses import JSONResponse

        try:
            uploads = await self._uploads(request)
            rows = await self._in_turn(partial(answers, self.predictor, uploads))
        except _RefusedError as error:
            return error_answer(str(error), error.status)
        except ImageError as error:
            rows = [error_row(uploads[0], error)]
        are_wrong = all(row["error"] for row in rows)
        return JSONResponse({"predictions": rows}, 422 if are_wrong else 200)

    async def picture(self, request: Request) -> Response:
        """A PNG of one image, as the model sees it."""
        from starlette.responses import Response

        try:
            upload = await self._one_upload(request, "a picture")
            png = await self._in_turn(partial(picture, self.predictor, upload))
        except _RefusedError as error:
            return error_answer(str(error), error.status)
        except ImageError as error:
            return error_answer(reason_of(error), 422)
        return Response(png, media_type="image/png")

    async def activation_map(self, request: Request) -> Response:
        """A PNG of one image under the heat map of a class, the predicted one unless it says."""
        from starlette.responses import Response

        try:
            upload = await self._one_upload(request, "a heat map")
            target = request.query_params.get("target")
            png = await self._in_turn(partial(self._map_as_png, upload, target))
        except _RefusedError as error:
            return error_answer(str(error), error.status)
        except ModuleNotFoundError as error:
            return error_answer(str(error), 501)
        except ImageError as error:
            return error_answer(reason_of(error), 422)
        except ValueError as error:  # an unknown target, or a model without maps
            return error_answer(str(error), 422)
        return Response(png, media_type="image/png")

    def _map_as_png(self, upload: Upload, target: str | None) -> bytes:
        from PIL import Image

        overlay = self.predictor.activation_map(upload.content, target).overlay()
        stream = io.BytesIO()
        Image.fromarray(overlay).save(stream, "PNG")
        return stream.getvalue()

    async def _in_turn(self, compute: Any) -> Any:
        """Computes in a thread of its own, when it is this request's turn."""
        import anyio

        return await anyio.to_thread.run_sync(compute, limiter=self._turns)

    async def _one_upload(self, request: Request, what: str) -> Upload:
        """The only file of a form. Raises _RefusedError for several, and as `_uploads`."""
        uploads = await self._uploads(request)
        if len(uploads) > 1:
            raise _RefusedError(f"{what} is of one image; send one a request", 400)
        return uploads[0]

    async def _uploads(self, request: Request) -> list[Upload]:
        """The files of a form. Raises _RefusedError for another request, and too many files."""
        from starlette.datastructures import UploadFile

        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            raise _RefusedError(f"{_HOW_TO_SEND}; got {kind or 'no content-type'}", 415)
        most = self.limits.images
        # one more than may be, so that the answer can be ours
        form: FormData
        async with request.form(max_files=most + 1, max_fields=most) as form:
            uploads: list[Upload] = []
            for name, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    raise _RefusedError(f"{name!r} is a text and no file; {_HOW_TO_SEND}", 400)
                if len(uploads) == most:
                    raise _RefusedError(f"a request may have {most} images; send several", 413)
                uploads.append(Upload(value.filename or name, await value.read()))
        if not uploads:
            raise _RefusedError(f"there is no file in the form; {_HOW_TO_SEND}", 400)
        return uploads


def serving_application(
    predictor: Predictor, hosts: Sequence[str], limits: Limits | None = None
) -> Starlette:
    """An application with a page and with /predict, /activation_map, /picture and /model.

    hosts: see `create_application`. limits: None are the usual ones.
    """
    from starlette.routing import Route

    if limits is None:
        limits = Limits()
    server = _Server(predictor, limits)
    folder = resources.files("finetune.serving")
    routes = [file_route("/", folder.joinpath("page.html"))]
    routes += [file_route(f"/{name}", folder.joinpath(name)) for name in _FILES]
    routes += [
        Route("/model", server.describe),
        Route("/predict", server.predict, methods=["POST"]),
        Route("/activation_map", server.activation_map, methods=["POST"]),
        Route("/picture", server.picture, methods=["POST"]),
    ]
    return create_application(routes, largest_body=int(limits.megabytes * 1e6), hosts=hosts)
