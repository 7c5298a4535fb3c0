"""From which probability on a class is predicted, where a picture may have several."""

from dataclasses import replace

from finetune.metrics import ThresholdSearch
from finetune.randomness import isolated
from finetune.training.evaluation import evaluate
from finetune.training.folding import eval_mode
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
