"""The state of a setup: model, optimizer and layer groups as a checkpoint has them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from finetune.distributed.sharding import sharded_content
from finetune.models.layer_groups import LayerGroups
from finetune.training import checkpoint as checkpoints
from finetune.training.content import check_optimizer_fits
from finetune.training.runtime.runtime import Runtime
from finetune.training.setup import Setup


def state_of(setup: Setup) -> dict[str, Any]:
    """All of a setup that affects the next step, by name, as tensors and plain data.

    Without the loss, whose state is what has moved in it, see `LossState`.
    """
    groups = setup.optimizer.groups
    scaler_state = None
    if setup.scaler is not None:
        scaler_state = setup.scaler.state_dict()
    return {
        "model": setup.model.state_dict(),
        "optimizer": {
            "classes": _optimizer_names(groups),
            "state": setup.optimizer.state_dict(),
            "settings": setup.optimizer.settings(),
            "mode": setup.optimizer.mode(),
        },
        "scaler": scaler_state,
        "groups": _group_states(groups),
        "frozen": groups.frozen_count,
        "seed": setup.data.seed,
        "classes": _class_names(setup),
        "runtime": setup.runtime.to_dict(),
        "versions": {"torch": str(torch.__version__), "timm": timm.__version__},
    }


def _optimizer_names(groups: LayerGroups) -> list[str]:
    """The class of each group's optimizer."""
    return [group.optimizer for group in groups]


def _group_states(groups: LayerGroups) -> dict[str, dict[str, Any]]:
    states = {}
    for group in groups:
        states[group.name] = {
            "norm": group.norm,
            "values": dict(group.values),
            "base": dict(group.base),
            "peaks": dict(group.peaks),
            "frozen_by_hand": sorted(group.frozen_by_hand),
        }
    return states


def _class_names(setup: Setup) -> list[str] | None:
    if setup.data.classes is None:
        return None
    return list(setup.data.classes)


def check_fits(setup: Setup, content: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError for a checkpoint of another model, optimizer or data.

    content: of a checkpoint, see `content.check`. path: of its file.
    """
    groups = setup.optimizer.groups
    checkpoints.check_fits(path, content["model"], setup.model.state_dict())
    saved_and_present = {
        "layer groups": (list(content["groups"]), list(groups.names)),
        "optimizer": (content["optimizer"]["classes"], _optimizer_names(groups)),
        "seed": (content["seed"], setup.data.seed),
        "classes": (content["classes"], _class_names(setup)),
    }
    checkpoints.check_same(path, saved_and_present)
    check_optimizer_fits(content, path, setup.optimizer)


def load(setup: Setup, content: Mapping[str, Any]) -> Setup:
    """Loads what `state_of` returned, and `check_fits` has checked.

    Returns the setup with the runtime of the checkpoint, if it is one to continue with.
    """
    optimizer = setup.optimizer
    parameters = dict(setup.model.named_parameters())
    optimizer.load_state_dict(sharded_content(content["optimizer"]["state"], parameters))
    optimizer.load_settings(content["optimizer"]["settings"])
    setup = _with_runtime(setup, _runtime_to_continue(setup.runtime, content["runtime"]))
    setup.model.load_state_dict(sharded_content(content["model"], parameters))
    optimizer.load_mode(content["optimizer"].get("mode", {}))
    if setup.scaler is not None and content["scaler"] is not None:
        setup.scaler.load_state_dict(content["scaler"])
    _load_group_states(optimizer.groups, content["groups"])
    optimizer.groups.freeze_to(content["frozen"])
    return setup


def _runtime_to_continue(runtime: Runtime, saved: dict[str, Any]) -> Runtime:
    """The runtime of the run so far, unless the caller chose one or the device differs."""
    if runtime.automatic and saved["device"] == runtime.device.type:
        return runtime.updated(saved)
    return runtime


def _with_runtime(setup: Setup, runtime: Runtime) -> Setup:
    if runtime == setup.runtime:
        return setup
    runtime.place(setup.model)
    return replace(setup, runtime=runtime, scaler=runtime.gradient_scaler())


def _load_group_states(groups: LayerGroups, states: Mapping[str, dict[str, Any]]) -> None:
    for group in groups:
        state = states[group.name]
        group.norm = state["norm"]
        group.values = dict(state["values"])
        group.base = dict(state["base"])
        # older files are without peaks
        group.peaks = dict(state.get("peaks", {}))
        group.freeze_by_hand(state.get("frozen_by_hand", []))
