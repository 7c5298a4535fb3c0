"""Adapters around torchmetrics objects: what they need of a model's outputs and targets."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from finetune.interpret.analysis import r2_scores

MetricFactory: TypeAlias = Callable[[int], Any]
"""Number of classes -> a metric: an object with update(outputs, targets), compute() and reset()."""


class MetricAdapter:
    """A metric that is updated with what `transform` makes of outputs and targets."""

    def __init__(
        self,
        metric: Any,
        transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        *,
        one_minus: bool = False,
    ) -> None:
        self.metric, self.transform = metric, transform
        self.one_minus = one_minus

    def to(self, device: torch.device) -> "MetricAdapter":
        self.metric.to(device)
        return self

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.metric.update(*self.transform(outputs, targets))

    def compute(self) -> Any:
        value = self.metric.compute()
        return 1 - value if self.one_minus else value

    def reset(self) -> None:
        self.metric.reset()


def torch_metric(name: str, **options: Any) -> Any:
    """A metric of torchmetrics by its class name; the import takes a second, so it comes late."""
    import torchmetrics
    from torchmetrics import classification

    kind = getattr(classification, name, None) or getattr(torchmetrics, name)
    return kind(**options)


def r2_metric() -> Any:
    """R2 of targets in any unit; torchmetrics' own takes small sums of squares for zero."""
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat

    class R2(Metric):
        pairs: Any  # outputs and targets, flat, so that a process without examples fits in
        width: Tensor  # number of targets

        def __init__(self) -> None:
            super().__init__()
            self.add_state("pairs", [], dist_reduce_fx="cat")
            self.add_state("width", torch.tensor(0), dist_reduce_fx="max")

        def update(self, outputs: Tensor, targets: Tensor) -> None:
            pairs = torch.stack([outputs, targets], dim=1)
            self.width.fill_(pairs[0, 0].numel())
            self.pairs.append(pairs.flatten())

        def compute(self) -> float:
            # in float64, which not every device has
            pairs = dim_zero_cat(self.pairs).cpu().double().view(-1, 2, int(self.width))
            return float(r2_scores(pairs[:, 1].numpy(), pairs[:, 0].numpy()).mean())

    return R2()
