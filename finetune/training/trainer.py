"""Trainer: makes a plan a run and runs it; and the state of it all, to save and to load."""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from finetune import distributed
from finetune.data.loaders import DataLoaders
from finetune.distributed.sharding import is_sharded, whole_content
from finetune.distributed.together import by_first, together
from finetune.files.fingerprints import Fingerprint
from finetune.modes import usual_modes
from finetune.probe.linear_probe import LinearProbe
from finetune.tasks import PostProcessing
from finetune.training import checkpoint as checkpoints
from finetune.training import plan as plans
from finetune.training import run_files, setup_state
from finetune.training.averaging import Average
from finetune.training.between import Between
from finetune.training.budget import Budget, choose_plan
from finetune.training.callback_states import CallbackStates
from finetune.training.checkpoint import CheckpointError
from finetune.training.content import check as check_content
from finetune.training.evaluation import validate
from finetune.training.events import Callback, EpochEnd
from finetune.training.fingerprint import check_continues, check_same_run, fingerprint_of
from finetune.training.fitted import Fitted, weights_version
from finetune.training.frozen.feature_cache import head_on_features
from finetune.training.frozen.prefixes import FrozenPrefixes
from finetune.training.loop import Loop
from finetune.training.loss_state import LossState
from finetune.training.origin import Origin
from finetune.training.phase import Phase, Plan
from finetune.training.plan import FineTune, HeadTraining, PlanRequest
from finetune.training.probing import can_probe, run_probe
from finetune.training.run import Run
from finetune.training.setup import Setup
from finetune.training.soup import Ingredient, Soup, check_fits, make_soup


class Trainer:
    """Runs plans, and holds all that affects the next step: setup, run and callbacks.

    callbacks: those of every run, the history first, so that a checkpoint has the latest row.
    """

    def __init__(self, setup: Setup, callbacks: Sequence[Callback]) -> None:
        self.setup = setup
        self.origin = Origin(setup.optimizer.groups)
        self.loss_state = LossState(setup.optimizer.groups)
        self.run: Run | None = None
        self.average = Average()
        self.between = Between()
        self._callbacks = CallbackStates(callbacks)
        self._next_epoch = 0
        self._stored_run: dict[str, Any] | None = None
        self.is_running = False
        self._fitted = Fitted()
        self._fingerprint: tuple[DataLoaders, Fingerprint] | None = None

    # --- runs

    @usual_modes()
    def follow_model(self) -> None:
        """Takes over what the user changed in the model since the last run.

        See `LayerGroups.follow_model`. While a run goes on, it changes nothing: what callbacks do
        to the model then is not meant for the groups.
        """
        if self.is_running:
            return
        change = self.setup.optimizer.follow_model()
        if not change.is_empty:
            if is_sharded(self.setup.model):
                raise ValueError(
                    "layers of the model were added or replaced after it was sharded, and these "
                    "would not be; change the model before the learner is made"
                )
            self.setup.runtime.place(self.setup.model)
            self.origin.follow(change)
            self.average.follow_change(change)
            self.between.follow_change(change)

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
        with together("a fit"):
            return self._start(request, callbacks, checkpoint, cache_features=cache_features)

    def _start(
        self,
        request: PlanRequest,
        callbacks: Sequence[Callback],
        checkpoint: Path | None,
        *,
        cache_features: bool,
    ) -> bool:
        self.follow_model()
        prefixes = self._prefixes(cache_features)
        plan = self._resolve(request, prefixes)
        self.origin.keep()  # may lack the memory: nothing has begun or is forgotten then
        all_callbacks = self._callbacks.with_lasting(callbacks)
        with run_files.locked(checkpoint, all_callbacks):
            content = _stored_content(checkpoint)
            if checkpoint is not None and content is not None:
                run = self._load_run(checkpoint, content, plan)
                if run.ended is not None:
                    self.run = run
                    return False
            else:
                fingerprint = fingerprint_of(self.setup, self._data_fingerprint)
                run = Run(plan, self._next_epoch, fingerprint=fingerprint)
                run_files.check_replaced(run, all_callbacks)
                self._stored_run = None
                self._callbacks.forget_waiting()
                self.average = Average(self.setup.settings.ema)
                self.between = Between()
            self._execute(run, callbacks, checkpoint, prefixes)
        return True

    @property
    def _data_fingerprint(self) -> Fingerprint:
        """Computed once for the same data."""
        data = self.setup.data
        if self._fingerprint is None or self._fingerprint[0] is not data:
            self._fingerprint = data, data.fingerprint()
        return self._fingerprint[1]

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
        # the frozen layers of a plan that is given need not be looked for
        with together("a plan") if isinstance(request, FineTune) else nullcontext():
            self.follow_model()
            return self._resolve(request, self._prefixes(cache_features))

    @usual_modes()
    def plan_within(
        self, budget: Budget, checkpoint: Path | None, *, cache_features: bool = True
    ) -> Plan:
        """The plan that the minutes allow; that of the checkpoint, if it was chosen for this call.

        So a run that goes on does what it was doing, however fast the machine is by then. Nothing
        of the learner changes.
        """
        started_at = time.perf_counter()
        with together("a plan"):
            self.follow_model()
            request = budget.request
            head = self._head_training(request, self._prefixes(cache_features))
            groups = self.setup.optimizer.groups
            content = _stored_content(checkpoint)
            if content is not None:
                stored = (content["run"] or {}).get("plan")
                for plan in budget.plans(groups, head=head):
                    if [phase.to_dict() for phase in plan] == stored:
                        return plan
            return choose_plan(budget, self.setup, started_at, head=head)

    def _head_training(self, request: FineTune, prefixes: FrozenPrefixes | None) -> HeadTraining:
        """How the head may be trained alone."""
        if request.freeze_epochs is not None or prefixes is None:
            return "steps"
        suffix = head_on_features(self.setup, prefixes, views=request.freeze_views or 1)
        if suffix is None:
            return "steps"
        if request.freeze_views is None and can_probe(self.setup, suffix):
            return "probe"
        return "kept features"

    def _resolve(self, request: PlanRequest, prefixes: FrozenPrefixes | None) -> Plan:
        groups = self.setup.optimizer.groups
        if isinstance(request, FineTune):
            plan = request.plan(groups, head=self._head_training(request, prefixes))
        else:
            plan = request
        plans.check(plan, groups)
        plans.check_can_choose(plan, validates=self.setup.data.valid is not None)
        return plan

    def _load_run(self, checkpoint: Path, content: dict[str, Any], plan: Plan) -> Run:
        """Loads a checkpoint of this plan; returns the run at the position where it stood."""
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
        with together("resume()"):
            self._resume(callbacks, checkpoint, cache_features=cache_features)

    def _resume(
        self, callbacks: Sequence[Callback], checkpoint: Path | None, *, cache_features: bool
    ) -> None:
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
        with run_files.locked(checkpoint, self._callbacks.with_lasting(callbacks)):
            self._execute(run, callbacks, checkpoint, self._prefixes(cache_features))

    @usual_modes()
    def probe(self, callbacks: Sequence[Callback], *, views: int, folds: int) -> LinearProbe:
        """Makes the head a linear probe of the frozen layers; see `Learner.probe`.

        An unfinished run is given up: it could not go on with another head.
        """
        self._check_no_fit_runs()
        self.follow_model()
        self.origin.keep()
        self.is_running = True
        try:
            with together("probe()"):
                probe = run_probe(
                    self.setup,
                    self._callbacks.with_lasting(callbacks),
                    views=views,
                    folds=folds,
                    epoch_number=self._next_epoch,
                )
        finally:
            self.is_running = False
        self._give_up_run()
        self.follow_model()
        return probe

    @usual_modes()
    def soup(self, ingredients: Sequence[Ingredient]) -> tuple[Soup, EpochEnd]:
        """Gives the model the soup of these; see `Learner.soup`. Also returns its row of history.

        An unfinished run is given up: it could not go on from other weights.
        """
        self._check_no_fit_runs()
        self.follow_model()
        setup = self.setup
        if is_sharded(setup.model):
            raise ValueError(
                "a soup keeps several models as a whole, for which sharding='full' has no room; "
                "save each learner, and make the soup of the files in one process"
            )
        if setup.data.valid is None:
            raise ValueError("a soup is chosen by validation, and there is no validation data")
        for ingredient in ingredients:
            check_fits(ingredient, setup.model, setup.data.classes)
        self.origin.keep()
        started_at = time.perf_counter()
        with together("soup()"):
            soup = make_soup(setup.model, ingredients, partial(validate, setup))
        seconds = time.perf_counter() - started_at
        row = EpochEnd("soup", 0, math.nan, soup.validation, seconds, self._next_epoch)
        self._give_up_run()
        return soup, row

    def _check_no_fit_runs(self) -> None:
        if self.is_running:
            raise RuntimeError("weights can't be changed while a fit runs; stop it or let it end")

    def _give_up_run(self) -> None:
        """Forgets the last run, after weights have come from elsewhere."""
        self.run = None
        self._stored_run = None
        self.average = Average()
        self.between = Between()
        # the row of the history has a number of its own, so that it is later than all steps so far
        self._next_epoch += 1

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
        active_callbacks = self._callbacks.begin_fit(callbacks)
        # once more, for a run that continues: now the callbacks know which files are theirs
        run_files.check_replaced(run, active_callbacks)
        if prefixes is not None:
            prefixes = prefixes.of(self.setup)  # the runtime may have changed since planning
        loop = Loop(
            self.setup,
            active_callbacks,
            self.save,
            checkpoint,
            prefixes,
            self.average,
            self.between,
        )
        self.run = run  # only now has it begun
        self.is_running = True
        try:
            loop.run(run)
        finally:
            self.is_running = False
            self._next_epoch = run.epochs_begun
            self._callbacks.end_fit()

    # --- data

    def use_data(self, data: DataLoaders) -> None:
        """Goes on with other data of the same classes and task; see `Learner.data`."""
        if self.is_running:
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
        self._fitted.warn_of_other_data()
        # as a run of a file, it is compared with the data before it is resumed
        self._stored_run = self._run_state()
        self.run = None
        self.setup = replace(self.setup, data=data)
        self._fitted = Fitted()

    # --- what was fitted to the weights

    def weights_version(self) -> tuple[Any, ...]:
        """A value that differs after every change of the model, see `fitted.weights_version`."""
        steps: tuple[int, ...] = (self._next_epoch,)
        if self.run is not None:
            steps = (self.run.epoch_number, self.run.step)
        return (*steps, *weights_version(self.setup.model))

    @property
    def post_processing(self) -> PostProcessing:
        """The post-processing that was fitted to the present weights.

        Once the weights have changed, it is given up with a warning.
        """
        if not self._fitted.is_empty and self._fitted.version != self.weights_version():
            self._fitted.warn_of_changed_weights()
            self._fitted = Fitted()
        return self._fitted.post_processing

    @post_processing.setter
    def post_processing(self, post_processing: PostProcessing) -> None:
        self._fitted = Fitted(post_processing, self.weights_version())

    # --- files

    def save(self, path: Path) -> None:
        """Writes the state to a file; called by all processes, whose first one writes.

        The others wait until the file is there, and an error of the first one is raised in all.
        """
        content: dict[str, Any] = {}
        if is_sharded(self.setup.model):
            content = whole_content(self.state_dict())
        elif distributed.rank() == 0:
            content = self.state_dict()
        distributed.of_first(lambda: checkpoints.write(path, content))

    def save_by_first(self, path: Path) -> None:
        """As `save`, but the first process may call it alone; with a sharded model all must."""
        name = f"save({str(path)!r})"
        if is_sharded(self.setup.model):
            with together(name):
                self.save(path)
            return
        by_first(name, lambda: checkpoints.write(path, self.state_dict()))

    @usual_modes()
    def load(self, path: Path) -> None:
        """Loads what `save` wrote; an error leaves everything as it was."""
        self.load_state_dict(checkpoints.read(path), path)

    def state_dict(self) -> dict[str, Any]:
        """Everything that affects the next step, by name, as tensors and plain data."""
        self.follow_model()
        # not the property, which would warn of changed weights
        fitted = self._fitted
        if fitted.version != self.weights_version():
            fitted = Fitted()
        next_epoch = self._next_epoch if self.run is None else self.run.epochs_begun
        return {
            **setup_state.state_of(self.setup),
            "loss": self.loss_state.learned(),
            "loss_buffers": self.loss_state.moved_buffers(),
            "run": self._run_state(),
            "average": self.average.state_dict(),
            "between": self.between.state_dict(),
            "post_processing": fitted.post_processing.to_dict(),
            "post_processing_tensors": fitted.post_processing.tensors(),
            "next_epoch": next_epoch,
            "callbacks": self._callbacks.state_dict(),
        }

    def _run_state(self) -> dict[str, Any] | None:
        """The present run, or the one that was loaded, with what it continues with; or None."""
        if self.run is None:
            return self._stored_run
        state = self.run.to_dict(self.setup.steps_per_epoch, self.setup.settings.to_dict())
        # what has moved in the loss is state, and no setting to compare
        for name in self.loss_state.moved_buffers():
            state["fingerprint"].pop(f"loss {name}", None)
        return state

    def load_state_dict(self, content: dict[str, Any], path: Path) -> None:
        """Loads what `state_dict` returned. path: of the file, for errors.

        Everything is checked first, so that an error leaves model and optimizer as they were.
        """
        self.follow_model()
        check_content(content, path)
        setup_state.check_fits(self.setup, content, path)
        if "loss" in content:  # older files have none
            expected = self.loss_state.expected(content["loss"])
            checkpoints.check_fits(path, content["loss"], expected, of="loss")
        self.origin.keep()
        self._callbacks.load_state_dict(content["callbacks"], path)
        self.setup = setup_state.load(self.setup, content)
        self.loss_state.load(content.get("loss", {}), content.get("loss_buffers", {}))
        self.average = Average.restored(content.get("average"), self.setup.model)
        self.between = Between.restored(content.get("between"), self.setup.optimizer.groups)
        self.run = None
        self._stored_run = content["run"]
        self._next_epoch = content["next_epoch"]
        # older files have no post-processing
        self.post_processing = PostProcessing.from_dict(
            content.get("post_processing", {}), content.get("post_processing_tensors")
        )


def _stored_content(checkpoint: Path | None) -> dict[str, Any] | None:
    """What is in a checkpoint, None where there is none.

    Of several processes the first one reads, which has written it, perhaps to a disk of its own.
    """
    if checkpoint is None:
        return None
    return distributed.of_first(
        lambda: checkpoints.read(checkpoint) if checkpoint.exists() else None
    )


def _as_list(names: Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    return list(names)
