"""LayerGroup: neighbouring layers of a model that share their hyper-parameters."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from finetune.models.normalisation import NormPolicy, has_running_statistics


@dataclass(slots=True, eq=False)
class LayerGroup:
    """Neighbouring layers that share their hyper-parameters.

    parameters: by qualified name; those that are frozen by hand are among them.
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
    frozen_by_hand: names of the parameters for which the user set `requires_grad_(False)`. They
    never train, whatever is frozen or unfrozen here, until the user sets `requires_grad_(True)`.
    values: the hyper-parameters in force, such as lr; `GroupOptimizer` reads them at every step.
    base: those that hold where a plan says nothing.
    peaks: the largest values in the phase that runs or ran last.
    optimizer: its name.

    >>> from finetune import LayerGroups
    >>> head = LayerGroups.from_model(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))[-1]
    >>> head.name, head.parameter_count, sorted(head.no_decay)
    ('head', 8, ['1.bias'])
    """

    name: str
    parameters: dict[str, nn.Parameter]
    modules: list[nn.Module]
    norm: NormPolicy
    no_decay: frozenset[str] = frozenset()
    norm_parameters: frozenset[str] = frozenset()
    frozen: bool = False
    values: dict[str, float] = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    optimizer: str = "-"
    frozen_by_hand: set[str] = field(default_factory=set)
    _frozen_here: set[str] = field(default_factory=set)

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    @property
    def trainable_count(self) -> int:
        return sum(p.numel() for p in self.parameters.values() if p.requires_grad)

    def set_frozen(self, frozen: bool) -> None:
        """Freezes or unfreezes the parameters of the group that are not frozen by hand.

        A frozen parameter has `requires_grad=False` and no gradient. In a frozen group with the
        policy "train", weight and bias of normalisation layers are the exception: they still train.
        The modes of the modules change with `set_training_modes`.
        """
        self.notice_flags()
        self.frozen = frozen
        self._frozen_here.clear()
        for name, parameter in self.parameters.items():
            trains_anyway = self.norm == "train" and name in self.norm_parameters
            is_frozen_here = frozen and not trains_anyway
            if is_frozen_here:
                self._frozen_here.add(name)
            if is_frozen_here or name in self.frozen_by_hand:
                parameter.requires_grad_(False)
                parameter.grad = None  # a stale gradient would still be applied by the optimizer
            else:
                parameter.requires_grad_(True)

    def notice_flags(self) -> None:
        """Takes note of what the user has frozen, or released again, by `requires_grad_()`."""
        for name, parameter in self.parameters.items():
            if parameter.requires_grad:
                self.frozen_by_hand.discard(name)
            elif name not in self._frozen_here:
                self.frozen_by_hand.add(name)

    def freeze_by_hand(self, names: Iterable[str]) -> None:
        """Freezes parameters as the user did in the run that is resumed."""
        for name in names:
            if name in self.parameters:
                self.frozen_by_hand.add(name)
                self.parameters[name].requires_grad_(False)

    def rename(self, renamed: Mapping[str, str]) -> None:
        """Gives the notes about parameters their new names, and forgets those without one.

        renamed: name before -> name now.
        """
        self.frozen_by_hand = {renamed[n] for n in self.frozen_by_hand if n in renamed}
        self._frozen_here = {renamed[n] for n in self._frozen_here if n in renamed}

    def trains_if(self, frozen: bool) -> bool:
        """Whether any parameter would train in the group, frozen or not."""
        trainable = self.parameters.keys() - self.frozen_by_hand
        if not frozen:
            return bool(trainable)
        # norms that use the batch's statistics train in a frozen group, too
        return self.norm == "train" and bool(trainable & self.norm_parameters)

    def set_training_modes(self) -> None:
        """Puts frozen layers, and normalisation layers as the policy says, into eval mode.

        It is to be called after `model.train()`, and puts nothing into training mode itself: what
        is in eval mode then is so by the `train()` of the user's module.
        """
        frozen_by_hand = self._modules_frozen_by_hand()
        for module in self.modules:
            is_frozen = self.frozen or module in frozen_by_hand
            if has_running_statistics(module):
                if not self._uses_batch_statistics(is_frozen):
                    module.training = False
            elif is_frozen:
                module.training = False  # no dropout, no stochastic depth below the trained part

    def _modules_frozen_by_hand(self) -> set[nn.Module]:
        """The modules in which all parameters are frozen by hand, with what is inside them."""
        if not self.frozen_by_hand:
            return set()
        if len(self.frozen_by_hand) == len(self.parameters):
            return set(self.modules)
        frozen = {id(self.parameters[name]) for name in self.frozen_by_hand}
        modules: set[nn.Module] = set()
        for module in self.modules:
            parameters = list(module.parameters())
            if parameters and all(id(parameter) in frozen for parameter in parameters):
                modules.update(module.modules())
        return modules

    def _uses_batch_statistics(self, is_frozen: bool) -> bool:
        """Whether normalisation layers train with the batch's statistics, not the running ones."""
        if self.norm == "follow":
            return not is_frozen
        return self.norm == "train"
