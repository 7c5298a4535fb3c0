"""Listening: an application at an address of this machine, until Ctrl-C."""

from __future__ import annotations

import errno
import socket
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from finetune import arguments

if TYPE_CHECKING:
    from starlette.applications import Starlette

LOOPBACK = "127.0.0.1"
MOST_CONNECTIONS = 64
"""Requests at once; more are answered with 503."""
_LOOPBACK_NAMES = ("127.0.0.1", "localhost")


def check_installed(what: str) -> None:
    """Raises ModuleNotFoundError without the libraries of the extra `serve`. what: needs them."""
    try:
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{what} needs {error.name}; run pip install 'finetune-vision[serve]'"
        ) from None


def hosts_of(host: str) -> Sequence[str]:
    """The names by which a browser may ask for what listens at `host`."""
    return _LOOPBACK_NAMES if host in _LOOPBACK_NAMES else ("*",)


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens. port: 0 takes a free one.

    Raises OSError, with the way out, for a port in use and an address that is not this machine's.
    """
    arguments.text("host", host)
    arguments.whole_number("port", port, at_least=0, at_most=65535)
    try:
        return socket.create_server((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = "something else listens there; give another port, or 0 for a free one"
        elif error.errno == errno.EACCES:
            hint = "ports below 1024 need more rights; give a larger one"
        else:
            reason = "no such address of this machine"
            hint = f"{reason}; 127.0.0.1 is for this machine alone, 0.0.0.0 for every network"
        raise OSError(f"can't listen at {host}, port {port}: {hint}") from error


def address_of(listening: socket.socket) -> str:
    """What a person types into a browser."""
    host, port = listening.getsockname()[:2]
    shown = LOOPBACK if host == "0.0.0.0" else host
    return f"http://{shown}:{port}/"


def listen(application: Starlette, listening: socket.socket, *, open_browser: bool = False) -> None:
    """Answers requests until Ctrl-C. open_browser: shows the page, once it answers."""
    import uvicorn

    if open_browser:
        # the socket listens already, so that the browser waits for the answer
        webbrowser.open(address_of(listening))

    settings = uvicorn.Config(
        application,
        log_level="warning",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=3,
    )
    with suppress(KeyboardInterrupt):  # the usual end
        uvicorn.Server(settings).run(sockets=[listening])
