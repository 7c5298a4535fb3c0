"""FrozenPrefixes: the frozen beginning of a model, found and proven once for plan and phase."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from finetune import distributed, turns
from finetune.data.loaders import IndexedLoader
from finetune.nested import count_examples
from finetune.randomness import isolated, seed_everything
from finetune.training.frozen.prefix import Suffix
from finetune.training.runtime.folding import FoldedNorms, results_of, same_results
from finetune.training.runtime.modules import eval_mode
from finetune.training.setup import Setup

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")

Autocast: TypeAlias = Callable[[], AbstractContextManager[object]]


class FrozenPrefixes:
    """What may train on kept features, for the groups that are frozen.

    A search runs the model a few times. What planning found serves the phase that comes next, so
    that both ask for the same proof without paying for it twice; every other phase is proven anew.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        # by the state of the model: what planning found and no phase has used yet
        self._planned: dict[tuple[Any, ...], Suffix | None] = {}

    def find(self) -> Suffix | None:
        """What may train on kept features with the groups that are frozen now, and the modes.

        None where no beginning is frozen, or results would not be those of the model, or the
        examples have no numbers by which features could be kept.
        """
        state = _state_of(self._setup.model)
        is_new = state not in self._planned
        # a search shares weights among the processes, so all of them search or none does
        if distributed.any_process(is_new):
            return self._search()
        return self._planned.pop(state)

    def find_behind_all_but_the_last_group(self) -> Suffix | None:
        """What may train on kept features if all groups but the last are frozen.

        None where one of these groups would still have to run in every step. The model is frozen
        for the search, and is as it was afterwards. A phase that freezes them finds the same.
        """
        groups = self._setup.optimizer.groups
        if len(groups) < 2:
            return None
        with flags_restored(self._setup):
            groups.freeze_to(len(groups) - 1)
            groups.set_training_modes()
            suffix = self._search()
            self._planned[_state_of(self._setup.model)] = suffix
        if suffix is None:
            return None
        skipped: set[int] = set()
        for module in suffix.skipped:
            skipped.update(map(id, module.parameters()))
        for group in groups[:-1]:
            if any(id(parameter) not in skipped for parameter in group.parameters.values()):
                return None
        return suffix

    def of(self, setup: Setup) -> "FrozenPrefixes":
        """These for the same setup; none yet for one with another runtime, whose outputs differ."""
        return self if setup.runtime == self._setup.runtime else FrozenPrefixes(setup)

    def _search(self) -> Suffix | None:
        setup = self._setup
        train, valid = setup.data.train, setup.data.valid
        if not isinstance(train, IndexedLoader):
            return None
        if valid is not None and not isinstance(valid, IndexedLoader):
            return None
        distributed.share_weights(setup.model)
        images = _first_images(setup, train)
        if not isinstance(images, Tensor):
            return None
        return find_suffix(setup.model, images, setup.runtime.autocast)


def _first_images(setup: Setup, train: IndexedLoader) -> Any:
    """Up to two of the first training images as the model gets them."""
    numbers = torch.arange(min(2, count_examples(train.targets)))
    with isolated(), closing(train.fetch([numbers])) as batches:
        raw_batch = next(batches).to(setup.runtime.device)
        return setup.data.prepare(raw_batch, None).inputs


def _state_of(model: nn.Module) -> tuple[Any, ...]:
    """What the result of a search depends on, to be compared: layers, modes, hooks, flags."""
    modules = []
    for module in model.modules():
        attributes = vars(module)
        # the mode among them, and what a model's own code may branch on
        plain = []
        for name, value in attributes.items():
            if isinstance(value, (bool, int, float, str)) and not name.startswith("_"):
                plain.append((name, value))
        replaced = [id(attributes.get(name)) for name in ("forward", "_compiled_call_impl")]
        hooks = []
        for name in _HOOKS:
            hooks.append(tuple(attributes[name]))  # numbers of handles, which come only once
        modules.append((id(module), tuple(plain), tuple(replaced), tuple(hooks)))
    parameters = [(id(p), p.requires_grad) for p in model.parameters()]
    return (*modules, *parameters)


@contextmanager
def flags_restored(setup: Setup) -> Iterator[None]:
    """Groups, parameters and modules have the flags of before on leaving, and their gradients."""
    groups = list(setup.optimizer.groups)
    frozen_before = [group.frozen for group in groups]
    parameters = [(p, p.requires_grad, p.grad) for p in setup.model.parameters()]
    modes = [(module, module.training) for module in setup.model.modules()]
    try:
        yield
    finally:
        for group, frozen in zip(groups, frozen_before, strict=True):
            group.set_frozen(frozen)
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode


def find_suffix(model: nn.Module, images: Tensor, autocast: Autocast) -> Suffix | None:
    """What may train on kept features; None where the results would not be those of the model.

    model: with the modes and flags of training; it is left as it was. images: [N, ...], some to
    try it on. autocast: what goes around a forward pass.
    """
    with turns.alone(), _untouched(model), torch.no_grad():
        try:
            with autocast():
                suffix = Suffix.find(model, images[[0, -1]])
            if suffix is None:
                return None
            # one more than was watched: a size that has nothing to do with their number shows
            return suffix if _is_proven(suffix, images[[0, -1, 0]], autocast) else None
        except Exception:  # NaN that is changed in place, no room: all will run in every step
            return None


def _is_proven(suffix: Suffix, images: Tensor, autocast: Autocast) -> bool:
    """Whether outputs and gradients are those of the whole model, and features always the same."""
    nothing_folded = FoldedNorms([])
    with suffix.active():
        with eval_mode(suffix.model):
            with autocast():
                features = suffix.prefix(images)
            # each in a context of its own, since autocast keeps weights that it converted
            with autocast():
                expected = results_of(suffix.model, images, nothing_folded)
            with autocast():
                results = results_of(suffix, features, nothing_folded)
        if not same_results(expected, results):
            return False
        seed_everything(0, "prefix")
        numbers_without_prefix = _next_random_numbers(images.device)
        seed_everything(0, "prefix")
        with autocast():
            features_again = suffix.prefix(images)
        if _next_random_numbers(images.device) != numbers_without_prefix:
            return False  # something in the prefix draws
        if not torch.equal(features, features_again):
            return False
        # in train mode, too, nothing may go round the boundary: it would be NaN
        with autocast():
            outputs = tree_leaves(suffix(features))
    return not any(isinstance(output, Tensor) and bool(output.isnan().any()) for output in outputs)


def _next_random_numbers(device: torch.device) -> list[float]:
    """One number of each generator that dropout may draw from."""
    on_device, on_cpu = torch.rand((), device=device), torch.rand(())
    return [float(on_device), float(on_cpu), random.random(), float(np.random.rand())]


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Buffers and random generators are as before on leaving: copies stand in for the buffers."""
    buffers = []
    for owner in model.modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                buffers.append((owner._buffers, name, buffer))
    with isolated():
        try:
            for owned, name, buffer in buffers:
                owned[name] = buffer.clone()
            yield
        finally:
            for owned, name, buffer in buffers:
                owned[name] = buffer
