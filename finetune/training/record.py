"""What is known of a model's training, for its description and card."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.export.description import GroupRecord, PartCounts, PhaseRecord, TrainingRecord
from finetune.interpret.timeline import Span
from finetune.models.layer_groups import LayerGroups
from finetune.training.events import EpochEnd, StepEnd
from finetune.training.phase import PROBE
from finetune.training.setup import Setup
from finetune.training.tables import step_spans, valid_points


@dataclass(frozen=True, slots=True)
class Record:
    """The fields `data`, `training` and `validation` of a `ModelDescription`."""

    data: dict[str, PartCounts]
    training: TrainingRecord
    validation: dict[str, float | None]


def training_record(setup: Setup, steps: Sequence[StepEnd], epochs: Sequence[EpochEnd]) -> Record:
    """The record of all fits, made of the rows of the history.

    Results of validation belong to the present weights only if the last step ended an epoch;
    otherwise there are none.
    """
    groups = setup.optimizer.groups
    data = {}
    for part, counts in setup.data.class_counts().items():
        data[part] = PartCounts(counts["images"], counts["classes"])
    spans: list[Span] = []
    if steps:
        spans = step_spans(steps, setup.steps_per_epoch)
    validation = _last_validation(spans, steps, epochs)
    training = TrainingRecord(
        tuple(_phases(spans, steps, epochs, groups)),
        _group_records(groups),
        setup.data.seed,
        _class_weights(setup),
        setup.data.sampling,
    )
    return Record(data, training, validation)


def _class_weights(setup: Setup) -> dict[str, float]:
    """What an image of each class counts in the loss, by name; empty where they are alike."""
    weights = setup.data.task.class_weights_of(setup.loss)
    if weights is None or setup.data.classes is None:
        return {}
    return dict(zip(setup.data.classes, weights.tolist(), strict=True))


def _phases(
    spans: Sequence[Span],
    steps: Sequence[StepEnd],
    epochs: Sequence[EpochEnd],
    groups: LayerGroups,
) -> list[PhaseRecord]:
    """Those with steps, and the probes between them, in the order in which they ran."""
    with_epochs: list[tuple[int, PhaseRecord]] = []
    for span in spans:
        # rows of older versions do not say their epoch's number
        first_epoch = steps[span.first].epoch_number or 0
        with_epochs.append((first_epoch, _phase_record(span, steps, epochs, groups)))
    for row in epochs:
        if row.phase == PROBE and row.epoch_number is not None:
            probe = PhaseRecord(row.phase, 1, 0, groups.names[:-1], ())
            with_epochs.append((row.epoch_number, probe))
    with_epochs.sort(key=lambda pair: pair[0])
    return [record for _, record in with_epochs]


def _phase_record(
    span: Span, steps: Sequence[StepEnd], epochs: Sequence[EpochEnd], groups: LayerGroups
) -> PhaseRecord:
    rows = steps[span.first : span.last]
    numbers = {row.epoch_number for row in rows}
    fraction = None
    for epoch in epochs:
        if epoch.between is not None and epoch.epoch_number in numbers:
            fraction = epoch.between.fraction
    rates_by_group = zip(*(row.lr for row in rows), strict=True)
    return PhaseRecord(
        name=span.name,
        epochs=len({row.epoch for row in rows}),
        steps=len(rows),
        frozen=tuple(groups.names[: span.frozen]),
        peak_lr=tuple(max(rates) for rates in rates_by_group),
        fraction=fraction,
    )


def _group_records(groups: LayerGroups) -> tuple[GroupRecord, ...]:
    records = []
    for group in groups:
        record = GroupRecord(
            name=group.name,
            parameters=group.parameter_count,
            optimizer=group.optimizer,
            weight_decay=group.base.get("weight_decay", 0.0),
        )
        records.append(record)
    return tuple(records)


def _last_validation(
    spans: Sequence[Span], steps: Sequence[StepEnd], epochs: Sequence[EpochEnd]
) -> dict[str, float | None]:
    """The results of the last epoch, or of a soup after it; empty if training went on after it."""
    results_at_end = _results_at_end(spans, steps, epochs)
    validation: dict[str, float | None] = {}
    for name, value in results_at_end.items():
        # JSON has no NaN and no infinity
        validation[name] = value if math.isfinite(value) else None
    return validation


def _is_behind(row: EpochEnd, steps: Sequence[StepEnd]) -> bool:
    """Whether a row is later than all steps, as that of a soup, which has none."""
    last = steps[-1].epoch_number if steps else -1
    return row.epoch_number is not None and last is not None and row.epoch_number > last


def _results_at_end(
    spans: Sequence[Span], steps: Sequence[StepEnd], epochs: Sequence[EpochEnd]
) -> Mapping[str, float]:
    if epochs and _is_behind(epochs[-1], steps):
        return epochs[-1].valid
    points = valid_points(spans, steps, epochs)
    if not points:
        return {}
    position, results = points[-1]
    return results if position == spans[-1].end else {}
