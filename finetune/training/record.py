"""What is known of a model's training, for its description and card."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.export.description import GroupRecord, PartCounts, PhaseRecord, TrainingRecord
from finetune.training.events import EpochEnd, StepEnd
from finetune.training.setup import Setup
from finetune.training.tables import step_spans, valid_points


@dataclass(frozen=True, slots=True)
class Record:
    """data, training, validation: see `ModelDescription`."""

    data: dict[str, PartCounts]
    training: TrainingRecord
    validation: dict[str, float | None]


def training_record(setup: Setup, steps: Sequence[StepEnd], epochs: Sequence[EpochEnd]) -> Record:
    """From the rows of the history.

    Results of validation are known if the last step was the end of an epoch.
    """
    groups = setup.optimizer.groups
    spans = step_spans(steps, setup.steps_per_epoch) if steps else []
    phases = []
    for span in spans:
        rows = steps[span.first : span.last]
        rates_by_group = zip(*(row.lr for row in rows), strict=True)
        phases.append(
            PhaseRecord(
                name=span.name,
                epochs=len({row.epoch for row in rows}),
                steps=len(rows),
                frozen=tuple(groups.names[: span.frozen]),
                peak_lr=tuple(max(rates) for rates in rates_by_group),
            )
        )
    group_records = [
        GroupRecord(
            name=group.name,
            parameters=group.parameter_count,
            optimizer=group.optimizer,
            weight_decay=group.base.get("weight_decay", 0.0),
        )
        for group in groups
    ]
    data = {
        part: PartCounts(counts["images"], counts["classes"])
        for part, counts in setup.data.class_counts().items()
    }
    points = valid_points(spans, steps, epochs)
    validation: dict[str, float | None] = {}
    if points and points[-1][0] == spans[-1].end:
        for name, value in points[-1][1].items():
            validation[name] = value if math.isfinite(value) else None  # JSON knows no NaN
    training = TrainingRecord(tuple(phases), tuple(group_records), setup.data.seed)
    return Record(data, training, validation)
