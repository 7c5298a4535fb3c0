"""Corrections: a CSV file that says which labels are wrong, and which images to leave out.

    image,label,action,new_label
    shirt/0012.jpg,shirt,relabel,t-shirt
    hat/0003.jpg,hat,remove,
    hat/0007.jpg,hat,keep,

Cleaning writes it, data take it back, and a person may write one in a spreadsheet. An image is
named by its path below the folder of the data, so that the file means the same on another machine.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

from finetune.files.names import path_below, spelled
from finetune.files.replacing import replacing_text
from finetune.wording import did_you_mean

Action: TypeAlias = Literal["keep", "relabel", "remove"]

ACTIONS: tuple[Action, ...] = get_args(Action)
COLUMNS = ("image", "label", "action", "new_label")


class Correction(NamedTuple):
    """What was decided about one image.

    image: its name, see `image_name`. label: its label before. action: None where nothing was
    decided. new_label: of the action "relabel". line: where it is in the file, 0 if in none.
    """

    image: str
    label: str
    action: Action | None
    new_label: str = ""
    line: int = 0


def image_name(item: str | Path | int, root: str | Path | None = None) -> str:
    """What an image is called in the file: its path below `root`, or its number.

    >>> image_name("photos/hat/1.jpg", "photos"), image_name(17)
    ('hat/1.jpg', '17')
    """
    if isinstance(item, int):
        return str(item)
    if root is None:
        return spelled(str(item))
    return path_below(str(item), root)


def write(
    file: Path,
    corrections: Iterable[Correction],
    more: Sequence[Sequence[str]] = (),
    more_columns: Sequence[str] = (),
) -> None:
    """Replaces the file by these corrections.

    more: further cells of each row, which nobody reads back; more_columns: their header.
    """
    # names of files need not be UTF-8
    with replacing_text(file, "the corrections", errors="surrogateescape") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*COLUMNS, *more_columns])
        for number, row in enumerate(corrections):
            extra = more[number] if more else ()
            writer.writerow([row.image, row.label, row.action or "", row.new_label, *extra])


def read(file: Path) -> list[Correction]:
    """The rows of a file of corrections; other columns are left alone.

    Raises FileNotFoundError, and ValueError, with the line, for a row that says nothing clear.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of corrections {str(file)!r}")
    rows: list[Correction] = []
    line_of: dict[str, int] = {}
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        reader = csv.DictReader(stream, restval="")
        _check_header(file, reader.fieldnames or ())
        for cells in reader:
            row = _read_row(cells, f"{str(file)!r}, line {reader.line_num}", reader.line_num)
            if row.image in line_of:
                raise ValueError(
                    f"{str(file)!r}, line {row.line}: image {row.image!r} is in line "
                    f"{line_of[row.image]}, too; leave one of them"
                )
            line_of[row.image] = row.line
            rows.append(row)
    return rows


def _check_header(file: Path, names: Sequence[str]) -> None:
    for needed in ("image", "action", "new_label"):
        if needed not in names:
            raise ValueError(
                f"{str(file)!r} has no column {needed!r}, only {list(names)}; corrections have "
                f"the header {','.join(COLUMNS)}"
            )


def _read_row(cells: dict[str, str], place: str, line: int) -> Correction:
    image, new_label = cells["image"], cells["new_label"]
    action = cells["action"].strip().lower()
    if not image.strip():
        raise ValueError(f"{place} names no image; fill the cell or leave the row out")
    if action not in ("", *ACTIONS):
        raise ValueError(
            f"{place}: action must be one of {', '.join(ACTIONS)}, or empty, got {action!r}; "
            f"{did_you_mean(action, ACTIONS)}"
        )
    if (action == "relabel") != bool(new_label):
        wanted = "needs" if action == "relabel" else "takes no"
        raise ValueError(
            f"{place}: the action {action!r} {wanted} new_label, got {new_label!r}; to change a "
            "label, write the action relabel and the class as new_label"
        )
    decided = next((known for known in ACTIONS if known == action), None)
    return Correction(image, cells.get("label", ""), decided, new_label, line)
