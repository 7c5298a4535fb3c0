"""ActivationMap: where in an image a class was seen, as a heat map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class ActivationMap:
    """values: [H, W] in [0, 1], 1 where the target class was seen most; all 0 where nothing spoke
    for it. image: [H, W, 3] in [0, 1], as the model got it. layer: path of the layer looked at.
    probability: of the target. value: what a regression predicts; its probability is nan."""

    values: np.ndarray
    image: np.ndarray
    target: str
    probability: float
    layer: str
    value: float | None = None

    def __repr__(self) -> str:
        height, width = self.values.shape
        score = f"probability {self.probability:.3f}"
        if self.value is not None:
            score = f"value {self.value:.4g}"
        return f"ActivationMap({self.target!r} with {score}, {height} x {width}, of {self.layer})"

    def plot(self) -> Figure:
        """The image, and the map over it."""
        with shared.house_style():
            figure = shared.new_figure(6.4, 3.2)
            plain, covered = figure.subplots(1, 2)
            for axes in (plain, covered):
                axes.imshow(self.image)
                axes.set_axis_off()
            shown = covered.imshow(self.values, cmap="inferno", alpha=0.55, vmin=0, vmax=1)
            bar = figure.colorbar(shown, ax=covered, fraction=0.046, pad=0.03, ticks=[0, 1])
            bar.set_ticklabels(["none", "most"], fontsize=9, color=shared.INK)
            bar.outline.set_visible(False)
            what = f"what speaks for {self.target} ({self.probability:.0%})"
            if self.value is not None:
                what = f"what raises {self.target} ({self.value:.4g})"
            title = f"{what}, in {self.layer}"
            figure.suptitle(title, fontsize=10, color=shared.INK)
        return figure
