"""The loop: runs a plan from any position on. It reads like the docstring of `events`."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from finetune import distributed
from finetune.data.loaders import next_batches
from finetune.distributed.sharding import forget_pass, is_sharded
from finetune.distributed.together import leave
from finetune.randomness import isolated
from finetune.tasks.ranking import is_worse
from finetune.training.averaging import Average
from finetune.training.between import Between
from finetune.training.divergence import DivergenceError
from finetune.training.evaluation import validate
from finetune.training.events import (
    Answer,
    Callback,
    EmptyStep,
    EpochEnd,
    EpochStart,
    Event,
    FitEnd,
    FitStart,
    PhaseStart,
    PointBetween,
    Save,
    StepEnd,
    Stop,
    deliver,
    deliver_last,
)
from finetune.training.frozen.feature_cache import FeatureCache
from finetune.training.frozen.prefixes import FrozenPrefixes
from finetune.training.interrupt import Interruption, deferred_signals
from finetune.training.overflow import OverflowWatch
from finetune.training.pending import Pending
from finetune.training.phase import Phase
from finetune.training.probing import probe_kept
from finetune.training.run import Run
from finetune.training.runtime.allocator import keep_freed_memory
from finetune.training.setup import Setup
from finetune.training.step import TrainStep
from finetune.training.update_meter import UpdateMeter
from finetune.wording import warn

DELAY = 16
"""Steps whose losses are read together on an accelerator, since reading one makes it wait."""


class _Stopped(Exception):  # noqa: N818  (control flow, not an error)
    """A callback has returned Stop."""

    def __init__(self, answer: Stop) -> None:
        super().__init__(answer.reason)
        self.answer = answer


@dataclass(slots=True)
class Loop:
    """Runs plans: trains, validates, tells the callbacks and writes checkpoints.

    save: writes a checkpoint to a path, for all processes, which call it together. checkpoint: the
    path of the run's checkpoint, written after every epoch, at an interruption, and inside long
    epochs every `checkpoint_seconds`; None writes none. prefixes: finds the frozen layers whose
    outputs are kept; None keeps none. average: of the weights. between: the first weights of a
    phase that interpolates.
    """

    setup: Setup
    callbacks: Sequence[Callback]
    save: Callable[[Path], None]
    checkpoint: Path | None = None
    prefixes: FrozenPrefixes | None = None
    average: Average = field(default_factory=Average)
    between: Between = field(default_factory=Between)
    checkpoint_seconds: float = 60.0
    _interruption: Interruption = field(default_factory=Interruption)
    _pending: Pending = field(default_factory=Pending)
    _saved_at: float = 0.0
    _overflow: OverflowWatch = field(init=False)
    _has_said_nan: bool = False

    def __post_init__(self) -> None:
        self._overflow = OverflowWatch(self.setup.scaler)

    def run(self, run: Run) -> None:
        """Runs the rest of the plan. FitEnd reaches every callback, however the run ends."""
        reason = "finished"
        failure: BaseException | None = None
        model = self.setup.model
        if self.setup.runtime.device.type == "cpu":
            keep_freed_memory()
        self._saved_at = time.monotonic()
        try:
            with (
                isolated(),
                deferred_signals() as self._interruption,
                self.average.aside(model),
                self.setup.optimizer.weights.training(),
                self._unfreezing_at_end(run),
            ):
                self._run_phases(run)
            self._overflow.warn_if_nothing_moved()
            # a run that ends otherwise can be resumed, and then needs the weights that train
            self.average.forget()
            self.between.forget()
            run.ended = reason
            self._write_checkpoint()
        except _Stopped as stop:
            run.ended = reason = f"stopped: {stop.answer.reason}"
            self._write_checkpoint()
        except (KeyboardInterrupt, SystemExit) as error:
            reason, failure = "interrupted", error
            raise
        except BaseException as error:
            reason, failure = f"failed: {error}", error
            # steps that are done belong in the history; the other processes may be elsewhere
            if distributed.world_size() == 1:
                with suppress(Exception):
                    self._emit_pending(run)
            raise
        finally:
            # callbacks may take their time for the end, for which nobody has to wait
            leave(failure)
            self._pending.clear()
            self.setup.optimizer.zero_grad()
            if failure is not None:
                forget_pass(model)
            model.eval()
            error_at_end = deliver_last(self.callbacks, FitEnd(reason))
        if error_at_end is not None:
            raise error_at_end
        # a signal may have arrived while the run was ending by itself
        if self._interruption:
            raise self._interruption.error()

    @contextmanager
    def _unfreezing_at_end(self, run: Run) -> Iterator[None]:
        """Unfreezes what the last phase has frozen, if it says so, however it ends."""
        try:
            yield
        finally:
            is_in_last_phase = run.phase >= len(run.plan) - 1
            if is_in_last_phase and run.plan[-1].unfreezes_at_end:
                self.setup.optimizer.groups.freeze_to(0)

    def _run_phases(self, run: Run) -> None:
        """Runs the rest of the plan, phase by phase; each begins with freezing."""
        groups = self.setup.optimizer.groups
        self._emit(
            FitStart(
                phases=tuple(phase.name for phase in run.plan),
                epochs=sum(phase.epochs for phase in run.plan),
                steps_per_epoch=self.setup.steps_per_epoch,
                groups=groups.names,
                first_epoch=run.epochs_done,
                validates=self.setup.data.valid is not None,
                metrics=tuple(self.setup.metrics),
            )
        )
        note = ""
        while run.phase < len(run.plan):
            phase = run.plan[run.phase]
            groups.freeze_to(phase.frozen)
            groups.set_training_modes()
            peaks = phase.largest()
            groups.begin_phase(peaks)
            self._emit(PhaseStart(phase.name, phase.epochs, phase.frozen, run.epoch, peaks, note))
            # a function of its own, so that its kept features are freed before the next phase
            note = self._run_phase(run, phase)

    def _run_phase(self, run: Run, phase: Phase) -> str:
        """Runs the rest of a phase; returns why it ended early, or an empty text."""
        features = self._feature_cache(run, phase)
        setup = self.setup
        skipping_prefix: AbstractContextManager[None] = nullcontext()
        if features is not None:
            setup = features.setup
            skipping_prefix = features.suffix.active()
        with skipping_prefix:
            # after freezing: a wrapper made earlier would not reduce what is unfrozen later
            net = distributed.averaged(setup.runtime.compiled(setup.model))
            # wrapping has given all processes the same weights
            self.average.follow(self.setup.model)
            meter = UpdateMeter(self.callbacks, measures_together=is_sharded(self.setup.model))
            step = TrainStep(net, setup, meter=meter, average=self.average)
            if phase.interpolate:
                with step.evaluating():
                    self.between.begin(self.setup.optimizer.groups)
            note = ""
            index = run.phase
            while run.phase == index:
                try:
                    self._run_epoch(run, phase, step, features)
                except _Stopped as stop:
                    note = self._leave_phase(run, index, stop)
        return note

    def _leave_phase(self, run: Run, index: int, stop: _Stopped) -> str:
        """Ends phase `index` if only the phase is to stop, else raises `stop`.

        Returns why the phase ended early; an empty text if it was over anyway.
        """
        is_last_phase = index + 1 == len(run.plan)
        if not stop.answer.phase_only or is_last_phase:
            raise stop
        if run.phase != index:
            return ""
        run.leave_phase(index)
        return f"{run.plan[index].name} stopped: {stop}"

    def _feature_cache(self, run: Run, phase: Phase) -> FeatureCache | None:
        """The kept outputs of the frozen layers; None if none are frozen, or can be kept."""
        if self.prefixes is None or not phase.frozen:
            return None
        return FeatureCache.create(self.setup, phase, run.first_epoch_of_phase, self.prefixes)

    def _run_epoch(
        self, run: Run, phase: Phase, step: TrainStep, features: FeatureCache | None
    ) -> None:
        """Runs the rest of an epoch: its features, its steps, its validation."""
        started_at = time.perf_counter()
        steps_per_epoch = 1 if phase.probe else self.setup.steps_per_epoch
        self._emit(EpochStart(phase.name, run.epoch, steps_per_epoch, run.step))
        if features is not None:
            self._fill(features, run)
        # a callback, or the filling of the cache, may have changed the modes
        self.setup.optimizer.groups.set_training_modes()
        if phase.probe:
            self._probe(run, features)
        elif run.step < steps_per_epoch:
            self._run_steps(run, phase, step)
        else:
            # a run that was interrupted behind its last step ends with the values of that step
            self._set_values(run, phase, steps_per_epoch - 1)
        # what a callback exports, predicts or validates is what was validated
        with step.evaluating():
            results = {} if step.setup.data.valid is None else validate(step.setup)
            self._mention_nan(results, phase.name, run.epoch)
            between: PointBetween | None = None
            if self._interpolates_now(run, phase, results):
                groups = self.setup.optimizer.groups
                between = self.between.choose(groups, results, partial(validate, step.setup))
                results = dict(between.results)
            mean_loss = run.mean_loss(steps_per_epoch)
            seconds = time.perf_counter() - started_at
            epoch_end = EpochEnd(
                phase.name, run.epoch, mean_loss, results, seconds, run.epoch_number, between
            )
            # before the event: a checkpoint that a callback asks for begins there
            run.next_epoch(results)
            answers = self._deliver(epoch_end)
        self._act(answers)
        # after the last epoch `run` does it, when the run is marked as ended
        if run.phase < len(run.plan):
            self._write_checkpoint()
        self._check_interruption(run)

    @staticmethod
    def _interpolates_now(run: Run, phase: Phase, results: Mapping[str, float]) -> bool:
        """Whether the weights between are looked for after this epoch, which has these results."""
        is_last_epoch = run.epoch + 1 == phase.epochs
        if not is_last_epoch or phase.interpolate != "if worse":
            return is_last_epoch and bool(phase.interpolate)
        return bool(results and run.results_before) and is_worse(results, run.results_before)

    def _fill(self, features: FeatureCache, run: Run) -> None:
        """Runs the frozen layers on what the epoch needs and the cache lacks."""
        with closing(features.fill(run.epoch_number)) as precomputed:
            for event in precomputed:
                self._emit(event)
                self._check_interruption(run)

    def _probe(self, run: Run, features: FeatureCache | None) -> None:
        """Makes the head the best linear one on the kept features, in place of an epoch's steps."""
        if features is None:
            raise RuntimeError(
                "the features of the frozen layers can't be kept here, as they could be where the "
                "plan was made; there may be less memory, or cache_features=False: give "
                "freeze_epochs= for a head that is trained by steps"
            )
        run.loss_sum = probe_kept(features, run.epoch_number)
        # the average would still be of the head as it was
        self.average.forget()
        self.average.follow(self.setup.model)

    def _run_steps(self, run: Run, phase: Phase, step: TrainStep) -> None:
        """Runs the remaining steps of an epoch."""
        data = step.setup.data
        accumulate = step.setup.settings.accumulate
        epoch_number = run.epoch_number
        steps_per_epoch = self.setup.steps_per_epoch
        view = phase.view(run.epoch, run.first_epoch_of_phase)
        # closed at once: workers and generators must not outlive an error
        with closing(data.train.epoch(data.seed, epoch_number, run.step * accumulate)) as batches:
            for number in range(run.step, steps_per_epoch):
                batches_left = len(data.train) - number * accumulate
                step_batches = next_batches(batches, min(accumulate, batches_left))
                row = self._set_values(run, phase, number)
                try:
                    loss = step(step_batches, view, epoch=epoch_number, step=number)
                except DivergenceError as error:
                    raise self._diverged(error, row) from None
                self._pending.add(row, loss, step.meter.take())
                run.step = number + 1
                self._overflow.steps += loss is not None
                self._after_step(run, row)

    def _after_step(self, run: Run, row: StepEnd) -> None:
        """Emits what is pending and looks for signals, as often as it costs no time."""
        is_last = run.step == self.setup.steps_per_epoch
        is_time_to_read = is_last or run.step % DELAY == 0
        if is_time_to_read or self.setup.runtime.device.type == "cpu":
            self._emit_pending(run)
        # the loss of a next step shows a broken update; the last one has no next step
        if is_last and not self.setup.weights_are_finite():
            raise self._diverged(DivergenceError("the weights are no longer finite"), row)
        if is_last:
            self._overflow.check_steps()
        if is_time_to_read or distributed.world_size() == 1:
            self._check_interruption(run)
            if self._checkpoint_is_due():
                self._emit_pending(run)
                self._write_checkpoint()

    def _mention_nan(self, results: Mapping[str, float], phase: str, epoch: int) -> None:
        """Warns of a validation loss that is NaN, once a run; it would be easy to overlook."""
        if self._has_said_nan or not math.isnan(results.get("loss", 0.0)):
            return
        self._has_said_nan = True
        warn(
            f"the validation loss is NaN after epoch {epoch + 1} of phase {phase!r}: there is NaN "
            "in the validation data or in the model's outputs for them, or the loss ignores all of "
            "their targets"
        )

    def _checkpoint_is_due(self) -> bool:
        if self.checkpoint is None:
            return False
        is_due = time.monotonic() - self._saved_at > self.checkpoint_seconds
        return distributed.any_process(is_due)

    def _set_values(self, run: Run, phase: Phase, step: int) -> StepEnd:
        """Sets the hyper-parameters of a step; returns its event, with a loss that is still NaN."""
        optimizer = self.setup.optimizer
        for name, per_group in phase.at(run.epoch, step, self.setup.steps_per_epoch).items():
            optimizer.groups.set_values(name, per_group)
        lr = tuple(group.values["lr"] for group in optimizer.groups)
        momentum: tuple[float, ...] = ()
        if optimizer.has_momentum:
            momentum = tuple(group.values.get("momentum", 0.0) for group in optimizer.groups)
        return StepEnd(
            phase.name, run.epoch, step, math.nan, lr, momentum, phase.frozen, run.epoch_number
        )

    def _emit_pending(self, run: Run) -> None:
        """Reads the numbers of the pending steps and emits their events."""
        answers: list[Answer] = []
        for event in self._pending.read():
            if isinstance(event, EmptyStep):
                run.empty_steps += 1
            elif isinstance(event, StepEnd):
                if not math.isfinite(event.loss):
                    error = DivergenceError(f"the training loss is {event.loss}")
                    raise self._diverged(error, event)
                run.loss_sum += event.loss
            answers += self._deliver(event)
        # only now: the later steps are done, and belong in what an answer saves
        self._act(answers)

    def _check_interruption(self, run: Run) -> None:
        """Saves and raises if a signal has arrived in any of the processes."""
        if distributed.any_process(bool(self._interruption)):
            self._emit_pending(run)
            self._write_checkpoint()
            raise self._interruption.error()

    def _emit(self, event: Event) -> None:
        self._act(self._deliver(event))

    def _deliver(self, event: Event) -> list[Answer]:
        """Hands an event to every callback in turn; returns their answers."""
        return [deliver(callback, event) for callback in self.callbacks]

    def _act(self, answers: Sequence[Answer]) -> None:
        """Does what the callbacks asked for; saves first, so that a stop loses nothing."""
        for answer in answers:
            if answer is not None and not isinstance(answer, Save | Stop):
                raise TypeError(f"a callback answers Stop(...), Save(...) or None, not {answer!r}")
        saves, stop = _of_all_processes(answers)
        for path in saves:
            self._save(path)
        if stop is not None:
            raise _Stopped(stop)

    def _write_checkpoint(self) -> None:
        if self.checkpoint is not None:
            self._save(self.checkpoint)
            self._saved_at = time.monotonic()

    def _save(self, path: Path) -> None:
        """Writes a checkpoint. Raises DivergenceError if the weights are not finite."""
        # the loss was computed before the last update, so that only the weights can show it
        if not self.setup.weights_are_finite():
            raise DivergenceError(
                f"the weights are no longer finite and were not saved; {_state_of_file(path)}; "
                "lower the learning rate or set clip_norm"
            )
        self.save(path)

    def _diverged(self, error: DivergenceError, row: StepEnd) -> DivergenceError:
        """The same error, with the step, its learning rates and the checkpoint to go back to."""
        return error.at(row, self.setup.optimizer.groups.names, self.checkpoint)


def _of_all_processes(answers: Sequence[Answer]) -> tuple[list[Path], Stop | None]:
    """The files to be saved and why to stop, which all processes do if one is asked to.

    Every process asks.
    """
    answers_of_each: list[Sequence[Answer]] = [answers]
    if distributed.world_size() > 1:
        if not distributed.any_process(any(answer is not None for answer in answers)):
            return [], None
        answers_of_each = distributed.gathered_objects(answers)
    # by their paths, in order, each once
    saves: dict[Path, None] = {}
    stops: list[tuple[int, Stop]] = []
    for process, answers_of_one in enumerate(answers_of_each):
        for answer in answers_of_one:
            if isinstance(answer, Save):
                saves[answer.path] = None
            elif isinstance(answer, Stop):
                stops.append((process, answer))
    if not stops:
        return list(saves), None
    process, stop = stops[0]
    if process > 0:
        stop = replace(stop, reason=f"{stop.reason} (in process {process})")
    return list(saves), stop


def _state_of_file(path: Path) -> str:
    return f"{path} is as it was" if path.exists() else f"there is no {path}"
