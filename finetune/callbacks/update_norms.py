"""UpdateNorms: how large gradients and updates are, per layer group, over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.interpret.timeline import find_spans
from finetune.interpret.updates import plot_updates
from finetune.training.events import Callback, FitStart, GroupUpdates

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class UpdateNorms(Callback):
    """`rows`: a `GroupUpdates` for every `every`-th step of an epoch, from its first on.

    Norm of the gradient before clipping, and how much the update changed the weights:
    `|w_new - w| / |w|`, NaN for frozen groups. A ratio around 1e-3 is usual; one far below it says
    that the learning rate of a group is too low to matter, one far above it that it is high.
    """

    def __init__(self, every: int = 10) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every is a number of steps, 1 or more, got {every!r}")
        self.updates_every = every
        self.rows: list[GroupUpdates] = []
        self.groups: tuple[str, ...] = ()
        self._steps_per_epoch = 1

    def on_fit_start(self, event: FitStart) -> None:
        self.groups, self._steps_per_epoch = event.groups, event.steps_per_epoch

    def on_group_updates(self, event: GroupUpdates) -> None:
        if event.step % self.updates_every == 0:  # another callback may have asked for more
            self.rows.append(event)

    def plot(self) -> Figure:
        """Both over all epochs, a line for each layer group. Raises ValueError before a fit."""
        if not self.rows:
            raise ValueError("there is nothing to plot before a fit with this callback")
        positions = [(row.phase, 0, row.epoch, row.step) for row in self.rows]
        spans = find_spans(positions, self._steps_per_epoch)
        gradients, ratios = zip(*((row.gradient, row.ratio) for row in self.rows), strict=True)
        return plot_updates(spans, self.groups, gradients, ratios)

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": [[r.phase, r.epoch, r.step, r.gradient, r.ratio] for r in self.rows],
            "groups": list(self.groups),
            "steps_per_epoch": self._steps_per_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [GroupUpdates(*row) for row in state["rows"]]
        self.groups = tuple(state["groups"])
        self._steps_per_epoch = state["steps_per_epoch"]
