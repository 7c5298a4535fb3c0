"""Trainer: starts, continues, saves and loads runs; the state behind a Learner."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from finetune import distributed
from finetune.tasks import PostProcessing
from finetune.training import checkpoint as checkpoints
from finetune.training import plan as plans
from finetune.training.averaging import Average
from finetune.training.checkpoint import CheckpointError
from finetune.training.events import Callback, named
from finetune.training.frozen.feature_cache import features_fit
from finetune.training.frozen.prefixes import FrozenPrefixes
from finetune.training.loop import Loop
from finetune.training.origin import Origin
from finetune.training.phase import Phase, Plan
from finetune.training.plan import FineTune, PlanRequest
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
        self._post_processing = PostProcessing()
        self._fitted_to: tuple[Any, ...] = ()  # the weights that the post-processing is for

    # --- runs

    def start(
        self,
        request: PlanRequest,
        callbacks: Sequence[Callback],
        checkpoint: Path | None,
        *,
        cache_features: bool = True,
    ) -> bool:
        """Runs a plan from its beginning, or from where `checkpoint` has it.

        Returns False if that file says that the run has ended already. Raises CheckpointError
        when it holds another plan.
        """
        prefixes = FrozenPrefixes(self.setup) if cache_features else None
        plan = self._resolve(request, prefixes)
        note = ""
        if checkpoint is not None and checkpoint.exists():
            self.run = self._load_run(checkpoint, plan)
            if self.run.ended is not None:
                return False
        else:
            self.run, self._stored_run = Run(plan, self._next_epoch), None
            self._stored_callbacks = {}
            self.average = Average(self.setup.settings.ema)
            runtime, note = probe.fastest(self.setup, plan)
            self._use(runtime)
        self._execute(self.run, callbacks, checkpoint, prefixes, note)
        return True

    def resolve(self, request: PlanRequest, *, cache_features: bool = True) -> Plan:
        """The plan that a call would run; nothing of the learner changes.

        What `fine_tune` does by default depends on whether the frozen layers' outputs can be kept,
        which running the model on two images shows. Raises ValueError for an impossible plan.
        """
        return self._resolve(request, FrozenPrefixes(self.setup) if cache_features else None)

    def _resolve(self, request: PlanRequest, prefixes: FrozenPrefixes | None) -> Plan:
        groups = self.setup.optimizer.groups
        if not isinstance(request, FineTune):
            plans.check(request, groups)
            return request
        keeps_features = False
        if request.freeze_epochs is None and prefixes is not None:
            keeps_features = self._keeps_features(prefixes, request.freeze_views or 1)
        plan = request.plan(groups, keeps_features=keeps_features)
        plans.check(plan, groups)
        return plan

    def _keeps_features(self, prefixes: FrozenPrefixes, views: int) -> bool:
        """Whether all groups but the last, frozen, need run only once for each view."""
        suffix = prefixes.find_behind_all_but_the_last_group()
        # processes must agree, or they would run different plans
        is_refused = suffix is None or not features_fit(self.setup, suffix, views=views)
        return not distributed.any_process(is_refused, self.setup.runtime.device)

    def _load_run(self, checkpoint: Path, plan: Plan) -> Run:
        """Takes back a checkpoint of this plan; returns the run where it stood."""
        content = checkpoints.read(checkpoint)
        stored_plan = (content["run"] or {}).get("plan", [])
        if stored_plan != [phase.to_dict() for phase in plan]:
            raise CheckpointError(
                f"{str(checkpoint)!r} belongs to another plan; remove it, name another file, "
                "or repeat the call that wrote it"
            )
        self._check_continues(content["run"])
        self.load_state_dict(content, checkpoint)
        return Run.from_dict(content["run"], plan)

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
        prefixes = FrozenPrefixes(self.setup) if cache_features else None
        self._execute(self.run, callbacks, checkpoint, prefixes)

    def _check_continues(self, stored_run: dict[str, Any]) -> None:
        """Raises CheckpointError unless what is left of a run can go on as it began."""
        if stored_run["phase"] == len(stored_run["plan"]):
            return
        settings, steps = self.setup.settings, self.setup.steps_per_epoch
        checkpoints.check_settings(stored_run.get("settings", {}), settings.to_dict())
        # a position in an epoch means nothing when the epoch has another length
        if stored_run["steps"] != steps:
            raise CheckpointError(
                f"the interrupted run had {stored_run['steps']} steps an epoch, this data and "
                f"accumulation give {steps}; continue with the same data"
            )

    def _execute(
        self,
        run: Run,
        callbacks: Sequence[Callback],
        checkpoint: Path | None,
        prefixes: FrozenPrefixes | None,
        note: str = "",
    ) -> None:
        self.origin.keep()
        self._active = [*self.callbacks, *callbacks]
        for name, callback in named(self._active):
            if name in self._stored_callbacks:
                callback.load_state_dict(self._stored_callbacks[name])
        self._stored_callbacks = {}
        if prefixes is not None:
            prefixes = prefixes.of(self.setup)  # the runtime may have changed since planning
        loop = Loop(self.setup, self._active, self.save, checkpoint, prefixes, note, self.average)
        try:
            loop.run(run)
        finally:
            self._next_epoch = run.epochs_begun
            self._store_states_of_passing_callbacks()

    def _store_states_of_passing_callbacks(self) -> None:
        """Those of one fit only; the others keep their own state, and copying a long history
        would take its time."""
        lasting = {id(callback) for callback in self.callbacks}
        self._stored_callbacks = {
            name: callback.state_dict()
            for name, callback in named(self._active)
            if id(callback) not in lasting
        }

    # --- what holds for one state of the weights

    def weights_version(self) -> tuple[Any, ...]:
        """Differs after every change of the model: of its weights, its modules or its hooks.

        Of each tensor its identity and torch's count of changes are looked at, which costs
        microseconds; steps are counted besides, as what goes through `.data` escapes that count.
        """
        steps: tuple[int, ...] = (self._next_epoch,)
        if self.run is not None:
            steps = (self.run.epoch_number, self.run.step)
        modules = []
        for module in self.setup.model.modules():
            hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
            modules.append((id(module), hooks))
        tensors = [*self.setup.model.parameters(), *self.setup.model.buffers()]
        return (*steps, *modules, *((id(tensor), tensor._version) for tensor in tensors))

    @property
    def post_processing(self) -> PostProcessing:
        """What was fitted to the present weights; given up, with a warning, once they change."""
        fitted = self._post_processing
        if fitted != PostProcessing() and self._fitted_to != self.weights_version():
            self._post_processing = PostProcessing()
            if fitted.temperature != 1:
                _warn_of_change("calibrate()", "its temperature is", "calibrate")
            if fitted.thresholds:
                _warn_of_change("tune_thresholds()", "its thresholds are", "tune them")
        return self._post_processing

    @post_processing.setter
    def post_processing(self, fitted: PostProcessing) -> None:
        self._post_processing, self._fitted_to = fitted, self.weights_version()

    # --- files

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
        run = self._stored_run
        next_epoch = self._next_epoch
        if self.run is not None:
            run = self.run.to_dict(setup.steps_per_epoch, setup.settings.to_dict())
            next_epoch = self.run.epochs_begun
        fitted_to_present = self._fitted_to == self.weights_version()
        post_processing = self._post_processing if fitted_to_present else PostProcessing()
        group_states = {}
        for group in groups:
            group_states[group.name] = {
                "norm": group.norm,
                "values": dict(group.values),
                "base": dict(group.base),
            }
        callback_states = dict(self._stored_callbacks)
        for name, callback in named(self._active):
            callback_states[name] = callback.state_dict()
        return {
            "model": setup.model.state_dict(),
            "optimizer": {
                "classes": [group.optimizer for group in groups],
                "state": setup.optimizer.state_dict(),
                "settings": setup.optimizer.settings(),
            },
            "scaler": None if setup.scaler is None else setup.scaler.state_dict(),
            "groups": group_states,
            "frozen": groups.frozen_count,
            "run": run,
            "average": self.average.state_dict(),
            "post_processing": post_processing.to_dict(),
            "next_epoch": next_epoch,
            "seed": setup.data.seed,
            "classes": _as_list(setup.data.classes),
            "runtime": setup.runtime.to_dict(),
            "callbacks": callback_states,
            "versions": {"torch": str(torch.__version__), "timm": timm.__version__},
        }

    def load_state_dict(self, content: dict[str, Any], path: Path) -> None:
        """Checks everything first, so that an error leaves model and optimizer as they were."""
        self._check_fits(content, path)
        model, optimizer = self.setup.model, self.setup.optimizer
        # raises for state that does not fit, before it takes anything
        optimizer.load_state_dict(content["optimizer"]["state"])
        self.origin.keep()
        optimizer.load_settings(content["optimizer"]["settings"])
        self._use(self._runtime_to_continue(content["runtime"]))
        model.load_state_dict(content["model"])
        self.average = Average.restored(content.get("average"), model)
        if self.setup.scaler is not None and content["scaler"] is not None:
            self.setup.scaler.load_state_dict(content["scaler"])
        for group in optimizer.groups:
            state = content["groups"][group.name]
            group.norm = state["norm"]
            group.values, group.base = dict(state["values"]), dict(state["base"])
        optimizer.groups.freeze_to(content["frozen"])
        self.run, self._stored_run = None, content["run"]
        self._next_epoch = content["next_epoch"]
        self._active, self._stored_callbacks = self.callbacks, dict(content["callbacks"])
        for name, callback in named(self.callbacks):
            if name in self._stored_callbacks:
                callback.load_state_dict(self._stored_callbacks.pop(name))
        # files from before there was post-processing are without it
        self.post_processing = PostProcessing.from_dict(content.get("post_processing", {}))

    def _check_fits(self, content: dict[str, Any], path: Path) -> None:
        """Raises CheckpointError for a checkpoint of another model, optimizer or data."""
        setup, groups = self.setup, self.setup.optimizer.groups
        checkpoints.check_fits(path, content["model"], setup.model.state_dict())
        saved_and_present = {
            "layer groups": (list(content["groups"]), list(groups.names)),
            "optimizer": (
                content["optimizer"]["classes"],
                [group.optimizer for group in groups],
            ),
            "seed": (content["seed"], setup.data.seed),
            "classes": (content["classes"], _as_list(setup.data.classes)),
        }
        checkpoints.check_same(path, saved_and_present)

    def _runtime_to_continue(self, saved: dict[str, Any]) -> Runtime:
        """As the run began, unless the caller chose a runtime, or the device is another one."""
        runtime = self.setup.runtime
        if runtime.automatic and saved["device"] == runtime.device.type:
            return runtime.updated(saved)
        return runtime

    def _use(self, runtime: Runtime) -> None:
        if runtime != self.setup.runtime:
            runtime.place(self.setup.model)
            self.setup = replace(self.setup, runtime=runtime, scaler=runtime.gradient_scaler())


def _warn_of_change(call: str, what_is: str, again: str) -> None:
    # for who called the learner's method, which asked the trainer
    warnings.warn(
        f"the weights changed since {call}; {what_is} given up, {again} again", stacklevel=5
    )


def _as_list(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)
