"""ActivationMap: a heat map of where in an image a model saw a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune.interpret import figure as shared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS, _OPACITY = "inferno", 0.55


@dataclass(frozen=True, eq=False, repr=False)
class ActivationMap:
    """Where a model saw its target, a class or a target of a regression.

    values: [H, W] in [0, 1], 1 where the target was seen most; all 0 if nothing spoke for it.
    image: [H, W, 3] in [0, 1], as the model received it. target: its name. layer: path of the
    layer whose activations are shown. probability: of the target, NaN for a regression. value: what
    a regression predicts, else None.
    """

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

    def overlay(self) -> np.ndarray:
        """The image under the heat map, uint8 [H, W, 3]."""
        from matplotlib import colormaps

        colours = colormaps[_COLOURS](self.values)[..., :3]
        mixed = (1 - _OPACITY) * self.image + _OPACITY * colours
        pixels: np.ndarray = np.round(mixed.clip(0, 1) * 255).astype(np.uint8)
        return pixels

    def plot(self) -> Figure:
        """Plots the image, and beside it the image under the heat map."""
        with shared.house_style():
            figure = shared.new_figure(6.4, 3.2)
            plain, covered = figure.subplots(1, 2)
            for axes in (plain, covered):
                axes.imshow(self.image)
                axes.set_axis_off()
            heat = covered.imshow(self.values, cmap=_COLOURS, alpha=_OPACITY, vmin=0, vmax=1)
            bar = figure.colorbar(heat, ax=covered, fraction=0.046, pad=0.03, ticks=[0, 1])
            bar.set_ticklabels(["none", "most"], fontsize=9, color=shared.INK)
            bar.outline.set_visible(False)
            title = f"what speaks for {self.target} ({self.probability:.0%})"
            if self.value is not None:
                title = f"what raises {self.target} ({self.value:.4g})"
            figure.suptitle(f"{title}, in {self.layer}", fontsize=10)
        return figure
