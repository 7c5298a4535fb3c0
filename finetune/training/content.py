"""What a checkpoint holds: every entry is checked, by name, before anything of it is taken."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from finetune.models.normalisation import NORM_POLICIES
from finetune.optim.group_optimizer import GroupOptimizer
from finetune.tasks import PostProcessing
from finetune.training.checkpoint import EXTRA_STATE, CheckpointError
from finetune.training.runtime.runtime import Precision

_COUNTS_OF_RUN = ("steps", "first_epoch", "phase", "epoch", "step")
_FLAGS_OF_RUNTIME = ("channels_last", "convolutions", "fold", "compile")


@dataclass(frozen=True, slots=True)
class Entries:
    """A mapping in a checkpoint, whose entries are asked for by name.

    path: of the file. name: where in it the mapping is, such as "optimizer.", empty at its top.
    """

    path: Path
    content: Mapping[str, Any]
    name: str = ""

    def get(self, key: str, *kinds: type) -> Any:
        """The entry, which must be there, and of one of these kinds. True is no number."""
        if key not in self.content:
            raise CheckpointError(f"{str(self.path)!r} has no entry {self.name + key!r}")
        value = self.content[key]
        is_flag = isinstance(value, bool) and bool not in kinds
        if is_flag or not isinstance(value, kinds):
            raise self.wrong(key)
        return value

    def count(self, key: str, *, at_most: int | None = None) -> int:
        """The entry, a whole number of at least 0."""
        value: int = self.get(key, int)
        if value < 0 or (at_most is not None and value > at_most):
            raise self.wrong(key)
        return value

    def inside(self, key: str) -> "Entries":
        """The mapping that the entry is."""
        return Entries(self.path, self.get(key, dict), f"{self.name}{key}.")

    def numbers(self, key: str) -> dict[str, float]:
        """The entry, a mapping of names to numbers."""
        numbers = self.inside(key)
        return {name: numbers.get(name, Real) for name in numbers.content}

    def tensors(self, key: str) -> dict[str, Tensor]:
        """The entry, a mapping of names to tensors."""
        tensors = self.inside(key)
        return {name: tensors.get(name, Tensor) for name in tensors.content}

    def module_state(self, key: str) -> dict[str, Tensor]:
        """The tensors of the entry, a module's `state_dict`; its extra state may be anything."""
        state = self.inside(key)
        names = [name for name in state.content if not name.endswith(EXTRA_STATE)]
        return {name: state.get(name, Tensor) for name in names}

    def wrong(self, key: str) -> CheckpointError:
        """The error for an entry that can't be what was saved."""
        shown = repr(self.content[key])
        if len(shown) > 60:
            shown = f"a {type(self.content[key]).__name__}"
        return CheckpointError(
            f"{str(self.path)!r} is damaged or of another version: its entry "
            f"{self.name + key!r} can't be {shown}"
        )


def check(content: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError for a missing entry, and for one that can't be what was saved.

    Whether it is of this model and this optimizer is another question, see `checkpoint.check_fits`
    and `check_optimizer_fits`. Older files lack some entries.
    """
    entries = Entries(path, content)
    model = entries.module_state("model")
    if "loss" in content:
        entries.module_state("loss")
    if "loss_buffers" in content:
        entries.tensors("loss_buffers")
    _check_optimizer(entries.inside("optimizer"))
    _check_scaler(entries)
    groups = entries.inside("groups")
    for name in groups.content:
        _check_group(groups.inside(name))
    entries.count("frozen", at_most=len(groups.content) - 1)
    if entries.get("run", dict, type(None)) is not None:
        _check_run(entries.inside("run"))
    if content.get("average") is not None:
        _check_average(entries.inside("average"), model)
    if "between" in content:
        _check_between(entries, model)
    _check_post_processing(entries)
    entries.count("next_epoch")
    entries.get("seed", int)
    entries.get("classes", list, type(None))
    _check_runtime(entries.inside("runtime"))
    callbacks = entries.inside("callbacks")
    for name in callbacks.content:
        callbacks.get(name, dict)


def _check_optimizer(entries: Entries) -> None:
    entries.get("classes", list)
    state = entries.inside("state")
    for name in state.content:
        of_parameter = state.inside(name)
        for key in of_parameter.content:
            # some optimizers have a list of tensors for each parameter
            of_parameter.get(key, Tensor, Real, bool, str, type(None), list, tuple, dict)
    for settings in entries.get("settings", list):
        if not isinstance(settings, dict):
            raise entries.wrong("settings")


def check_optimizer_fits(content: Mapping[str, Any], path: Path, optimizer: GroupOptimizer) -> None:
    """Raises CheckpointError unless the optimizer can take the state and settings of a file."""
    entries = Entries(path, content).inside("optimizer")
    try:
        optimizer.check_fits(entries.content["state"])
    except ValueError as error:
        raise CheckpointError(f"{str(path)!r} does not fit: {error}") from error
    saved_settings = entries.content["settings"]
    present_settings = optimizer.settings()
    if len(saved_settings) != len(present_settings):
        raise entries.wrong("settings")
    for saved, present in zip(saved_settings, present_settings, strict=True):
        for key, value in saved.items():
            # what the present one lacks is an estimate that an optimizer makes later
            if key in present and not _is_alike(value, present[key]):
                raise CheckpointError(
                    f"{str(path)!r} has {key}={value!r} for an optimizer that has {present[key]!r}"
                )


def _is_alike(saved: Any, present: Any) -> bool:
    """Whether a setting of torch's param group may have been that of the present optimizer."""
    if isinstance(saved, tuple) and isinstance(present, tuple):
        return len(saved) == len(present) and all(isinstance(item, Real) for item in saved)
    if isinstance(saved, bool) or isinstance(present, bool):
        return type(saved) is type(present)
    if isinstance(saved, Real) and isinstance(present, Real):
        return True
    return saved is None or present is None or type(saved) is type(present)


def _check_scaler(entries: Entries) -> None:
    state = entries.get("scaler", dict, type(None))
    # an empty one is that of a scaler that is off
    if state:
        names = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
        scaler = entries.inside("scaler")
        for name in names:
            scaler.get(name, Real)


def _check_group(entries: Entries) -> None:
    if entries.get("norm", str) not in NORM_POLICIES:
        raise entries.wrong("norm")
    values, base = entries.numbers("values"), entries.numbers("base")
    if values.keys() != base.keys():
        raise entries.wrong("values")
    if "peaks" in entries.content:
        entries.numbers("peaks")
    if "frozen_by_hand" in entries.content:
        entries.get("frozen_by_hand", list)


def _check_run(entries: Entries) -> None:
    phases = entries.get("plan", list)
    for number, phase in enumerate(phases):
        if not isinstance(phase, dict):
            raise entries.wrong("plan")
        of_phase = Entries(entries.path, phase, f"{entries.name}plan.{number}.")
        of_phase.get("name", str)
        of_phase.count("epochs")
        of_phase.count("frozen")
        of_phase.get("peaks", dict)
        of_phase.get("schedules", dict)
    for name in _COUNTS_OF_RUN:
        entries.count(name)
    entries.count("phase", at_most=len(phases))
    entries.get("loss_sum", Real)
    entries.get("ended", str, type(None))
    for name in ("settings", "fingerprint"):
        if name in entries.content:
            entries.get(name, dict)


def _check_average(entries: Entries, model: Mapping[str, Tensor]) -> None:
    if not 0 < entries.get("decay", Real) < 1:
        raise entries.wrong("decay")
    entries.count("updates")
    entries.get("in_place", bool)
    averages = entries.inside("kept")
    for name, tensor in entries.tensors("kept").items():
        if name not in model or model[name].shape != tensor.shape:
            raise averages.wrong(name)


def _check_between(entries: Entries, model: Mapping[str, Tensor]) -> None:
    first_weights = entries.inside("between")
    for name, tensor in entries.tensors("between").items():
        # those of a loss are known to the loss alone
        if name in model and model[name].shape != tensor.shape:
            raise first_weights.wrong(name)


def _check_post_processing(entries: Entries) -> None:
    if "post_processing" not in entries.content:
        return
    fitted = entries.inside("post_processing")
    if "temperature" in fitted.content:
        fitted.get("temperature", Real)
    if fitted.content.get("thresholds") is not None:
        fitted.numbers("thresholds")
    tensors: dict[str, Tensor] = {}
    if "post_processing_tensors" in entries.content:
        tensors = entries.tensors("post_processing_tensors")
    try:
        PostProcessing.from_dict(fitted.content, tensors)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{str(entries.path)!r}: {error}") from error


def _check_runtime(entries: Entries) -> None:
    entries.get("device", str)
    if "precision" in entries.content and entries.get("precision", str) not in get_args(Precision):
        raise entries.wrong("precision")
    for name in _FLAGS_OF_RUNTIME:
        if name in entries.content:
            entries.get(name, bool)
