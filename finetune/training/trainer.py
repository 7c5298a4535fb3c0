"""Trainer: starts, continues, saves and loads runs; the state behind a Learner."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from finetune import distributed
from finetune.randomness import isolated
from finetune.training import checkpoint as checkpoints
from finetune.training import plan as plans
from finetune.training.averaging import Average
from finetune.training.checkpoint import CheckpointError
from finetune.training.events import Callback, named
from finetune.training.frozen.feature_cache import FeatureCache
from finetune.training.loop import Loop
from finetune.training.origin import Origin
from finetune.training.phase import Phase, Plan
from finetune.training.run import Run
from finetune.training.runtime import probe
from finetune.training.runtime.runtime import Runtime
from finetune.training.setup import Setup


class Trainer:
    """Everything that affects the next step: the setup's state, the run, the callbacks' state.

    callbacks: those of every run, the history first, so that a checkpoint has the latest row.
    """

    def __init__(self, setup: Setup, callbacks: Sequence[Callback]) -> None:
        self.setup = setup
        self.callbacks = list(callbacks)
        self.origin = Origin(setup.optimizer.groups)
        self.run: Run | None = None
        self.average = Average()
        self._next_epoch = 0
        self._stored_run: dict[str, Any] | None = None
        self._active = self.callbacks
        self._stored_callbacks: dict[str, dict[str, Any]] = {}

    def start(
        self,
        plan: Plan,
        callbacks: Sequence[Callback],
        checkpoint: Path | None,
        *,
        cache_features: bool = True,
    ) -> bool:
        """Runs a plan from its beginning, or from where `checkpoint` has it.

        Returns False if that file says that the run has ended already. Raises CheckpointError
        when it holds another plan.
        """
        note = ""
        plans.check(plan, self.setup.optimizer.groups)
        if checkpoint is not None and checkpoint.exists():
            content = checkpoints.read(checkpoint)
            stored = (content["run"] or {}).get("plan", [])
            if stored != [phase.to_dict() for phase in plan]:
                raise CheckpointError(
                    f"{str(checkpoint)!r} belongs to another plan; remove it, name another file, "
                    "or repeat the call that wrote it"
                )
            self._check_continues(content["run"])
            self.load_state_dict(content, checkpoint)
            self.run = Run.from_dict(content["run"], plan)
            if self.run.ended is not None:
                return False
        else:
            self.run, self._stored_run = Run(plan, self._next_epoch), None
            self._stored_callbacks = {}
            self.average = Average(self.setup.settings.ema)
            runtime, note = probe.fastest(self.setup, plan)
            self._use(runtime)
        self._execute(self.run, callbacks, checkpoint, cache_features, note)
        return True

    def can_keep_features(self) -> bool:
        """Whether all groups but the last, frozen, need run only once for each view."""
        groups, model = self.setup.optimizer.groups, self.setup.model
        if len(groups) < 2:
            return False
        before, modes = [g.frozen for g in groups], [m.training for m in model.modules()]
        phase = Phase("frozen", 1, len(groups) - 1, {})
        try:
            groups.freeze_to(phase.frozen)
            groups.set_training_modes()
            with isolated():
                cache = FeatureCache.create(self.setup, phase, 0)
            if cache is None:
                return False
            skipped = {p for module in cache.suffix.skipped for p in module.parameters()}
            return all(skipped.issuperset(g.parameters.values()) for g in groups[:-1])
        finally:
            for group, frozen in zip(groups, before, strict=True):
                group.set_frozen(frozen)
            for module, mode in zip(model.modules(), modes, strict=True):
                module.training = mode

    def resume(
        self,
        callbacks: Sequence[Callback],
        checkpoint: Path | None,
        *,
        cache_features: bool = True,
    ) -> None:
        """Continues the run that was interrupted or stopped. Raises RuntimeError without one."""
        if self.run is None and self._stored_run is not None:
            self._check_continues(self._stored_run)
            plan = tuple(map(Phase.from_dict, self._stored_run["plan"]))
            self.run = Run.from_dict(self._stored_run, plan)
        if self.run is None or self.run.phase == len(self.run.plan):
            raise RuntimeError("there is no unfinished run to resume; call one of the fits")
        self.run.ended = None
        self._execute(self.run, callbacks, checkpoint, cache_features)

    def _check_continues(self, stored: dict[str, Any]) -> None:
        """A position in an epoch means nothing when the epoch has another length."""
        if stored["phase"] == len(stored["plan"]):
            return
        settings, steps = self.setup.settings, self.setup.steps_per_epoch
        checkpoints.check_settings(stored.get("settings", {}), settings.to_dict())
        if stored["steps"] != steps:
            raise CheckpointError(
                f"the interrupted run had {stored['steps']} steps an epoch, this data and "
                f"accumulation give {steps}; continue with the same data"
            )

    def _execute(
        self,
        run: Run,
        callbacks: Sequence[Callback],
        checkpoint: Path | None,
        cache_features: bool,
        note: str = "",
    ) -> None:
        self.origin.keep()
        self._active = [*self.callbacks, *callbacks]
        for name, callback in named(self._active):
            if name in self._stored_callbacks:
                callback.load_state_dict(self._stored_callbacks[name])
        self._stored_callbacks = {}
        loop = Loop(
            self.setup, self._active, self.save, checkpoint, cache_features, note, self.average
        )
        try:
            loop.run(run)
        finally:
            self._next_epoch = run.epochs_begun
            # the others keep their own state; a long history would take its time
            own = set(map(id, self.callbacks))
            passing = [(n, c) for n, c in named(self._active) if id(c) not in own]
            self._stored_callbacks = {name: callback.state_dict() for name, callback in passing}

    def save(self, path: Path) -> None:
        """Writes the state, from the first process only."""
        if distributed.rank() == 0:
            checkpoints.write(path, self.state_dict())

    def load(self, path: Path) -> None:
        """Takes back what `save` wrote; an error leaves everything as it was."""
        self.load_state_dict(checkpoints.read(path), path)

    def state_dict(self) -> dict[str, Any]:
        """Everything that affects the next step, by name, as tensors and plain data."""
        setup, groups = self.setup, self.setup.optimizer.groups
        return {
            "model": setup.model.state_dict(),
            "optimizer": {
                "classes": [group.optimizer for group in groups],
                "state": setup.optimizer.state_dict(),
                "settings": setup.optimizer.settings(),
            },
            "scaler": None if setup.scaler is None else setup.scaler.state_dict(),
            "groups": {
                group.name: {
                    "norm": group.norm,
                    "values": dict(group.values),
                    "base": dict(group.base),
                }
                for group in groups
            },
            "frozen": groups.frozen_count,
            "run": self._stored_run
            if self.run is None
            else self.run.to_dict(setup.steps_per_epoch, setup.settings.to_dict()),
            "average": self.average.state_dict(),
            "next_epoch": self._next_epoch if self.run is None else self.run.epochs_begun,
            "seed": setup.data.seed,
            "classes": _list(setup.data.classes),
            "runtime": setup.runtime.to_dict(),
            "callbacks": {
                **self._stored_callbacks,
                **{name: callback.state_dict() for name, callback in named(self._active)},
            },
            "versions": {"torch": str(torch.__version__), "timm": timm.__version__},
        }

    def load_state_dict(self, content: dict[str, Any], path: Path) -> None:
        """Checks everything first, so that an error leaves model and optimizer as they were."""
        setup, groups = self.setup, self.setup.optimizer.groups
        checkpoints.check_fits(path, content["model"], setup.model.state_dict())
        optimizers = [group.optimizer for group in groups]
        both = {
            "layer groups": (list(content["groups"]), list(groups.names)),
            "optimizer": (content["optimizer"]["classes"], optimizers),
            "seed": (content["seed"], setup.data.seed),
            "classes": (content["classes"], _list(setup.data.classes)),
        }
        checkpoints.check_same(path, both)
        self.origin.keep()
        setup.optimizer.load_state_dict(content["optimizer"]["state"])
        setup.optimizer.load_settings(content["optimizer"]["settings"])
        self._keep_runtime(content["runtime"])
        setup = self.setup
        setup.model.load_state_dict(content["model"])
        self.average = Average.restored(content.get("average"), setup.model)
        if setup.scaler is not None and content["scaler"] is not None:
            setup.scaler.load_state_dict(content["scaler"])
        for group in groups:
            group.norm = content["groups"][group.name]["norm"]
            group.values = dict(content["groups"][group.name]["values"])
            group.base = dict(content["groups"][group.name]["base"])
        groups.freeze_to(content["frozen"])
        self.run, self._stored_run = None, content["run"]
        self._next_epoch = content["next_epoch"]
        self._active, self._stored_callbacks = self.callbacks, dict(content["callbacks"])
        for name, callback in named(self.callbacks):
            if name in self._stored_callbacks:
                callback.load_state_dict(self._stored_callbacks.pop(name))

    def _keep_runtime(self, saved: dict[str, Any]) -> None:
        """A run goes on in the way it began, unless the caller chose one, or the device is new."""
        if self.setup.runtime.automatic and saved["device"] == self.setup.runtime.device.type:
            self._use(self.setup.runtime.updated(saved))

    def _use(self, runtime: Runtime) -> None:
        if runtime != self.setup.runtime:
            runtime.place(self.setup.model)
            self.setup = replace(self.setup, runtime=runtime, scaler=runtime.gradient_scaler())


def _list(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)
