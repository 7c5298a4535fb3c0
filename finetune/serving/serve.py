"""serve: a page and a JSON endpoint for an exported model, until Ctrl-C."""

from pathlib import Path

import torch

from finetune import arguments
from finetune.serving.application import Limits, serving_application
from finetune.vision import load_learner
from finetune.web import listening


def serve(
    model: str | Path,
    *,
    host: str = listening.LOOPBACK,
    port: int = 8000,
    limits: Limits | None = None,
    device: str | torch.device = "cpu",
    open_browser: bool = False,
) -> None:
    """Answers for images with an exported model; prints the address.

    host: only this machine can reach it, unless it is "0.0.0.0". port: 0 takes a free one. limits:
    None are the usual ones. open_browser: shows the page. Raises ModuleNotFoundError without the
    libraries of the extra `serve`, and what `load_learner` raises.
    """
    listening.check_installed("a server")
    arguments.flag("open_browser", open_browser)
    with listening.open_socket(host, port) as socket:
        predictor = load_learner(model, device=device)
        application = serving_application(predictor, listening.hosts_of(host), limits)
        address = listening.address_of(socket)
        print(f"{predictor!r} answers at {address}\nCtrl-C ends it", flush=True)
        listening.listen(application, socket, open_browser=open_browser)
