"""Fitted: post-processing, and the version of the weights that it was fitted to."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from finetune.tasks import PostProcessing
from finetune.wording import warn


def weights_version(model: nn.Module) -> tuple[Any, ...]:
    """A value that differs after every change of the model's weights, modules or hooks.

    It holds the identity of each tensor and torch's count of its changes, which costs microseconds
    to read. Changes through `.data` are not counted by torch, so that the number of steps belongs
    to it as well.
    """
    modules = []
    for module in model.modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        modules.append((id(module), hooks))
    tensors = []
    for tensor in (*model.parameters(), *model.buffers()):
        tensors.append((id(tensor), tensor._version))
    return (*modules, *tensors)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Post-processing, which holds for the data and the version of the weights it was fitted to."""

    post_processing: PostProcessing = field(default_factory=PostProcessing)
    version: tuple[Any, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was fitted, so that nothing can be out of date."""
        return self.post_processing == PostProcessing()

    def warn_of_changed_weights(self) -> None:
        """Tells the caller what is given up since the weights are other ones."""
        for call, loss in self._losses():
            warn(f"the weights changed since {call}; {loss}")

    def warn_of_other_data(self) -> None:
        """Tells the caller what is given up since the data are other ones."""
        for call, loss in self._losses():
            warn(f"{call} was for other data; {loss}")

    def _losses(self) -> list[tuple[str, str]]:
        """What is lost without it: the call that fitted it, and the way out."""
        losses = []
        if self.post_processing.temperature != 1:
            losses.append(("calibrate()", "its temperature is given up, calibrate again"))
        trusted = (self.post_processing.coverage, self.post_processing.familiarity)
        if trusted != (None, None):
            way_out = "its sets and what tells strange images are given up, calibrate again"
            losses.append(("calibrate(coverage=)", way_out))
        if self.post_processing.thresholds:
            losses.append(("tune_thresholds()", "its thresholds are given up, tune them again"))
        if self.post_processing.priors is not None:
            losses.append(("adjust_priors()", "its priors are given up, adjust them again"))
        return losses
