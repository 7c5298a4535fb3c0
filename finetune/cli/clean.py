"""`finetune clean`: asks about doubtful labels of a run's images, on a page in a browser."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from finetune import arguments, corrections
from finetune.cleaning.page import cleaning_page
from finetune.cleaning.session import Session
from finetune.cli import build, run_folder
from finetune.cli.mistakes import absent, check_suffix
from finetune.cli.parser import CommandParser
from finetune.config import TrainConfig
from finetune.web import listening


def parser() -> CommandParser:
    made = CommandParser(
        "clean",
        "Asks about the images of a run whose labels are doubtful, on a page in a browser: keep,\n"
        "relabel, remove, with the mouse or the keyboard. Each decision is written to a file of\n"
        "corrections at once; no image is moved or deleted. Ctrl-C ends it, and the same command\n"
        "goes on.",
        [
            "finetune clean runs/photos",
            "finetune clean runs/photos --of valid --count 50",
            "finetune train photos/ --corrections runs/photos/corrections.csv",
        ],
    )
    made.add_argument("run", help="run folder")
    made.option("output", str | None, help="file to write; null is corrections.csv of the run")
    made.option("of", Literal["train", "valid"], "train", help="train or valid: which images")
    made.option("count", int, 30, help="most suspicious labels, and most images by their loss")
    made.option("host", str, listening.LOOPBACK, help="address to listen at, 0.0.0.0 for all")
    made.option("port", int, 8001, help="port to listen at; 0 takes a free one")
    made.switch("open", help="open the page in the browser")
    made.switch("json", help="the decisions as JSON on standard output, at the end")
    return made


def run(options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Listens until Ctrl-C; returns how many images have which decision."""
    listening.check_installed("finetune clean")
    arguments.whole_number("count", options["count"], at_least=1)
    folder = Path(options["run"])
    output = folder / "corrections.csv"
    if options["output"] is not None:
        check_suffix("output", options["output"], (".csv",))
        output = Path(options["output"])
    config = _config_of(folder)
    with listening.open_socket(options["host"], options["port"]) as socket:
        session = _session(folder, config, output, options)
        page = cleaning_page(session, listening.hosts_of(options["host"]))
        address = listening.address_of(socket)
        print(f"{len(session.candidates)} images to judge at {address}\nCtrl-C ends it", flush=True)
        listening.listen(page, socket, open_browser=options["open"])
    counts = session.view()["counts"]
    print(f"\n{', '.join(f'{count} {action}' for action, count in counts.items())}: {output}")
    if output.exists():
        print(f"  finetune train ... --corrections {shlex.quote(str(output))}")
    return {"output": str(output), **counts}, 0


def _config_of(folder: Path) -> TrainConfig:
    """The settings of a run that has been trained."""
    if not folder.exists():
        raise FileNotFoundError(absent(folder))
    settings = run_folder.settings_of(folder)
    if not settings:
        raise ValueError(
            f"{str(folder)!r} is no run folder, which knows its images; make one with finetune "
            "train, or call learner.clean() in a notebook"
        )
    if not (folder / run_folder.CHECKPOINT).is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} has no {run_folder.CHECKPOINT}; its finetune train continues it"
        )
    return TrainConfig(**settings)


def _session(folder: Path, config: TrainConfig, output: Path, options: dict[str, Any]) -> Session:
    if config.probe:
        config = replace(config, head="linear")  # which the probe has put in the place of another
    learner = build.learner_of(config, build.data_of(config))
    learner.load(folder / run_folder.CHECKPOINT)
    if config.corrections is not None and not output.exists():
        # what the run was trained with still holds
        corrections.write(output, corrections.read(Path(config.corrections)))
    return learner.cleaning_session(output, options["count"], of=options["of"])
