"""Other channels than red, green and blue: their normalisation, and weights that read them."""

from collections.abc import Mapping, Sequence

import timm
from torch import Tensor, nn


def of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Values of red, green and blue as those of so many channels; others as they are.

    >>> of_channels((1, 2, 6), 1), of_channels((1, 2, 6), 5), of_channels((1, 2), 2)
    ((3.0,), (1.0, 2.0, 6.0, 1.0, 2.0), (1.0, 2.0))
    """
    numbers = tuple(map(float, values))
    if len(numbers) == channels:
        return numbers
    if len(numbers) != 3:
        raise ValueError(
            f"mean and std have a value for each of the channels={channels}, or for red, green and "
            f"blue, got {len(numbers)}"
        )
    if channels == 1:
        return (sum(numbers) / 3,)
    return tuple(numbers[number % 3] for number in range(channels))


def first_layer_for_channels(
    backbone: nn.Module, weights: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The weights, with those of first layers for three channels made to fit the backbone's."""
    config = getattr(backbone, "pretrained_cfg", None)
    if not isinstance(config, Mapping):
        return weights
    names = config.get("first_conv") or ()
    adapted = dict(weights)
    for name in [names] if isinstance(names, str) else names:
        key = f"{name}.weight"
        expected = backbone.state_dict().get(key)
        if expected is None or key not in adapted or adapted[key].ndim < 2:
            continue
        channels = expected.shape[1]
        if adapted[key].shape[1] == 3 != channels:
            adapted[key] = timm.models.adapt_input_conv(channels, adapted[key])
    return adapted
