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

from finetune import arguments


@dataclass(frozen=True, slots=True)
class FitStart:
    """A fit begins.

    phases: names. epochs: of all phases. groups: names of the layer groups, first layers first.
    first_epoch: 0, or where a resumed fit goes on. validates: whether validation follows an epoch's
    steps. metrics: names of what validation gives besides the loss.
    """

    phases: tuple[str, ...]
    epochs: int
    steps_per_epoch: int
    groups: tuple[str, ...]
    first_epoch: int
    validates: bool = False
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PhaseStart:
    """A phase of the plan begins, after freezing.

    frozen: how many groups, from the first, do not train. first_epoch: 0, or where a resumed phase
    goes on. peaks: the largest value of each hyper-parameter in this phase, one per layer group.
    note: why the phase before it ended early, or empty.
    """

    phase: str
    epochs: int
    frozen: int
    first_epoch: int = 0
    peaks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class EpochStart:
    """An epoch begins.

    epoch: within the phase, from 0. steps: of the whole epoch. first_step: 0, or where a resumed
    epoch goes on.
    """

    phase: str
    epoch: int
    steps: int
    first_step: int


@dataclass(frozen=True, slots=True)
class Precompute:
    """Outputs of the frozen layers have been computed, which are kept for the epochs to come.

    view: the number of the random view of the images, from 1; None for the validation data.
    views: how many views there are. done, total: images of this view.
    """

    phase: str
    view: int | None
    views: int
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class StepEnd:
    """The weights have been updated once.

    step: within the epoch, from 0. loss: of all its batches together. lr, momentum: one value per
    layer group, in force at this step; momentum is () for an optimizer without. frozen: how many
    groups, from the first, did not train. epoch_number: of the epoch among all epochs that the
    learner has begun; None in files of older versions.
    """

    phase: str
    epoch: int
    step: int
    loss: float
    lr: tuple[float, ...]
    momentum: tuple[float, ...]
    frozen: int = 0
    epoch_number: int | None = None


@dataclass(frozen=True, slots=True)
class EmptyStep(StepEnd):
    """A step none of whose targets count, as the loss ignores them: nothing moved, `loss` is NaN.

    It arrives as a `StepEnd`, in `on_step_end`.
    """


@dataclass(frozen=True, slots=True)
class GroupUpdates:
    """How large a step was, one value per layer group; NaN for those that are frozen.

    gradient: its norm before clipping. ratio: `|w_new - w| / |w|`.
    """

    phase: str
    epoch: int
    step: int
    gradient: tuple[float, ...]
    ratio: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PointBetween:
    """Which point between the weights at a phase's beginning and at its end was taken.

    fraction: of the way, 0 is the beginning, 1 the end. compared: fraction -> what validation gave
    there, of all points that were tried, both ends among them.
    """

    fraction: float
    compared: Mapping[float, Mapping[str, float]]

    @property
    def results(self) -> Mapping[str, float]:
        """What validation gave at the point that was taken."""
        return self.compared[self.fraction]


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """An epoch is over, validation included.

    train_loss: the mean over the epoch's steps that have a loss. valid: "loss" and each metric ->
    value, or empty without validation. seconds: how long the epoch took. epoch_number: as that of
    its steps, see `StepEnd`. between: which weights were taken after the last epoch of a phase that
    interpolates, see `Phase`; `valid` is of these.
    """

    phase: str
    epoch: int
    train_loss: float
    valid: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    epoch_number: int | None = None
    between: PointBetween | None = None


@dataclass(frozen=True, slots=True)
class FitEnd:
    """The fit is over. reason: "finished", "stopped: ...", "interrupted" or "failed: ..."."""

    reason: str


Event: TypeAlias = (
    FitStart | PhaseStart | EpochStart | Precompute | StepEnd | GroupUpdates | EpochEnd | FitEnd
)


@dataclass(frozen=True, slots=True)
class Stop:
    """An answer: ends the fit after this event, or only the phase, so that the next one begins.

    >>> class StopAfter(Callback):
    ...     def on_step_end(self, event: StepEnd) -> Answer:
    ...         return Stop("a hundred steps are enough") if event.step == 99 else None
    """

    reason: str
    phase_only: bool = False

    def __post_init__(self) -> None:
        arguments.text("reason", self.reason)
        arguments.flag("phase_only", self.phase_only)


@dataclass(frozen=True, slots=True)
class Save:
    """An answer: writes a checkpoint after this event.

    >>> class SaveEveryFifth(Callback):
    ...     def on_epoch_end(self, event: EpochEnd) -> Answer:
    ...         return Save("fifth.ckpt") if event.epoch % 5 == 4 else None
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", arguments.path("path", self.path))


Answer: TypeAlias = Stop | Save | None


class Callback:
    """The base of callbacks: override the methods of the events you care about.

    State that must survive a resume goes through `state_dict` and `load_state_dict`.
    updates_every: n > 0 asks for `GroupUpdates` at every n-th step of an epoch, from its first on.

    saves_to: the checkpoint that its `Save` answers name. While a fit runs no other run may write
    it. knows_its_file: whether what is there is its own, so that it may be replaced; the file of a
    run on other data, or with other settings, is an error before the fit begins.

    >>> class StopWhenGood(Callback):
    ...     def on_epoch_end(self, event: EpochEnd) -> Answer:
    ...         return Stop("good enough") if event.valid["accuracy"] > 0.9 else None
    """

    updates_every: int = 0
    saves_to: Path | None = None
    knows_its_file: bool = False

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
        """The callback's state, as plain data and tensors: what affects what it does next."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""


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
    """Hands FitEnd to every callback, also after one has raised; returns the first error."""
    first_error: Exception | None = None
    for callback in callbacks:
        try:
            deliver(callback, event)
        except Exception as error:
            first_error = first_error or error
    return first_error


def named(callbacks: Iterable[Callback]) -> list[tuple[str, Callback]]:
    """Each callback with the name of its class; the second of a class is called "Name 2".

    >>> [name for name, _ in named([Callback(), Callback()])]
    ['Callback', 'Callback 2']
    """
    counts: dict[str, int] = {}
    named_callbacks = []
    for callback in callbacks:
        name = type(callback).__name__
        counts[name] = counts.get(name, 0) + 1
        if counts[name] > 1:
            name = f"{name} {counts[name]}"
        named_callbacks.append((name, callback))
    return named_callbacks
