"""UpdateNorms: how large gradients and updates are, per layer group, over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune import arguments
from finetune.interpret.timeline import find_spans
from finetune.interpret.updates import plot_updates
from finetune.training.events import Callback, FitStart, GroupUpdates

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class UpdateNorms(Callback):
    """Records a `GroupUpdates` in `rows` at every `every`-th step of an epoch, from its first on.

    A row has, for each layer group, the norm of the gradient before clipping and how much the
    update changed the weights: `|w_new - w| / |w|`, NaN for frozen groups. A ratio around 1e-3 is
    usual. One far below says that the group's learning rate is too low to matter, and one far
    above that it is high.

    >>> from finetune import ImageDataLoaders, vision_learner
    >>> import numpy as np
    >>> images = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(12)]
    >>> labels = ["dark"] * 6 + ["light"] * 6
    >>> data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=4)
    >>> learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    >>> norms = UpdateNorms(every=1)
    >>> learner.fit(1, callbacks=[norms])
    >>> len(norms.rows), len(norms.rows[0].ratio)
    (2, 3)
    >>> figure = norms.plot()
    """

    def __init__(self, every: int = 10) -> None:
        self.updates_every = arguments.whole_number("every", every, at_least=1)
        self.rows: list[GroupUpdates] = []
        self.groups: tuple[str, ...] = ()
        self._steps_per_epoch = 1

    def on_fit_start(self, event: FitStart) -> None:
        self.groups = event.groups
        self._steps_per_epoch = event.steps_per_epoch

    def on_group_updates(self, event: GroupUpdates) -> None:
        if event.step % self.updates_every == 0:  # another callback may have asked for more
            self.rows.append(event)

    def plot(self) -> Figure:
        """Plots norms and ratios over all epochs, a line for each layer group.

        Raises ValueError before a fit.
        """
        if not self.rows:
            raise ValueError("there is nothing to plot before a fit with this callback")
        positions = [(row.phase, 0, row.epoch, row.step) for row in self.rows]
        spans = find_spans(positions, self._steps_per_epoch)
        gradients = [row.gradient for row in self.rows]
        ratios = [row.ratio for row in self.rows]
        return plot_updates(spans, self.groups, gradients, ratios)

    def state_dict(self) -> dict[str, Any]:
        rows = [[row.phase, row.epoch, row.step, row.gradient, row.ratio] for row in self.rows]
        return {
            "rows": rows,
            "groups": list(self.groups),
            "steps_per_epoch": self._steps_per_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [GroupUpdates(*row) for row in state["rows"]]
        self.groups = tuple(state["groups"])
        self._steps_per_epoch = state["steps_per_epoch"]
