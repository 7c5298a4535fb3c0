"""A stand-in for an object store: files over HTTP, with ranges, sizes and ETags."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


@dataclass
class Store:
    """folder: the files that are served. requests: name and range (empty: all) of each GET.

    compares: whether a request for one version of a file (If-Match) is refused for another one:
    "exactly", "never", or "wrongly", which refuses all of them.
    """

    folder: Path
    address: str = ""
    compares: str = "exactly"
    requests: list[tuple[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *words: Any, store: Store) -> None:
        self.store = store
        super().__init__(*words)

    def log_message(self, *_: Any) -> None:
        """Nothing: a test that fails shows the client's error."""

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self.store.requests.append((self.path.strip("/"), self.headers.get("Range", "")))
        self._answer(with_content=True)

    def _answer(self, *, with_content: bool) -> None:
        file = self.store.folder / self.path.strip("/")
        if not file.is_file():
            self.send_response(403 if "forbidden" in self.path else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = file.read_bytes()
        etag, total = hashlib.md5(content).hexdigest(), len(content)
        wanted = self.headers.get("If-Match")
        is_refused = self.store.compares == "wrongly" or wanted != f'"{etag}"'
        if wanted is not None and self.store.compares != "never" and is_refused:
            self.send_response(412)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if match is not None:
            first, last = int(match[1]), min(int(match[2]), total - 1)
            content = content[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if with_content:
            self.wfile.write(content)


@contextmanager
def range_server(folder: Path) -> Iterator[Store]:
    """Serves the files of a folder inside the block."""
    store = Store(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, store=store))
    store.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
