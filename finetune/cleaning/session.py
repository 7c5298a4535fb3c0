"""Session: what a person decides about images, with undo; saved whole at each decision.

A front end, a page or a widget, shows `view()` and hands on what the person does to `act`.
"""

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from PIL import Image

from finetune import arguments, corrections
from finetune.cleaning.candidates import Candidate
from finetune.corrections import ACTIONS, Correction
from finetune.forks import ForkSafeLock
from finetune.wording import counted, did_you_mean

_LARGEST_SIDE = 900
"""Pixels of an image as it is shown."""


class View(TypedDict):
    """What a front end shows, as plain data.

    number: of the image, from 0; `total` when all were seen. image: a data URL; empty at the end,
    and where it can't be read. suggestion: another class that it may be, or empty. action,
    new_label: what was decided; empty where nothing was. counts: decisions by action. classes: what
    a label can be changed to; empty where it can't. note: what to know about all images. error: why
    the last act did nothing, or the image is not shown; empty where all went well. revision: grows
    with each view.
    """

    number: int
    total: int
    image: str
    name: str
    label: str
    suggestion: str
    reason: str
    action: str
    new_label: str
    counts: dict[str, int]
    can_undo: bool
    classes: list[str]
    file: str
    note: str
    error: str
    revision: int


class Session:
    """Decisions about candidates, in a file of corrections.

    file: it is read, if it is there; decisions in it about other images stay in it. classes: what a
    label may be changed to; empty where a label is no single class. note: see `View`. Raises
    ValueError for a file that holds something else.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        classes: Sequence[str],
        file: str | Path,
        *,
        note: str = "",
    ) -> None:
        self.candidates = tuple(candidates)
        self.classes = tuple(classes)
        self.file = arguments.path("file", file)
        self.note = note
        self.decisions: dict[str, Correction] = {}
        if self.file.exists():
            self.decisions = {row.image: row for row in corrections.read(self.file)}
        self._before: list[tuple[int, Correction | None]] = []
        """For each decision that can be undone: the number of its image, and what was before."""
        self._number = self._first_undecided()
        self._revision = 0
        # of two browser windows, one acts at a time
        self._lock = ForkSafeLock()

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {action}" for action, count in self._counts().items() if count)
        images = counted(len(self.candidates), "image")
        return f"Session({images}, {counts or 'nothing decided'}, {str(self.file)!r})"

    def _first_undecided(self) -> int:
        for number, candidate in enumerate(self.candidates):
            if self._decision(candidate) is None:
                return number
        return len(self.candidates)

    def _decision(self, candidate: Candidate) -> Correction | None:
        """What was decided about the image; None where nothing was."""
        row = self.decisions.get(candidate.name)
        return None if row is None or row.action is None else row

    def _counts(self) -> dict[str, int]:
        """How many of the candidates have each action."""
        decided = [self._decision(candidate) for candidate in self.candidates]
        counts = Counter(row.action for row in decided if row is not None)
        return {action: counts[action] for action in ACTIONS}

    # --- what a person does

    def show(self, number: int) -> None:
        """Goes to an image; `len(candidates)` is the end."""
        total = len(self.candidates)
        with self._lock.held():
            self._number = arguments.whole_number("number", number, at_least=0, at_most=total)

    def decide(self, number: int, action: str, new_label: str = "") -> None:
        """Keeps, relabels or removes an image, writes the file, and goes to the next image.

        Raises ValueError for another action and for an unknown class, and OSError for a file that
        can't be written; nothing is decided then.
        """
        arguments.whole_number("number", number, at_least=0, at_most=len(self.candidates) - 1)
        arguments.choice("action", action, ACTIONS)
        if action == "relabel":
            self._check_class(new_label)
        with self._lock.held():
            candidate = self.candidates[number]
            before = self.decisions.get(candidate.name)
            self._put(candidate.name, _correction(candidate, before, action, new_label))
            self._before.append((number, before))
            self._number = number + 1

    def undo(self) -> None:
        """Takes the last decision back, and goes to its image. Raises ValueError without any."""
        with self._lock.held():
            if not self._before:
                raise ValueError("there is nothing to undo")
            number, before = self._before[-1]
            self._put(self.candidates[number].name, before)
            self._before.pop()
            self._number = number

    def _put(self, name: str, decision: Correction | None) -> None:
        """Writes the file with another decision about an image, or none; then takes it."""
        decisions = dict(self.decisions)
        decisions.pop(name, None)
        if decision is not None:
            decisions[name] = decision
        corrections.write(self.file, decisions.values())
        self.decisions = decisions

    def _check_class(self, name: str) -> None:
        if not self.classes:
            raise ValueError("these images have no single class that could be changed")
        if name not in self.classes:
            raise ValueError(f"there is no class {name!r}; {did_you_mean(name, self.classes)}")

    # --- for a front end

    def act(self, command: Mapping[str, Any]) -> View:
        """Does what a front end asks for, and returns what is to be shown now.

        command: {"do": "show", "number": 3}, {"do": "undo"}, or {"do": "decide", "number": 3,
        "action": "relabel", "new_label": "hat"}. What can't be done is the view's `error`.
        """
        options = dict(arguments.mapping("command", command, "names to values"))
        acts: dict[str, Callable[..., None]] = {
            "show": self.show,
            "decide": self.decide,
            "undo": self.undo,
        }
        try:
            name = arguments.choice("do", options.pop("do", None), acts)
            acts[name](**options)
        except (ValueError, TypeError, OSError) as error:
            return self.view(str(error))
        return self.view()

    def view(self, error: str = "") -> View:
        """What is to be shown. error: why something was not done."""
        with self._lock.held():
            self._revision += 1
            view: View = {
                "number": self._number,
                "total": len(self.candidates),
                "image": "",
                "name": "",
                "label": "",
                "suggestion": "",
                "reason": "",
                "action": "",
                "new_label": "",
                "counts": self._counts(),
                "can_undo": bool(self._before),
                "classes": list(self.classes),
                "file": str(self.file),
                "note": self.note,
                "error": error,
                "revision": self._revision,
            }
        if view["number"] < view["total"]:
            self._describe(self.candidates[view["number"]], view)
        return view

    def _describe(self, candidate: Candidate, view: View) -> None:
        """Fills in what there is to say of an image."""
        view["name"] = candidate.name.encode("utf-8", "replace").decode()  # bytes that are no text
        view["label"] = candidate.label
        view["suggestion"] = candidate.suggestion or ""
        view["reason"] = candidate.reason
        decision = self._decision(candidate)
        if decision is not None:
            view["action"] = str(decision.action)
            view["new_label"] = decision.new_label
        try:
            view["image"] = _data_url(candidate.open())
        except (OSError, ValueError) as error:
            view["error"] = view["error"] or str(error)


def _correction(
    candidate: Candidate, before: Correction | None, action: str, new_label: str
) -> Correction:
    """The row of a decision.

    Where the data were made with the file, their labels are corrected already; the row says what
    the label was at first.
    """
    label = candidate.label
    if before is not None and before.new_label and before.new_label == candidate.label:
        label = before.label
        if action == "keep":
            action, new_label = "relabel", candidate.label
    if action == "relabel" and new_label == label:
        action, new_label = "keep", ""
    decided = next(known for known in ACTIONS if known == action)
    return Correction(candidate.name, label, decided, new_label if decided == "relabel" else "")


def _data_url(image: Any) -> str:
    """An image as a JPEG in a URL."""
    shown = image if isinstance(image, Image.Image) else Image.fromarray(image)
    shown = shown.convert("RGB")
    shown.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    stream = io.BytesIO()
    shown.save(stream, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
