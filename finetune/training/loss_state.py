"""LossState: what a loss has learned and counted, which a checkpoint takes with it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from finetune.models.layer_groups import LayerGroups


class LossState:
    """The state of a loss: its parameters, and those of its buffers that have moved.

    A running mean moves with every step. The weights of classes are a buffer, too, but stay as they
    were given: they are a setting, which a fingerprint compares and a checkpoint does not replace.
    So a buffer is state once it differs from what it was when the learner got the loss.

    groups: know the module behind the loss. What belongs to the model is saved with it.
    """

    def __init__(self, groups: LayerGroups) -> None:
        self._groups = groups
        self._given: dict[str, Tensor] = {}
        for name, value in self._entries().items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self._given[name] = value.detach().to("cpu", copy=True)

    def _entries(self) -> dict[str, Any]:
        """What `state_dict` of the loss has beside the model's, with the tensors themselves."""
        module = self._groups.loss_module
        if module is None:
            return {}
        model = self._groups.model
        of_model = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        entries = module.state_dict(keep_vars=True)
        return {name: value for name, value in entries.items() if id(value) not in of_model}

    def learned(self) -> dict[str, Any]:
        """The parameters, and the loss's own extra state."""
        learned = {}
        for name, value in self._entries().items():
            if isinstance(value, nn.Parameter):
                learned[name] = value.detach()
            elif not isinstance(value, Tensor):
                learned[name] = value
        return learned

    def moved_buffers(self) -> dict[str, Tensor]:
        """The buffers that differ from what they were, and new ones."""
        moved = {}
        for name, value in self._entries().items():
            if not isinstance(value, Tensor) or isinstance(value, nn.Parameter):
                continue
            at_first = self._given.get(name)
            if at_first is None or not torch.equal(at_first, value.cpu()):
                moved[name] = value
        return moved

    def expected(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """What `learned` of a file must have: all parameters, and what else the file names of it.

        Older files have the buffers among what was learned.
        """
        module = self._groups.loss_module
        expected = {k: value for k, value in self.learned().items() if isinstance(value, Tensor)}
        if module is not None:
            expected |= {k: value for k, value in module.state_dict().items() if k in saved}
        return expected

    def load(self, learned: Mapping[str, Any], moved_buffers: Mapping[str, Tensor]) -> None:
        """Takes what `learned` and `moved_buffers` gave; other buffers are as they were given.

        A buffer that the loss does not have is left out: the file is of a run with another loss,
        whose weights may be taken, and which can't be resumed.
        """
        module = self._groups.loss_module
        if module is None:
            return
        for name, value in self._given.items():
            _set_buffer(module, name, value)
        if learned:
            module.load_state_dict({**module.state_dict(), **learned})
        for name, value in moved_buffers.items():
            _set_buffer(module, name, value)


@contextmanager
def unmoved_buffers(module: nn.Module | None) -> Iterator[None]:
    """Puts the buffers of a loss back on leaving the block, where it sees a batch once more."""
    before = {}
    if module is not None:
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    yield
    if module is not None:
        for name, value in before.items():
            _set_buffer(module, name, value)


@torch.no_grad()
def _set_buffer(module: nn.Module, name: str, value: Tensor) -> None:
    """Sets a buffer that may be None or of another shape so far, as that of a queue that grows."""
    path, _, key = name.rpartition(".")
    owners = dict(module.named_modules())
    if path not in owners or key not in owners[path]._buffers:
        return
    present = owners[path]._buffers[key]
    if present is not None and present.shape == value.shape and present.dtype == value.dtype:
        present.copy_(value)
        return
    device = torch.device("cpu") if present is None else present.device
    setattr(owners[path], key, value.to(device, copy=True))
