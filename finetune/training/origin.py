"""Origin: the model before the first fit, to see afterwards which layers moved."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from finetune.distributed.sharding import norm, whole
from finetune.interpret.movement import Moved
from finetune.models.layer_group import LayerGroup
from finetune.models.layer_groups import LayerGroups
from finetune.models.model_change import ModelChange


class Origin:
    """Copies of all parameters and running statistics in main memory, made by `keep`."""

    def __init__(self, groups: LayerGroups) -> None:
        self.groups = groups
        self._weights: dict[str, Tensor] = {}

    def keep(self) -> None:
        """Copies the weights of which there is no copy: those that are here for the first time."""
        weights: dict[str, Tensor] = {}
        for group in self.groups:
            weights.update(group.parameters)
        for name, buffer in self.groups.model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                weights[name] = buffer
        for name, tensor in weights.items():
            if name not in self._weights:
                self._weights[name] = tensor.detach().to("cpu", copy=True)

    def follow(self, change: ModelChange) -> None:
        """Forgets the weights that the model no longer has, and renames the others."""
        parameters = {}
        for name_before, name in change.renamed.items():
            if name_before in self._weights:
                parameters[name] = self._weights[name_before]
        statistics = {}
        for name, buffer in self.groups.model.named_buffers():
            # torch does not tell a replaced buffer from one that was moved; its shape may
            if name in self._weights and self._weights[name].shape == buffer.shape:
                statistics[name] = self._weights[name]
        self._weights = {**parameters, **statistics}

    def weights(self) -> dict[str, Tensor]:
        """The copies by the name of the parameter or statistic; empty before the first fit.

        All processes ask together where the model is sharded.
        """
        return {name: whole(tensor) for name, tensor in self._weights.items()}

    @torch.no_grad()
    def movement(self) -> list[Moved]:
        """A row for every module with parameters of its own. Raises ValueError before a fit."""
        if not self._weights:
            raise ValueError("no layer has moved before the first fit; call fine_tune first")
        rows = []
        for group in self.groups:
            names_by_module: dict[str, list[str]] = {}
            for name in group.parameters:
                module = name.rpartition(".")[0] or name
                names_by_module.setdefault(module, []).append(name)
            for module, names in names_by_module.items():
                rows.append(self._module_movement(module, group, names))
        return rows

    def _module_movement(self, module: str, group: LayerGroup, names: Iterable[str]) -> Moved:
        """How far the parameters with these names, those of one module, have moved."""
        distances = []
        start_norms = []
        count = 0
        for name in names:
            now = group.parameters[name].detach().cpu().float()
            start = self._weights[name].float()
            distances.append(norm([now - start]).item())
            start_norms.append(norm([start]).item())
            count += start.numel()
        return Moved(module, group.name, math.hypot(*distances), math.hypot(*start_norms), count)
