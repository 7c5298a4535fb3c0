"""Decisions: in the file at once, undone one by one, and continued later."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from finetune import corrections
from finetune.cleaning.candidates import Candidate
from finetune.cleaning.session import Session
from finetune.corrections import Correction

CLASSES = ("boot", "hat", "shoe")


def in_file(session: Session) -> list[tuple[str, str | None, str]]:
    return [(row.image, row.action, row.new_label) for row in corrections.read(session.file)]


def test_each_decision_is_in_the_file_at_once(session: Session) -> None:
    session.decide(0, "relabel", "shoe")
    assert in_file(session) == [("hat/0.jpg", "relabel", "shoe")]
    session.decide(1, "remove")
    session.decide(2, "keep")
    assert in_file(session)[1:] == [("hat/1.jpg", "remove", ""), ("hat/2.jpg", "keep", "")]
    assert session.view()["number"] == 3
    assert session.view()["counts"] == {"keep": 1, "relabel": 1, "remove": 1}


def test_undo_takes_decisions_back_one_by_one(session: Session) -> None:
    session.decide(0, "keep")
    session.decide(1, "remove")
    session.decide(0, "relabel", "boot")
    session.undo()
    assert in_file(session) == [("hat/1.jpg", "remove", ""), ("hat/0.jpg", "keep", "")]
    assert session.view()["number"] == 0
    session.undo()
    session.undo()
    assert in_file(session) == []
    assert not session.view()["can_undo"]
    with pytest.raises(ValueError, match="nothing to undo"):
        session.undo()


def test_what_can_not_be_done_changes_nothing(session: Session) -> None:
    session.decide(0, "keep")
    for command, error in (
        ({"do": "decide", "number": 1, "action": "relabel", "new_label": "sho"}, "mean 'shoe'"),
        ({"do": "decide", "number": 1, "action": "delete"}, "action must be one of"),
        ({"do": "decide", "number": 9, "action": "keep"}, "number must be a whole number"),
        ({"do": "decide", "number": "1", "action": "keep"}, "number must be a whole number"),
        ({"do": "decide", "action": "keep"}, "number"),
        ({"do": "shout"}, "do must be one of"),
        ({}, "do must be one of"),
    ):
        view = session.act(command)
        assert error in view["error"]
        assert view["number"] == 1
    assert in_file(session) == [("hat/0.jpg", "keep", "")]
    assert session.act({"do": "show", "number": 2})["error"] == ""


def test_a_file_that_can_not_be_written_decides_nothing(
    asked: list[Candidate], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    session = Session(asked, CLASSES, tmp_path / "file" / "corrections.csv")
    view = session.act({"do": "decide", "number": 0, "action": "keep"})
    assert "can't write the corrections" in view["error"]
    assert (view["number"], view["action"], view["can_undo"]) == (0, "", False)


def test_a_later_session_goes_on(session: Session, asked: list[Candidate]) -> None:
    corrections.write(session.file, [Correction("boot/9.jpg", "boot", "remove")])
    first = Session(asked, CLASSES, session.file)
    first.decide(0, "relabel", "shoe")
    second = Session(asked, CLASSES, session.file)
    assert second.view()["number"] == 1
    second.show(0)
    view = second.view()
    assert (view["action"], view["new_label"], view["can_undo"]) == ("relabel", "shoe", False)
    assert in_file(second)[0] == ("boot/9.jpg", "remove", "")


def test_labels_that_are_corrected_already_keep_what_they_were_at_first(
    session: Session, asked: list[Candidate]
) -> None:
    """Where the data were made with the file, its images come with their new labels."""
    for decision, expected in (
        (("keep", ""), Correction("hat/0.jpg", "boot", "relabel", "hat")),
        (("relabel", "shoe"), Correction("hat/0.jpg", "boot", "relabel", "shoe")),
        (("relabel", "boot"), Correction("hat/0.jpg", "boot", "keep")),
        (("remove", ""), Correction("hat/0.jpg", "boot", "remove")),
    ):
        corrections.write(session.file, [Correction("hat/0.jpg", "boot", "relabel", "hat")])
        Session(asked, CLASSES, session.file).decide(0, *decision)
        assert corrections.read(session.file) == [expected._replace(line=2)]


def test_a_view_has_the_image_and_what_is_known_of_it(session: Session) -> None:
    view = session.view()
    assert (view["label"], view["suggestion"]) == ("hat", "shoe")
    head, _, data = view["image"].partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == (60, 40)
    red, green, blue = image.getpixel((30, 20))
    assert red > 200 > 60 > max(green, blue)


def test_an_image_that_is_gone_is_said_to_be(session: Session, asked: list[Candidate]) -> None:
    def gone() -> None:
        raise FileNotFoundError("no such file: 'hat/0.jpg'")

    lost = Candidate("hat/0.jpg", "hat", None, "looks like shoe", gone)
    view = Session([lost, *asked[1:]], CLASSES, session.file).view()
    assert (view["image"], view["error"]) == ("", "no such file: 'hat/0.jpg'")


def test_another_file_is_not_overwritten(asked: list[Candidate], tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,label\na.jpg,hat\n")
    with pytest.raises(ValueError, match="has no column 'action'"):
        Session(asked, CLASSES, tmp_path / "labels.csv")


def test_without_single_labels_images_are_kept_or_removed(
    asked: list[Candidate], tmp_path: Path
) -> None:
    session = Session(asked, (), tmp_path / "c.csv")
    with pytest.raises(ValueError, match="no single class"):
        session.decide(0, "relabel", "hat")
    session.decide(0, "remove")
    assert repr(session) == f"Session(3 images, 1 remove, {str(tmp_path / 'c.csv')!r})"
