"""Budget: the plan of `fine_tune` that some minutes allow, decided once, before training."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetune import arguments, distributed
from finetune.models.layer_groups import LayerGroups
from finetune.training.phase import Phase, Plan
from finetune.training.plan import ALL, FineTune, HeadTraining, keeps_features
from finetune.training.setup import Setup
from finetune.training.timing import forward_seconds, step_seconds

LATER_HALF_EPOCHS = 4
"""So many epochs of the later half of the body are worth as many of everything, at 0.63 of their
time, as measured. Fewer epochs of everything are worth less than they take."""

KEPT_VIEWS = 2
"""Views of each image on which the later half trains; the earlier half runs once for each."""

_MOST_EPOCHS = 100
"""Nobody waits for more; the remaining minutes are given back."""

_HEAD_SHARE = 0.02
"""Of the time to run a backbone over all images: an epoch of the head on what was kept."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What `fine_tune(minutes=...)` is asked for.

    minutes: for the whole fit, validation included. request: its epochs mean nothing; all else is
    as the caller wants it.
    """

    minutes: float
    request: FineTune

    def __post_init__(self) -> None:
        arguments.real_number("minutes", self.minutes, above=0)

    def plans(self, groups: LayerGroups, *, head: HeadTraining) -> Iterator[Plan]:
        """All plans that may be chosen, from the shortest to the longest.

        The head alone; then up to `LATER_HALF_EPOCHS` of the later half, on `KEPT_VIEWS` views of
        each image; then as many and more of everything. What the caller unfreezes, or spreads rates
        over, trains from the first epoch on.
        """
        *head_alone, _ = self._plan(1, groups, head)
        if head_alone:
            # a later fit trains everything
            yield (*head_alone[:-1], replace(head_alone[-1], unfreezes_at_end=True))
        by_halves = replace(self.request, epochs=1).plan(groups, head=head)
        has_halves = by_halves[-1].frozen > 0 and self.request.unfreeze is None
        has_halves = has_halves and keeps_features(head)
        if has_halves:
            name = groups.names[by_halves[-1].frozen]
            for epochs in range(1, LATER_HALF_EPOCHS + 1):
                *before, last = self._plan(epochs, groups, head, unfreeze=name)
                # a single view would be the one of validation
                views = None if epochs == 1 else KEPT_VIEWS
                yield (*before, replace(last, views=views))
        fewest = LATER_HALF_EPOCHS if has_halves else 1
        for epochs in range(fewest, _MOST_EPOCHS + 1):
            yield self._plan(epochs, groups, head)

    def _plan(
        self, epochs: int, groups: LayerGroups, head: HeadTraining, unfreeze: str | None = None
    ) -> Plan:
        unfreeze = unfreeze or self.request.unfreeze or ALL
        request = replace(self.request, epochs=epochs, unfreeze=unfreeze)
        return request.plan(groups, head=head)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast this machine is with this model and these images, in seconds.

    decoding, forward: of a batch; it is decoded once. step: of a training step in which everything
    trains. later_step: of one with the earlier half of the body frozen.
    """

    decoding: float
    forward: float
    step: float
    later_step: float

    @classmethod
    def measured(cls, setup: Setup, later_frozen: int) -> "Pace":
        """Runs a few batches; nothing of the setup changes."""
        decoding, forward = forward_seconds(setup)
        step = step_seconds(setup)
        later_step = step_seconds(setup, later_frozen) if later_frozen else step
        return cls(decoding, forward, step, later_step)

    def seconds(self, plan: Plan, setup: Setup, *, head: HeadTraining) -> float:
        """About how long a plan takes."""
        steps, batches = setup.steps_per_epoch, len(setup.data.train)
        validation_batches = 0 if setup.data.valid is None else len(setup.data.valid)
        groups = len(setup.optimizer.groups)
        total = self.decoding * (batches + validation_batches)
        for phase in plan:
            if keeps_features(head) and phase.frozen == groups - 1:
                # validation runs the backbone once as well
                runs = _views(phase) * batches + validation_batches
                total += self.forward * runs * (1 + _HEAD_SHARE * phase.epochs)
                continue
            total += self.forward * validation_batches * phase.epochs
            step = self.step if phase.frozen == 0 else self.later_step
            keeps_views = phase.views is not None or phase.epochs == 1
            if keeps_features(head) and phase.frozen and keeps_views:
                # a backward pass takes twice as long as a forward one: what freezing saves of a
                # step is two thirds of what the frozen layers take of it
                earlier_forward = (self.step - self.later_step) / 2
                step -= earlier_forward
                total += earlier_forward * steps * _views(phase)
            total += step * steps * phase.epochs
        return total


def choose_plan(budget: Budget, setup: Setup, started_at: float, *, head: HeadTraining) -> Plan:
    """The longest plan that is over in time, or else the shortest one.

    started_at: `time.perf_counter()` when the minutes began. All processes choose the same.
    """
    groups = setup.optimizer.groups
    pace = Pace.measured(setup, (len(groups) - 1) // 2)
    left = 60 * budget.minutes - (time.perf_counter() - started_at)
    chosen: Plan | None = None
    for plan in budget.plans(groups, head=head):
        is_too_long = pace.seconds(plan, setup, head=head) > left
        if chosen is not None and distributed.any_process(is_too_long):
            break
        chosen = plan
    assert chosen is not None
    return chosen


def _views(phase: Phase) -> int:
    """How often the frozen layers see each image in a phase that keeps what they give."""
    return min(phase.views or phase.epochs, phase.epochs)
