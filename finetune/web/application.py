"""What the pages of this library have in common: limits, checks of where a request is from, errors.

Nothing here listens to the network; `listening` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MOST_DISCARDED = 100_000_000
"""Bytes of a body that is too large which are read, and kept nowhere, before it is answered."""

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
}
_POLICY = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'"


class _TooLargeError(Exception):
    """The body of a request is larger than it may be."""


class BodyLimit:
    """Answers a request with more than `limit` bytes with 413, and keeps none of it."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self.limit:
                await self._refuse(scope, receive, send)
                return
        size = 0

        async def counted_receive() -> Message:
            nonlocal size
            message = await receive()
            # a body that comes in chunks does not say how long it is
            size += len(message.get("body", b""))
            if size > self.limit:
                raise _TooLargeError
            return message

        try:
            await self.app(scope, counted_receive, send)
        except _TooLargeError:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        # a client that is still sending would see a broken connection instead of the answer
        discarded = 0
        while discarded < _MOST_DISCARDED:
            message = await receive()
            discarded += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
        text = f"the request is larger than {self.limit / 1e6:.3g} MB; send smaller or fewer images"
        await error_answer(text, 413)(scope, receive, send)


def error_answer(text: str, status: int) -> Response:
    """{"error": text} as JSON."""
    from starlette.responses import JSONResponse

    # the connection is closed where a body was not read to its end
    headers = {"connection": "close"} if status == 413 else None
    return JSONResponse({"error": text}, status, headers=headers)


def create_application(
    routes: Sequence[BaseRoute], *, largest_body: int, hosts: Sequence[str]
) -> Starlette:
    """An application whose errors are JSON.

    largest_body: bytes of a request. hosts: the names that a browser may know this machine by, so
    that a page elsewhere can't reach it under a name of its own; "*" are all.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    async def explain(_request: Request, error: Any) -> Response:
        return error_answer(str(error.detail), error.status_code)

    return Starlette(
        routes=list(routes),
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
            Middleware(BodyLimit, limit=largest_body),
        ],
        exception_handlers={HTTPException: explain},
    )


def file_route(address: str, file: Traversable) -> BaseRoute:
    """Answers an address with a file of the package."""
    from starlette.responses import Response
    from starlette.routing import Route

    suffix = file.name[file.name.rfind(".") :]
    headers = {
        "content-security-policy": _POLICY,
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
    }

    def answer(_request: Request) -> Response:
        return Response(file.read_bytes(), media_type=_TYPES[suffix], headers=headers)

    return Route(address, answer)
