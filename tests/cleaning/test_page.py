"""The page's addresses; in a browser it is opened by test_in_a_browser."""

import pytest

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from finetune.cleaning.page import cleaning_page
from finetune.cleaning.session import Session


@pytest.fixture
def client(session: Session) -> TestClient:
    page = cleaning_page(session, ["127.0.0.1", "localhost"])
    return TestClient(page, base_url="http://127.0.0.1:8001")


def test_an_act_is_done_and_the_next_view_is_the_answer(
    client: TestClient, session: Session
) -> None:
    assert client.get("/view").json()["number"] == 0
    answer = client.post("/act", json={"do": "decide", "number": 0, "action": "keep"})
    assert answer.json()["number"] == 1
    assert session.file.exists()
    answer = client.post("/act", json={"do": "decide", "number": 1, "action": "drop"})
    assert "action must be one of" in answer.json()["error"]


def test_the_page_and_its_files_are_there(client: TestClient) -> None:
    for name, kind in (("", "text/html"), ("cleaner.js", "text/javascript"), ("page.css", "text")):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_other_pages_can_not_decide(client: TestClient, session: Session) -> None:
    """A browser sends these types for any page, and other hosts for one that renamed itself."""
    body = b'{"do": "decide", "number": 0, "action": "remove"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.post("/act", content=body, headers={"content-type": kind})
        assert answer.status_code == 415
    answer = client.post(
        "/act",
        content=body,
        headers={"content-type": "application/json", "host": "evil.example"},
    )
    assert answer.status_code == 400
    assert client.options("/act").status_code == 405
    assert not session.file.exists()


def test_what_is_no_command_is_answered(client: TestClient) -> None:
    kind = {"content-type": "application/json"}
    assert client.post("/act", content=b"{", headers=kind).status_code == 400
    assert client.post("/act", content=b"[]", headers=kind).status_code == 400
    assert client.post("/act", content=b" " * 200_000, headers=kind).status_code == 413
    assert client.get("/act").status_code == 405
    assert client.get("/etc/passwd").json() == {"error": "Not Found"}
