"""LayerGroup: neighbouring layers of a model that share their hyper-parameters."""

from dataclasses import dataclass, field

from torch import nn

from finetune.models.normalisation import NormPolicy, has_running_statistics


@dataclass(slots=True, eq=False)
class LayerGroup:
    """Neighbouring layers that share their hyper-parameters.

    parameters: trainable parameters by qualified name.
    modules: every module that lies wholly in this group.
    no_decay: names of the parameters that weight decay leaves alone: biases, normalisation layers,
    and what the model's own `no_weight_decay()` lists.
    norm: what the normalisation layers do in training:

    - "eval" normalises with the running statistics and never moves them; weight and bias of the
      layers train with the group.
    - "train" normalises with the statistics of the batch, which move the running ones, and trains
      weight and bias even while the group is frozen.
    - "follow" is "train" while the group trains, and "eval" while it is frozen.

    norm_parameters: names of the parameters of normalisation layers.
    frozen: whether the group is frozen, see `set_frozen`.
    values: the hyper-parameters in force, such as lr; `GroupOptimizer` reads them at every step.
    base: those that hold where a plan says nothing.
    peaks: the largest values in the phase that runs or ran last.
    optimizer: its name.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    modules: list[nn.Module]
    no_decay: frozenset[str]
    norm: NormPolicy
    norm_parameters: frozenset[str]
    frozen: bool = False
    values: dict[str, float] = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    optimizer: str = "-"

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    @property
    def trainable_count(self) -> int:
        return sum(p.numel() for p in self.parameters.values() if p.requires_grad)

    def set_frozen(self, frozen: bool) -> None:
        """Freezes or unfreezes the parameters of the group.

        A frozen parameter has `requires_grad=False` and no gradient. In a frozen group with the
        policy "train", weight and bias of normalisation layers are the exception: they still train.
        The modes of the modules change with `set_training_modes`.
        """
        self.frozen = frozen
        for name, parameter in self.parameters.items():
            trains_anyway = self.norm == "train" and name in self.norm_parameters
            if not frozen or trains_anyway:
                parameter.requires_grad_(True)
            else:
                parameter.requires_grad_(False)
                parameter.grad = None  # a stale gradient would still be applied by the optimizer

    def set_training_modes(self) -> None:
        """Puts frozen layers, and normalisation layers as the policy says, into eval mode.

        It is to be called after `model.train()`, which puts every layer into training mode.
        """
        for module in self.modules:
            if has_running_statistics(module):
                module.training = self._uses_batch_statistics
            elif self.frozen:
                module.training = False  # no dropout, no stochastic depth below the trained part

    @property
    def _uses_batch_statistics(self) -> bool:
        """Whether normalisation layers train with the batch's statistics, not the running ones."""
        if self.norm == "follow":
            return not self.frozen
        return self.norm == "train"
