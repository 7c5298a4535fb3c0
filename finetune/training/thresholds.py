"""From which probability on a class is predicted, where an image may have several."""

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from finetune.metrics import OfProbabilities
from finetune.randomness import isolated
from finetune.training.evaluation import evaluate
from finetune.training.runtime.modules import eval_mode
from finetune.training.setup import Setup


def tune_thresholds(setup: Setup) -> dict[str, float]:
    """By class, the threshold with the best F1 on the validation data; 0.5 for an absent class.

    Raises ValueError for another task, and without classes or validation data.
    """
    data = setup.data
    if data.task != "multi_label":
        raise ValueError(f"thresholds are for task='multi_label', this is {data.task!r}")
    if data.valid is None or data.classes is None:
        raise ValueError("to tune thresholds, validation data and the names of classes are needed")
    search = ThresholdSearch(len(data.classes))
    search.to(setup.runtime.device)
    with isolated(), eval_mode(setup.model):
        evaluate(replace(setup, metrics={"f1": search}), data.valid)
    return dict(zip(data.classes, search.thresholds, strict=True))


class ThresholdSearch(OfProbabilities):
    """The macro F1 that the best threshold of each class reaches; `thresholds` afterwards."""

    def __init__(self, num_classes: int) -> None:
        from torchmetrics.classification import MultilabelPrecisionRecallCurve

        super().__init__(MultilabelPrecisionRecallCurve(num_classes, validate_args=False))
        self.thresholds = [0.5] * num_classes

    def compute(self) -> float:
        with warnings.catch_warnings():
            # a class without an example keeps 0.5
            warnings.filterwarnings("ignore", "No positive samples")
            curves = self.metric.compute()
        best = [_best_threshold(*curve) for curve in zip(*curves, strict=True)]
        self.thresholds = [threshold for threshold, _ in best]
        return sum(f1 for _, f1 in best) / len(best)


def _best_threshold(precision: Tensor, recall: Tensor, thresholds: Tensor) -> tuple[float, float]:
    """In the middle between the last score that is in and the next one below; and its F1.

    Of thresholds that are equally good, the one next to 0.5; 0.5 for a class without an example.
    """
    f1 = (2 * precision * recall / (precision + recall)).nan_to_num()[:-1]
    if not len(f1) or not float(f1.max()) > 0:
        return 0.5, 0.0
    scores = thresholds.double()
    middles = (scores + torch.cat([scores.new_zeros(1), scores[:-1]])) / 2
    equal = torch.nonzero(f1 >= f1.max() - 1e-7).flatten()
    chosen = equal[(middles[equal] - 0.5).abs().argmin()]
    return float(middles[chosen]), float(f1[chosen])
