"""Origin: the model before the first fit, to see afterwards which layers moved."""

import math

import torch
from torch import Tensor

from finetune.interpret.movement import Moved
from finetune.models.layer_groups import LayerGroups


class Origin:
    """Copies of all parameters and running statistics in main memory, from the first `keep` on."""

    def __init__(self, groups: LayerGroups) -> None:
        self.groups = groups
        self._kept: dict[str, Tensor] = {}

    def keep(self) -> None:
        """Only the first call counts."""
        if not self._kept:
            kept: dict[str, Tensor] = {
                name: p for group in self.groups for name, p in group.parameters.items()
            }
            for name, buffer in self.groups.model.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    kept[name] = buffer
            self._kept = {name: t.detach().to("cpu", copy=True) for name, t in kept.items()}

    def weights(self) -> dict[str, Tensor]:
        """By the name of the parameter or running statistic; empty before the first fit."""
        return dict(self._kept)

    @torch.no_grad()
    def movement(self) -> list[Moved]:
        """A row for every module with parameters of its own. Raises ValueError before a fit."""
        if not self._kept:
            raise ValueError("no layer has moved before the first fit; call fine_tune first")
        found: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
        for group in self.groups:
            for name, parameter in group.parameters.items():
                module = name.rpartition(".")[0] or name
                pair = parameter.detach().cpu().float(), self._kept[name].float()
                found.setdefault((module, group.name), []).append(pair)
        return [
            Moved(
                module,
                group,
                math.hypot(*((now - start).norm().item() for now, start in pairs)),
                math.hypot(*(start.norm().item() for _, start in pairs)),
                sum(start.numel() for _, start in pairs),
            )
            for (module, group), pairs in found.items()
        ]
