"""Sessions about a few images."""

from pathlib import Path

import pytest
from PIL import Image

from finetune.cleaning.candidates import Candidate
from finetune.cleaning.session import Session

CLASSES = ("boot", "hat", "shoe")
COLOURS = ("red", "green", "blue")


@pytest.fixture
def asked() -> list[Candidate]:
    """Three images; the last one has no suggestion."""
    made = []
    for number, colour in enumerate(COLOURS):
        made.append(
            Candidate(
                f"hat/{number}.jpg",
                "hat",
                "shoe" if number < 2 else None,
                "looks like shoe, 90%",
                lambda colour=colour: Image.new("RGB", (60, 40), colour),
            )
        )
    return made


@pytest.fixture
def session(asked: list[Candidate], tmp_path: Path) -> Session:
    return Session(asked, CLASSES, tmp_path / "corrections.csv")
