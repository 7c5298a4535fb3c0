"""Limits of requests, and errors as JSON."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from finetune.web.application import create_application


async def size_of_body(request: Request) -> Response:
    return JSONResponse(len(await request.body()))


def application(hosts: tuple[str, ...] = ("localhost",)) -> Starlette:
    routes = [Route("/size", size_of_body, methods=["POST"])]
    return create_application(routes, largest_body=1000, hosts=hosts)


def test_a_body_up_to_the_limit_is_read() -> None:
    client = TestClient(application(), base_url="http://localhost:8000")
    assert client.post("/size", content=b"a" * 1000).json() == 1000
    answer = client.post("/size", content=b"a" * 1001)
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("the request is larger than 0.001 MB; send")


def test_a_body_that_does_not_end_is_answered() -> None:
    sent: list[Any] = []
    chunk = b"a" * 10_000_000
    received = 0

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/size",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"transfer-encoding", b"chunked")],
    }
    asyncio.run(application()(scope, receive, send))
    assert sent[0]["status"] == 413
    assert received < 20


def test_only_the_names_of_this_machine_are_answered() -> None:
    client = TestClient(application(), base_url="http://localhost:8000")
    assert client.post("/size", headers={"host": "evil.example:8000"}).status_code == 400
    open_client = TestClient(application(("*",)), base_url="http://photos.example")
    assert open_client.post("/size").status_code == 200
