"""The image under a heat map, as an array."""

import numpy as np

from finetune.interpret.activation import ActivationMap


def test_the_overlay_is_hot_where_the_class_was_seen() -> None:
    values = np.zeros((8, 8))
    values[2:4, 2:4] = 1
    overlay = ActivationMap(values, np.full((8, 8, 3), 0.5), "cat", 0.9, "stem").overlay()
    assert (overlay.shape, overlay.dtype) == ((8, 8, 3), np.uint8)
    assert overlay[3, 3].sum() > overlay[6, 6].sum() + 100
    assert len(np.unique(overlay.reshape(-1, 3), axis=0)) == 2
