"""Trainer: starts, continues, saves and loads runs; the state behind a Learner."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from finetune import distributed
from finetune.data.loaders import DataLoaders
from finetune.files.fingerprints import Fingerprint
from finetune.files.locks import held
from finetune.files.names import beside
from finetune.modes import usual_modes
from finetune.tasks import PostProcessing
from finetune.training import checkpoint as checkpoints
from finetune.training import plan as plans
from finetune.training.averaging import Average
from finetune.training.checkpoint import CheckpointError
from finetune.training.content import check as check_content
from finetune.training.content import check_optimizer_fits
from finetune.training.events import Callback, named
from finetune.training.fingerprint import check_continues, check_same_run, fingerprint_of
from finetune.training.frozen.feature_cache import features_fit
from finetune.training.frozen.prefixes import FrozenPrefixes
from finetune.training.loop import Loop
from finetune.training.loss_state import LossState
from finetune.training.origin import Origin
from finetune.training.phase import Phase, Plan
from finetune.training.plan import FineTune, PlanRequest
from finetune.training.run import Run
from finetune.training.runtime.runtime import Runtime
from finetune.training.setup import Setup
from finetune.wording import warn


class Trainer:
    """Runs plans, and holds all that affects the next step: setup, run and callbacks.

    callbacks: those of every run, the history first, so that a checkpoint has the latest row.
    """

    def __init__(self, setup: Setup, callbacks: Sequence[Callback]) -> None:
        self.setup = setup
        self.callbacks = list(callbacks)
        self.origin = Origin(setup.optimizer.groups)
        self.loss_state = LossState(setup.optimizer.groups)
        self.run: Run | None = None
        self.average = Average()
        self._next_epoch = 0
        self._stored_run: dict[str, Any] | None = None
        self._is_running = False
        self._active = self.callbacks
        self._stored_callbacks: dict[str, dict[str, Any]] = {}
        self._post_processing = PostProcessing()
        self._fingerprint: tuple[DataLoaders, Fingerprint] | None = None
        self._fitted_to: tuple[Any, ...] = ()  # the weights' version that it was fitted to

    # --- runs

    @usual_modes()
    def follow_model(self) -> None:
        """Takes over what the user changed in the model since the last run.

        See `LayerGroups.follow_model`. While a run goes on, it changes nothing: what callbacks do
        to the model then is not meant for the groups.
        """
        if self._is_running:
            return
        change = self.setup.optimizer.follow_model()
        if not change.is_empty:
            self.setup.runtime.place(self.setup.model)
            self.origin.follow(change)
            self.average.follow_change(change)

    @usual_modes()
    def start(
        self,
        request: PlanRequest,
        callbacks: Sequence[Callback],
        checkpoint: Path | None,
        *,
        cache_features: bool = True,
    ) -> bool:
        """Runs a plan from its beginning, or from the position in an existing `checkpoint`.

        Returns False if the run of the checkpoint has ended already. Raises CheckpointError if it
        holds another plan.
        """
        self.follow_model()
        prefixes = self._prefixes(cache_features)
        plan = self._resolve(request, prefixes)
        self.origin.keep()  # may lack the memory: nothing has begun or is forgotten then
        with self._locked(checkpoint, callbacks):
            if checkpoint is not None and checkpoint.exists():
                run = self._load_run(checkpoint, plan)
                if run.ended is not None:
                    self.run = run
                    return False
            else:
                fingerprint = fingerprint_of(self.setup, self._data_fingerprint)
                run = Run(plan, self._next_epoch, fingerprint=fingerprint)
                self._check_replaced_files(run, [*self.callbacks, *callbacks])
                self._stored_run = None
                self._stored_callbacks = {}
                self.average = Average(self.setup.settings.ema)
            self._execute(run, callbacks, checkpoint, prefixes)
        return True

    @property
    def _data_fingerprint(self) -> Fingerprint:
        """Computed once for the same data."""
        data = self.setup.data
        if self._fingerprint is None or self._fingerprint[0] is not data:
            self._fingerprint = data, data.fingerprint()
        return self._fingerprint[1]

    @contextmanager
    def _locked(self, checkpoint: Path | None, callbacks: Sequence[Callback]) -> Iterator[None]:
        """Holds the files that a run writes, one run at a time.

        Raises InUseError where another run holds one, and ValueError where two writers of this run
        have the same.
        """
        paths = [] if checkpoint is None else [checkpoint]
        for callback in (*self.callbacks, *callbacks):
            if callback.saves_to is not None:
                paths.append(callback.saves_to)
        # a folder may have several names; a link in the place of a file is replaced, not followed
        paths = [path.parent.resolve() / path.name for path in paths]
        for path in paths:
            if paths.count(path) > 1:
                raise ValueError(f"{str(path)!r} is to be written as two checkpoints; name another")
        with ExitStack() as locks:
            if distributed.rank() == 0:
                for path in paths:
                    locks.enter_context(held(beside(path, "lock"), repr(str(path))))
            yield

    def _prefixes(self, cache_features: bool) -> FrozenPrefixes | None:
        """What finds the frozen layers whose outputs are kept; None if the caller wants none."""
        if not cache_features:
            return None
        return FrozenPrefixes(self.setup)

    @usual_modes()
    def resolve(self, request: PlanRequest, *, cache_features: bool = True) -> Plan:
        """The plan that `start` would run; nothing of the learner changes.

        The defaults of `fine_tune` depend on whether the frozen layers' outputs can be kept, which
        running the model on two images shows. Raises ValueError for a plan that can't be run.
        """
        self.follow_model()
        return self._resolve(request, self._prefixes(cache_features))

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
        """Loads a checkpoint of this plan; returns the run at the position where it stood."""
        content = checkpoints.read(checkpoint)
        present = fingerprint_of(self.setup, self._data_fingerprint)
        plan_data = [phase.to_dict() for phase in plan]
        check_same_run(checkpoint, content["run"] or {}, plan_data, present)
        self._check_continues(content["run"])
        self.load_state_dict(content, checkpoint)
        return Run.from_dict(content["run"], plan)

    @usual_modes()
    def resume(
        self,
        callbacks: Sequence[Callback],
        checkpoint: Path | None,
        *,
        cache_features: bool = True,
    ) -> None:
        """Continues the run that was interrupted or stopped.

        Raises RuntimeError if there is no such run.
        """
        self.follow_model()
        run = self.run
        if run is None and self._stored_run is not None:
            check_continues(self._stored_run, fingerprint_of(self.setup, self._data_fingerprint))
            self._check_continues(self._stored_run)
            plan = tuple(map(Phase.from_dict, self._stored_run["plan"]))
            run = Run.from_dict(self._stored_run, plan)
        if run is None or run.phase == len(run.plan):
            raise RuntimeError("there is no unfinished run to resume; call one of the fits")
        self.origin.keep()
        run.ended = None
        with self._locked(checkpoint, callbacks):
            self._execute(run, callbacks, checkpoint, self._prefixes(cache_features))

    def _check_continues(self, stored_run: dict[str, Any]) -> None:
        """Raises CheckpointError unless the remainder of a run can continue as the run began."""
        is_finished = stored_run["phase"] == len(stored_run["plan"])
        if is_finished:
            return
        settings = self.setup.settings.to_dict()
        checkpoints.check_settings(stored_run.get("settings", {}), settings)
        steps = self.setup.steps_per_epoch
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
    ) -> None:
        """Runs the remainder of a run; callbacks continue with their states of the checkpoint."""
        self._active = [*self.callbacks, *callbacks]
        for name, callback in named(self._active):
            if name in self._stored_callbacks:
                callback.load_state_dict(self._stored_callbacks[name])
        self._stored_callbacks = {}
        # once more, for a run that continues: now the callbacks know which files are theirs
        self._check_replaced_files(run, self._active)
        if prefixes is not None:
            prefixes = prefixes.of(self.setup)  # the runtime may have changed since planning
        loop = Loop(self.setup, self._active, self.save, checkpoint, prefixes, self.average)
        self.run = run  # only now has it begun
        self._is_running = True
        try:
            loop.run(run)
        finally:
            self._is_running = False
            self._next_epoch = run.epochs_begun
            self._store_states_of_passing_callbacks()

    def _check_replaced_files(self, run: Run, callbacks: Sequence[Callback]) -> None:
        """Raises CheckpointError where a callback would replace the best epoch of another run."""
        plan_data = [phase.to_dict() for phase in run.plan]
        for callback in callbacks:
            path = callback.saves_to
            if path is None or callback.knows_its_file or not path.exists():
                continue
            stored_run = checkpoints.read(path)["run"] or {}
            check_same_run(path, stored_run, plan_data, run.fingerprint)

    def _store_states_of_passing_callbacks(self) -> None:
        """Stores the states of the callbacks of one fit, which a `resume` hands to new ones.

        The callbacks of every run are still there, and copying a long history would take time.
        """
        lasting = {id(callback) for callback in self.callbacks}
        self._stored_callbacks = {}
        for name, callback in named(self._active):
            if id(callback) not in lasting:
                self._stored_callbacks[name] = callback.state_dict()

    # --- data

    def use_data(self, data: DataLoaders) -> None:
        """Goes on with other data of the same classes and task; see `Learner.data`."""
        if self._is_running:
            raise RuntimeError("data can't be changed while a fit runs; stop it or let it end")
        before = self.setup.data
        if data.task.name != before.task.name:
            raise ValueError(
                f"data must be for task={before.task.name!r} as before, got {data.task.name!r}; "
                "make a new learner for another task"
            )
        if data.classes != before.classes:
            raise ValueError(
                f"data must have the classes of before, {_as_list(before.classes)}, got "
                f"{_as_list(data.classes)}; make a new learner for other classes"
            )
        if self._post_processing.temperature != 1:
            _warn_of_other_data("calibrate()", "its temperature is", "calibrate")
        if self._post_processing.thresholds:
            _warn_of_other_data("tune_thresholds()", "its thresholds are", "tune them")
        if self.run is not None:
            # as a run of a file, it is compared with the data before it is resumed
            self._stored_run = self._described(self.run)
            self.run = None
        self.setup = replace(self.setup, data=data)
        self.post_processing = PostProcessing()

    # --- the version of the weights, and what was fitted to one

    def weights_version(self) -> tuple[Any, ...]:
        """A value that differs after every change of the model's weights, modules or hooks.

        It holds the identity of each tensor and torch's count of its changes, which costs
        microseconds to read. It holds the number of steps as well, because torch does not count
        changes through `.data`.
        """
        steps: tuple[int, ...] = (self._next_epoch,)
        if self.run is not None:
            steps = (self.run.epoch_number, self.run.step)
        modules = []
        for module in self.setup.model.modules():
            hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
            modules.append((id(module), hooks))
        tensors = []
        for tensor in (*self.setup.model.parameters(), *self.setup.model.buffers()):
            tensors.append((id(tensor), tensor._version))
        return (*steps, *modules, *tensors)

    @property
    def post_processing(self) -> PostProcessing:
        """The post-processing that was fitted to the present weights.

        Once the weights have changed, it is given up with a warning.
        """
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
        self._post_processing = fitted
        self._fitted_to = self.weights_version()

    # --- files

    def save(self, path: Path) -> None:
        """Writes the state to a file; of several processes only the first one writes."""
        if distributed.rank() == 0:
            checkpoints.write(path, self.state_dict())

    @usual_modes()
    def load(self, path: Path) -> None:
        """Loads what `save` wrote; an error leaves everything as it was."""
        self.load_state_dict(checkpoints.read(path), path)

    def state_dict(self) -> dict[str, Any]:
        """Everything that affects the next step, by name, as tensors and plain data."""
        self.follow_model()
        setup = self.setup
        groups = setup.optimizer.groups
        run = self._stored_run
        next_epoch = self._next_epoch
        if self.run is not None:
            run = self._described(self.run)
            next_epoch = self.run.epochs_begun
        scaler_state = None
        if setup.scaler is not None:
            scaler_state = setup.scaler.state_dict()
        # not the property, which would warn of changed weights
        post_processing = PostProcessing()
        if self._fitted_to == self.weights_version():
            post_processing = self._post_processing
        return {
            "model": setup.model.state_dict(),
            "loss": self.loss_state.learned(),
            "loss_buffers": self.loss_state.moved_buffers(),
            "optimizer": {
                "classes": [group.optimizer for group in groups],
                "state": setup.optimizer.state_dict(),
                "settings": setup.optimizer.settings(),
                "mode": setup.optimizer.mode(),
            },
            "scaler": scaler_state,
            "groups": self._group_states(),
            "frozen": groups.frozen_count,
            "run": run,
            "average": self.average.state_dict(),
            "post_processing": post_processing.to_dict(),
            "next_epoch": next_epoch,
            "seed": setup.data.seed,
            "classes": _as_list(setup.data.classes),
            "runtime": setup.runtime.to_dict(),
            "callbacks": self._callback_states(),
            "versions": {"torch": str(torch.__version__), "timm": timm.__version__},
        }

    def _described(self, run: Run) -> dict[str, Any]:
        """A run as plain data; its fingerprint is without what has moved in the loss."""
        setup = self.setup
        described = run.to_dict(setup.steps_per_epoch, setup.settings.to_dict())
        for name in self.loss_state.moved_buffers():
            described["fingerprint"].pop(f"loss {name}", None)
        return described

    def _group_states(self) -> dict[str, dict[str, Any]]:
        states = {}
        for group in self.setup.optimizer.groups:
            states[group.name] = {
                "norm": group.norm,
                "values": dict(group.values),
                "base": dict(group.base),
                "peaks": dict(group.peaks),
                "frozen_by_hand": sorted(group.frozen_by_hand),
            }
        return states

    def _callback_states(self) -> dict[str, dict[str, Any]]:
        """The states of present callbacks, and those that were stored and not yet handed on."""
        states = dict(self._stored_callbacks)
        for name, callback in named(self._active):
            states[name] = callback.state_dict()
        return states

    def load_state_dict(self, content: dict[str, Any], path: Path) -> None:
        """Loads what `state_dict` returned. path: of the file, for errors.

        Everything is checked first, so that an error leaves model and optimizer as they were.
        """
        self.follow_model()
        check_content(content, path)
        self._check_fits(content, path)
        check_optimizer_fits(content, path, self.setup.optimizer)
        self.origin.keep()
        self._load_callback_states(content["callbacks"], path)
        model = self.setup.model
        optimizer = self.setup.optimizer
        optimizer.load_state_dict(content["optimizer"]["state"])
        optimizer.load_settings(content["optimizer"]["settings"])
        self._use(self._runtime_to_continue(content["runtime"]))
        model.load_state_dict(content["model"])
        optimizer.load_mode(content["optimizer"].get("mode", {}))
        self.loss_state.load(content.get("loss", {}), content.get("loss_buffers", {}))
        self.average = Average.restored(content.get("average"), model)
        if self.setup.scaler is not None and content["scaler"] is not None:
            self.setup.scaler.load_state_dict(content["scaler"])
        for group in optimizer.groups:
            state = content["groups"][group.name]
            group.norm = state["norm"]
            group.values = dict(state["values"])
            group.base = dict(state["base"])
            # older files are without peaks
            group.peaks = dict(state.get("peaks", {}))
            group.freeze_by_hand(state.get("frozen_by_hand", []))
        optimizer.groups.freeze_to(content["frozen"])
        self.run = None
        self._stored_run = content["run"]
        self._next_epoch = content["next_epoch"]
        # older files have no post-processing
        self.post_processing = PostProcessing.from_dict(content.get("post_processing", {}))

    def _load_callback_states(self, states: dict[str, dict[str, Any]], path: Path) -> None:
        """Loads those of the callbacks of every run; stores the others for the run to come.

        Only a callback itself knows what it can take, so that after an error all get their states
        back. Raises CheckpointError with the callback's name.
        """
        states_of_others = dict(states)
        states_before: list[tuple[Callback, dict[str, Any]]] = []
        for name, callback in named(self.callbacks):
            if name not in states_of_others:
                continue
            states_before.append((callback, callback.state_dict()))
            try:
                callback.load_state_dict(states_of_others.pop(name))
            except Exception as error:  # of a callback that somebody else wrote
                for changed, state in states_before:
                    changed.load_state_dict(state)
                raise CheckpointError(
                    f"{str(path)!r} has an entry 'callbacks.{name}' that it can't take: {error!r}"
                ) from error
        self._active = self.callbacks
        self._stored_callbacks = states_of_others

    def _check_fits(self, content: dict[str, Any], path: Path) -> None:
        """Raises CheckpointError for a checkpoint of another model, optimizer or data."""
        setup = self.setup
        groups = setup.optimizer.groups
        checkpoints.check_fits(path, content["model"], setup.model.state_dict())
        if "loss" in content:  # older files have none
            expected = self.loss_state.expected(content["loss"])
            checkpoints.check_fits(path, content["loss"], expected, of="loss")
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
        """The runtime of the run so far, unless the caller chose one or the device differs."""
        runtime = self.setup.runtime
        if runtime.automatic and saved["device"] == runtime.device.type:
            return runtime.updated(saved)
        return runtime

    def _use(self, runtime: Runtime) -> None:
        if runtime == self.setup.runtime:
            return
        runtime.place(self.setup.model)
        self.setup = replace(self.setup, runtime=runtime, scaler=runtime.gradient_scaler())


def _warn_of_other_data(call: str, what_is: str, again: str) -> None:
    warn(f"{call} was for other data; {what_is} given up, {again} again")


def _warn_of_change(call: str, what_is: str, again: str) -> None:
    warn(f"the weights changed since {call}; {what_is} given up, {again} again")


def _as_list(names: Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    return list(names)
