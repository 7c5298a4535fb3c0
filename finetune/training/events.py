"""The events of a fit, in the order in which the loop emits them:

    FitStart
    for each phase of the plan:
        PhaseStart
        for each epoch:
            EpochStart
            Precompute              (now and then, while the frozen layers are run once)
            for each step:          (one update of the weights: `accumulate` batches)
                StepEnd
                GroupUpdates        (at steps that a callback asked for with `updates_every`)
            (validation)
            EpochEnd
    FitEnd                          (always, to every callback, also after an error)

Events are small frozen records of plain numbers and names. A callback reads them and may answer
`Stop(reason)` or `Save(path)`; it never reaches into the loop. On an accelerator StepEnd arrives
some steps late, in order, because reading a loss earlier would make the device wait.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class FitStart:
    """groups: names, first layers first. first_epoch: 0, or where a resumed fit goes on.

    note: what is worth a line before it begins, or empty. validates: whether an epoch's steps are
    followed by validation.
    """

    phases: tuple[str, ...]
    epochs: int
    steps_per_epoch: int
    groups: tuple[str, ...]
    first_epoch: int
    note: str = ""
    validates: bool = False


@dataclass(frozen=True, slots=True)
class PhaseStart:
    """frozen: how many groups, from the first, do not train. first_epoch: as in FitStart.

    peaks: the largest value of each hyper-parameter in this phase, one per layer group. note: why
    the phase before it ended early, or empty.
    """

    phase: str
    epochs: int
    frozen: int
    first_epoch: int = 0
    peaks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class EpochStart:
    """epoch: within the phase, from 0. first_step: 0, or where a resumed epoch goes on."""

    phase: str
    epoch: int
    steps: int
    first_step: int


@dataclass(frozen=True, slots=True)
class Precompute:
    """Outputs of the frozen layers that are kept for the epochs to come.

    view: of how many views this one is, from 1; None for the validation data. done: images.
    """

    phase: str
    view: int | None
    views: int
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class StepEnd:
    """lr, momentum: one value per layer group, in force at this step; () without momentum.

    frozen: how many groups, from the first, did not train.
    """

    phase: str
    epoch: int
    step: int
    loss: float
    lr: tuple[float, ...]
    momentum: tuple[float, ...]
    frozen: int = 0


@dataclass(frozen=True, slots=True)
class GroupUpdates:
    """How large a step was, one value per layer group; NaN for those that are frozen.

    gradient: norm, before clipping. ratio: `|w_new - w| / |w|`.
    """

    phase: str
    epoch: int
    step: int
    gradient: tuple[float, ...]
    ratio: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """train_loss: mean over the epoch's steps. valid: "loss" and each metric, or empty."""

    phase: str
    epoch: int
    train_loss: float
    valid: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FitEnd:
    """reason: "finished", "stopped: ...", "interrupted" or "failed: ..."."""

    reason: str


Event: TypeAlias = (
    FitStart | PhaseStart | EpochStart | Precompute | StepEnd | GroupUpdates | EpochEnd | FitEnd
)


@dataclass(frozen=True, slots=True)
class Stop:
    """Answer: end the fit after this event, or only the phase, so that the next one begins."""

    reason: str
    phase_only: bool = False


@dataclass(frozen=True, slots=True)
class Save:
    """Answer: write a checkpoint after this event."""

    path: Path


Answer: TypeAlias = Stop | Save | None


class Callback:
    """Base of callbacks: override the methods of the events you care about.

    State that must survive a resume goes through `state_dict` and `load_state_dict`.
    updates_every: n > 0 asks for `GroupUpdates` at every n-th step of an epoch, from its first.

    >>> class StopWhenGood(Callback):
    ...     def on_epoch_end(self, event: EpochEnd) -> Answer:
    ...         return Stop("good enough") if event.valid["accuracy"] > 0.9 else None
    """

    updates_every: int = 0

    def on_fit_start(self, event: FitStart) -> Answer:
        return None

    def on_phase_start(self, event: PhaseStart) -> Answer:
        return None

    def on_epoch_start(self, event: EpochStart) -> Answer:
        return None

    def on_precompute(self, event: Precompute) -> Answer:
        return None

    def on_step_end(self, event: StepEnd) -> Answer:
        return None

    def on_group_updates(self, event: GroupUpdates) -> Answer:
        return None

    def on_epoch_end(self, event: EpochEnd) -> Answer:
        return None

    def on_fit_end(self, event: FitEnd) -> Answer:
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors that affect what the callback does next."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


def deliver(callback: Callback, event: Event) -> Answer:
    """Hands an event to the method that is named after it."""
    match event:
        case FitStart():
            return callback.on_fit_start(event)
        case PhaseStart():
            return callback.on_phase_start(event)
        case EpochStart():
            return callback.on_epoch_start(event)
        case Precompute():
            return callback.on_precompute(event)
        case StepEnd():
            return callback.on_step_end(event)
        case GroupUpdates():
            return callback.on_group_updates(event)
        case EpochEnd():
            return callback.on_epoch_end(event)
        case FitEnd():
            return callback.on_fit_end(event)


def deliver_last(callbacks: Iterable[Callback], event: FitEnd) -> Exception | None:
    """FitEnd reaches every callback, whatever the others do; returns the first error."""
    first: Exception | None = None
    for callback in callbacks:
        try:
            deliver(callback, event)
        except Exception as error:
            first = first or error
    return first


def named(callbacks: Iterable[Callback]) -> list[tuple[str, Callback]]:
    """Class name -> callback; the second of a class is "Name 2"."""
    counts: dict[str, int] = {}
    named = []
    for callback in callbacks:
        name = type(callback).__name__
        counts[name] = counts.get(name, 0) + 1
        named.append((name if counts[name] == 1 else f"{name} {counts[name]}", callback))
    return named
