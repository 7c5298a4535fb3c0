"""The fingerprint of a run: data, model, loss and settings, as far as they decide its result.

It is stored in a checkpoint, and compared before a run continues from one. What may differ between
the two halves of a run is not in it: device, precision, workers, callbacks, and where the data are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch

from finetune.files import fingerprints
from finetune.files.fingerprints import Fingerprint, Value
from finetune.models.layer_groups import LayerGroups
from finetune.optim.group_optimizer import GroupOptimizer
from finetune.training.checkpoint import CheckpointError
from finetune.training.setup import Setup

_NOT_COMPARED = frozenset({"lr", "fused", "foreach", "capturable", "differentiable"})
"""Defaults of an optimizer that are the plan's, or are about how it computes."""

_MOST_LISTED = 6


def fingerprint_of(setup: Setup, data: Fingerprint) -> Fingerprint:
    """The fingerprint of a run with this setup. data: that of its data, which takes longer."""
    return {
        **data,
        **fingerprints.of_object("loss", setup.loss),
        **_of_groups(setup.optimizer.groups),
        **_of_optimizers(setup.optimizer),
        **asdict(setup.settings),
    }


def _of_groups(groups: LayerGroups) -> Fingerprint:
    # the words in which a module describes itself may be other ones in another version
    versions = f"in torch {torch.__version__} and timm {timm.__version__}"
    fingerprint: Fingerprint = {}
    for group in groups:
        # sorted, since those of a layer that was replaced come last
        names = sorted(group.parameters)
        fingerprint[f"parameters of {group.name}"] = fingerprints.of_texts(names)
        fingerprint[f"layers of {group.name} {versions}"] = fingerprints.of_modules(group.modules)
        fingerprint[f"norm of {group.name}"] = group.norm
        for name, value in group.base.items():
            if name not in _NOT_COMPARED:
                fingerprint[f"{name} of {group.name}"] = value
    return fingerprint


def _of_optimizers(optimizer: GroupOptimizer) -> Fingerprint:
    """The settings that the layer groups do not have, such as nesterov."""
    fingerprint: Fingerprint = {}
    for torch_optimizer in optimizer.torch_optimizers:
        name = type(torch_optimizer).__name__
        for key, value in torch_optimizer.defaults.items():
            if key not in _NOT_COMPARED and isinstance(value, bool):
                fingerprint[f"{key} of {name}"] = value
    return fingerprint


def check_same_run(
    path: Path, stored_run: Mapping[str, Any], plan: Sequence[Any], present: Mapping[str, Value]
) -> None:
    """Raises CheckpointError, with the way out, unless the run of a file is the present one.

    plan: the present plan as plain data. present: the present fingerprint. A file that is older
    than fingerprints has none, and is known by its plan alone.
    """
    way_out = (
        "remove the file, or name another one; learner.load() of it, without checkpoint=, starts a "
        "new run from its weights"
    )
    if list(stored_run.get("plan", [])) != list(plan):
        raise CheckpointError(
            f"{str(path)!r} belongs to another plan; repeat the call that wrote it, or {way_out}"
        )
    differences = _differences(stored_run, present)
    if differences:
        raise CheckpointError(
            f"{str(path)!r} is of another run. These differ: {differences}. So {way_out}"
        )


def check_continues(stored_run: Mapping[str, Any], present: Mapping[str, Value]) -> None:
    """Raises CheckpointError unless a loaded run can go on with the present fingerprint.

    The hyper-parameters of the layer groups were loaded with it.
    """
    differences = _differences(stored_run, present)
    if differences:
        raise CheckpointError(
            f"the interrupted run was another one. These differ: {differences}. So continue with "
            "the same, or call a fit, which starts a new run from these weights"
        )


def _differences(stored_run: Mapping[str, Any], present: Mapping[str, Value]) -> str:
    """What differs, in words; an empty text for nothing, and for a file without a fingerprint."""
    differences = fingerprints.differences(stored_run.get("fingerprint", {}), present)
    listed = "; ".join(differences[:_MOST_LISTED])
    unlisted = len(differences) - _MOST_LISTED
    if unlisted > 0:
        listed += f"; and {unlisted} more"
    return listed
