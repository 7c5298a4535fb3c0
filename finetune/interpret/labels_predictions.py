"""LabelsPredictions: the table of a classifier with any number of labels per example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.interpret.analysis import best_threshold, class_scores_of
from finetune.interpret.outputs_table import OutputsTable
from finetune.interpret.page import Drawing, Section
from finetune.interpret.report import ClassReport
from finetune.wording import counted, did_you_mean, labels_in_words


class LabelsPredictions(OutputsTable):
    """Predictions of several labels per image.

    Outputs are probabilities. A label is predicted if its probability reaches its threshold.

    items, classes, targets, outputs, losses, image: see `OutputsTable`. thresholds: by class; 0.5
    for a class that is left out.

    >>> LabelsPredictions(["a.jpg"], ["cat", "dog"], [[1, 0]], [[0.9, 0.7]], [0.6])
    LabelsPredictions(1 example, 2 classes, 0 all right)
    """

    def __init__(
        self,
        items: Sequence[str | int],
        classes: Sequence[str],
        targets: Any,
        outputs: Any,
        losses: Any,
        *,
        thresholds: Mapping[str, float] | None = None,
        image: Callable[[int], Any] | None = None,
    ) -> None:
        super().__init__(items, classes, targets, outputs, losses, image=image)
        by_class = dict(thresholds or {})
        for name in by_class:
            if name not in self.classes:
                raise ValueError(f"there is no class {name!r}; {did_you_mean(name, self.classes)}")
        self.thresholds = np.array([by_class.get(name, 0.5) for name in self.classes])
        self.predicted = self.outputs >= self.thresholds

    @property
    def probabilities(self) -> np.ndarray:
        """The outputs, [N, C] in [0, 1]."""
        return self.outputs

    def at_thresholds(self, thresholds: Mapping[str, float]) -> LabelsPredictions:
        """The same probabilities with other thresholds; 0.5 for a class that is left out."""
        return self.adjusted(self.outputs, thresholds)

    def adjusted(self, outputs: Any, thresholds: Mapping[str, float]) -> LabelsPredictions:
        """The same examples with other probabilities [N, C]; the losses stay as they are."""
        return LabelsPredictions(
            self.items,
            self.classes,
            self.targets,
            outputs,
            self.losses,
            thresholds=thresholds,
            image=self.image,
        ).in_folds(self.folds)

    def best_thresholds(self) -> dict[str, float]:
        """The threshold of each class with the best F1 on these examples, by name of the class.

        It is 0.5 for a class without examples. Of equally good thresholds it is the one nearest to
        0.5.
        """
        thresholds = {}
        for number, name in enumerate(self.classes):
            is_present = self.targets[:, number] > 0.5
            thresholds[name] = best_threshold(self.outputs[:, number], is_present)
        return thresholds

    def target_words(self, target: np.ndarray) -> str:
        return labels_in_words(self.classes, (target > 0.5).tolist())

    def predicted_words(self, output: np.ndarray) -> str:
        return labels_in_words(self.classes, (output >= self.thresholds).tolist())

    def __repr__(self) -> str:
        all_right = (self.predicted == (self.targets > 0.5)).all(axis=1)
        return (
            f"LabelsPredictions({counted(len(self), 'example')}, {len(self.classes)} classes, "
            f"{int(all_right.sum()):,} all right)"
        )

    def report(self) -> ClassReport:
        """Precision, recall and F1 of each class, and their means."""
        is_present = self.targets > 0.5
        hits = (is_present & self.predicted).sum(axis=0)
        scores = class_scores_of(hits, is_present.sum(axis=0), self.predicted.sum(axis=0))
        all_right = float((is_present == self.predicted).all(axis=1).mean())
        return ClassReport(scores, self.classes, "all labels right", all_right, len(self))

    def sections(self, drawings: Mapping[str, Drawing], file: str) -> list[Section]:
        return [self.report().section(), self.worst_section(drawings, file)]
