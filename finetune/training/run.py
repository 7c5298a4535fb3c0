"""Run: a plan and how far it has come."""

import math
from dataclasses import dataclass, field
from typing import Any

from finetune.files.fingerprints import Fingerprint
from finetune.training.phase import Plan

_POSITION_FIELDS = (
    "first_epoch",
    "phase",
    "epoch",
    "step",
    "loss_sum",
    "ended",
    "empty_steps",
    "results_before",
)


@dataclass(slots=True)
class Run:
    """A plan and a position in it: phase, epoch of the phase, step of the epoch.

    first_epoch: the learner's epochs before this run; the random numbers of an epoch depend on its
    number over all runs. loss_sum: over the epoch's steps. ended: why there is nothing left to do,
    None while there is. empty_steps: how many of the epoch's steps have no loss, see `EmptyStep`.
    fingerprint: of the run, see `training.fingerprint`. results_before: of validation at the end of
    the phase before this one; empty in the first.
    """

    plan: Plan
    first_epoch: int
    phase: int = 0
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    ended: str | None = None
    empty_steps: int = 0
    fingerprint: Fingerprint = field(default_factory=dict)
    results_before: dict[str, float] = field(default_factory=dict)

    @property
    def epochs_done(self) -> int:
        """Epochs of this run that are complete; those that a phase left out count as well."""
        return sum(phase.epochs for phase in self.plan[: self.phase]) + self.epoch

    @property
    def epoch_number(self) -> int:
        """The current epoch's number over all runs of the learner."""
        return self.first_epoch + self.epochs_done

    @property
    def first_epoch_of_phase(self) -> int:
        """The number, over all runs, of the current phase's first epoch."""
        return self.epoch_number - self.epoch

    @property
    def epochs_begun(self) -> int:
        """The first number, over all runs, that no epoch of this run has used."""
        has_begun_epoch = self.step > 0
        return self.epoch_number + has_begun_epoch

    def mean_loss(self, steps: int) -> float:
        """The mean loss of an epoch of so many steps; NaN if none of them has one."""
        steps_with_loss = steps - self.empty_steps
        return self.loss_sum / steps_with_loss if steps_with_loss else math.nan

    def next_epoch(self, results: dict[str, float]) -> None:
        """Goes to the next epoch, and to the next phase after the last epoch of one.

        results: of validation.
        """
        self.epoch += 1
        self._begin_epoch()
        if self.epoch == self.plan[self.phase].epochs:
            self.phase += 1
            self.epoch = 0
            self.results_before = results

    def _begin_epoch(self) -> None:
        self.step, self.loss_sum, self.empty_steps = 0, 0.0, 0

    def leave_phase(self, index: int) -> None:
        """Goes to the phase after `index`, unless the run is there already."""
        if self.phase == index:
            self.phase = index + 1
            self.epoch = 0
            self._begin_epoch()

    def to_dict(self, steps: int, settings: dict[str, Any]) -> dict[str, Any]:
        """Plain data. steps: per epoch; the position means nothing with another number.

        settings: those that the rest must have, too.
        """
        return {
            "plan": [phase.to_dict() for phase in self.plan],
            "steps": steps,
            "settings": settings,
            "fingerprint": dict(self.fingerprint),
            **{name: getattr(self, name) for name in _POSITION_FIELDS},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], plan: Plan) -> "Run":
        """A run at the position that `to_dict` described."""
        position = {name: data[name] for name in _POSITION_FIELDS if name in data}
        return cls(plan, fingerprint=data.get("fingerprint", {}), **position)
