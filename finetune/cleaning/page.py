"""The session as a page in a browser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

from finetune.cleaning.session import Session
from finetune.web.application import create_application, error_answer, file_route

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_LARGEST_COMMAND = 100_000
_FILES = ("cleaner.css", "cleaner.js", "page.css", "page.js")


def cleaning_page(session: Session, hosts: Sequence[str]) -> Starlette:
    """An application with the page, what it shows, and what a person does. hosts: see there."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    def view(_request: Request) -> Response:
        return JSONResponse(session.view())

    async def act(request: Request) -> Response:
        # a page elsewhere can't send this type without asking, which is not answered
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return error_answer("send JSON, as application/json", 415)
        try:
            command = json.loads(await request.body())
        except ValueError as error:
            return error_answer(f"this is not JSON: {error}", 400)
        if not isinstance(command, dict):
            return error_answer(f"a command is a JSON object, got {type(command).__name__}", 400)
        return JSONResponse(await run_in_threadpool(session.act, command))

    folder = resources.files("finetune.cleaning")
    routes = [file_route("/", folder.joinpath("page.html"))]
    routes += [file_route(f"/{name}", folder.joinpath(name)) for name in _FILES]
    routes += [Route("/view", view), Route("/act", act, methods=["POST"])]
    return create_application(routes, largest_body=_LARGEST_COMMAND, hosts=hosts)
