"""FeatureTap: a model in evaluation that gives its backbone's features beside its outputs."""

import threading
from typing import Any

from torch import Tensor, nn

from finetune.inference.features import BACKBONE
from finetune.models.evaluation_view import evaluation_view
from finetune.nested import main_output


class FeatureTap:
    """A view of a model, and what its submodule "backbone" gave in the last call of this thread.

    model: runs as any model; several threads may call it at once.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = evaluation_view(model)
        self._last = threading.local()
        backbone = dict(self.model.named_children()).get(BACKBONE)
        if backbone is not None:
            backbone.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._last.features = main_output(output)

    def take(self) -> Tensor | None:
        """The pooled features [B, F] of the last call, float32 on the CPU, and forgets them.

        None for a model without a backbone, or one whose backbone gives something else.
        """
        features = vars(self._last).pop("features", None)
        if not isinstance(features, Tensor) or features.ndim != 2:
            return None
        return features.float().cpu()
