"""What is known of a model's training, as plain data: for the model card."""

import math
from collections.abc import Sequence
from typing import Any

from finetune.training.events import EpochEnd, StepEnd
from finetune.training.setup import Setup
from finetune.training.tables import step_spans, valid_points


def training_record(
    setup: Setup, steps: Sequence[StepEnd], epochs: Sequence[EpochEnd]
) -> dict[str, Any]:
    """`data`: images by class. `training`: phases as they ran, and layer groups. `validation`:
    what it gave after the last step; empty if that was not the end of an epoch, or without data.
    """
    groups = setup.optimizer.groups
    spans = step_spans(steps, setup.steps_per_epoch) if steps else []
    phases = []
    for span in spans:
        rows = steps[span.first : span.last]
        phases.append(
            {
                "name": span.name,
                "epochs": len({row.epoch for row in rows}),
                "steps": len(rows),
                "frozen": list(groups.names[: span.frozen]),
                "peak_lr": [max(rates) for rates in zip(*(row.lr for row in rows), strict=True)],
            }
        )
    points = valid_points(spans, steps, epochs)
    ended = bool(points) and points[-1][0] == spans[-1].end
    decays = [group.base.get("weight_decay", 0.0) for group in groups]
    return {
        "data": setup.data.class_counts(),
        "training": {
            "phases": phases,
            "groups": [
                {
                    "name": group.name,
                    "parameters": group.parameter_count,
                    "optimizer": group.optimizer,
                    "weight_decay": decay,
                }
                for group, decay in zip(groups, decays, strict=True)
            ],
            "seed": setup.data.seed,
        },
        # as JSON knows no NaN
        "validation": {n: v if math.isfinite(v) else None for n, v in points[-1][1].items()}
        if ended
        else {},
    }
