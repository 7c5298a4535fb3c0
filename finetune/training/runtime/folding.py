"""A BatchNorm in eval mode is a scale and a shift: it is folded into the convolution before it.

    norm(conv(x, W)) = conv(x, s W) + (beta - mean s),   s = gamma / sqrt(var + eps)

That is exact, and differentiable in W, gamma and beta. The layer neither passes over its input nor
keeps it for the backward pass, which is nearly half of what a network like EfficientNet keeps.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from finetune.randomness import isolated

_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class FoldedNorms:
    """The convolutions and norms of a model that run as one while `active`.

    Weights and buffers stay where they are, under their names; only what the layers see differs.
    """

    def __init__(self, pairs: list[tuple[nn.Module, nn.Module]], *, training: bool = True) -> None:
        self.pairs, self.training = pairs, training
        self._kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}  # by convolution

    @classmethod
    def find(cls, model: nn.Module, inputs: Tensor, *, training: bool = True) -> "FoldedNorms":
        """Pairs of a convolution that trains and a norm in eval mode that alone gets its output.

        inputs: a few images, to see which layer feeds which, and that outputs and gradients stay
        the same: if they don't, nothing is folded. training: False finds all pairs, also those with
        a frozen convolution, for as long as weights and statistics stay as they are. The model is
        left as it was.
        """
        norms = [m for m in model.modules() if type(m) in _NORMS and not m.training]
        norms = [norm for norm in norms if norm.running_mean is not None]
        if computes_again(model) or not norms:
            return cls([])
        with isolated(), eval_mode(model):
            folded = cls(_watch(model, inputs, set(norms), training), training=training)
            if not folded.pairs:
                return folded
            plain = results_of(model, inputs, cls([]), training)
            same = same_results(plain, results_of(model, inputs, folded, training))
        return folded if same else cls([])

    def active(self) -> AbstractContextManager[None]:
        """Put it around a forward pass; a norm that is in train mode by now is left alone."""
        return self._active() if self.pairs else nullcontext()

    @contextmanager
    def _active(self) -> Iterator[None]:
        try:
            for conv, norm in self.pairs:
                if norm.training:
                    continue
                # an instance's own attributes come before its registered parameters
                weight, bias = self._kept.get(conv) or _folded(conv, norm)
                if not self.training:
                    self._kept[conv] = weight, bias
                conv.__dict__.update(weight=weight, bias=bias)
                norm.__dict__["forward"] = _Activation(norm)
            yield
        finally:
            for conv, norm in self.pairs:
                conv.__dict__.pop("weight", None)
                conv.__dict__.pop("bias", None)
                norm.__dict__.pop("forward", None)


class _Activation:
    """What is left of a norm: timm's have dropout and an activation built in."""

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm if isinstance(norm, BatchNormAct2d) else None

    def __call__(self, x: Tensor) -> Any:
        return x if self.norm is None else self.norm.act(self.norm.drop(x))


def _folded(conv: nn.Module, norm: Any) -> tuple[Tensor, Tensor]:
    weight, bias = conv._parameters["weight"], conv._parameters["bias"]
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale if bias is None else (bias - norm.running_mean) * scale
    assert weight is not None
    return weight * scale.view(-1, 1, 1, 1), shift if norm.bias is None else shift + norm.bias


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """As model.eval(), which may do more; the modes are as before on leaving."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def computes_again(model: nn.Module) -> bool:
    """Whether outputs are computed again in the backward pass, where no context of ours is open."""
    flags = ("grad_checkpointing", "gradient_checkpointing")  # timm's, transformers'
    return any(getattr(module, flag, False) for module in model.modules() for flag in flags)


class _Consumers(TorchFunctionMode):
    """Notes every use of a convolution's output that is not its norm's."""

    def __init__(self, norms: set[nn.Module], training: bool) -> None:
        super().__init__()
        self.norms, self.training = norms, training
        self.source: dict[int, nn.Module] = {}  # id of an output -> its convolution
        self.outputs: list[Tensor] = []  # held, so that no other gets its id
        self.inside: nn.Module | None = None  # the norm that is running
        self.used: dict[nn.Module, list[object]] = {}  # convolution -> norms and others
        self.calls: dict[nn.Module, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.inside is None and getattr(func, "__name__", "") != "__get__":
            for value in tree_leaves((args, kwargs)):
                self.note(value, func)
        return func(*args, **kwargs)

    def note(self, value: object, user: object) -> None:
        if id(value) in self.source:
            self.used[self.source[id(value)]].append(user)

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.calls[module] = self.calls.get(module, 0) + 1
        if module in self.norms:
            self.inside = module
        if module in self.norms or not any(part in self.norms for part in module.modules()):
            for value in args:
                self.note(value, module)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if module is self.inside:
            self.inside = None
        wanted = _trains(module) if self.training else "weight" in module._parameters
        if type(module) in _CONVOLUTIONS and wanted and is_free(module, own=1):
            self.source[id(output)] = module
            self.outputs.append(output)
            self.used.setdefault(module, [])


@torch.no_grad()
def _watch(
    model: nn.Module, inputs: Tensor, norms: set[nn.Module], training: bool = True
) -> list[tuple[nn.Module, nn.Module]]:
    """Convolutions whose output goes to one of the norms only; both are called once."""
    seen = _Consumers({norm for norm in norms if is_free(norm)}, training)
    hooks = [module.register_forward_pre_hook(seen.enter) for module in model.modules()]
    hooks += [module.register_forward_hook(seen.leave) for module in model.modules()]
    try:
        with seen:
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (conv, users[0])
        for conv, users in seen.used.items()
        if len(users) == 1 and isinstance(users[0], nn.Module) and users[0] in seen.norms
        if seen.calls[conv] == seen.calls[users[0]] == 1
    ]


def results_of(
    model: nn.Module, inputs: Tensor, folded: FoldedNorms, training: bool = True
) -> list[Tensor]:
    """Output, and the gradient of every weight that trains; none where it is no single tensor."""
    weights = [p for p in model.parameters() if p.requires_grad and training]
    with torch.set_grad_enabled(bool(weights)):
        with folded.active():
            output = model(inputs)
        if not isinstance(output, Tensor):
            return []
        loss = output.square().mean()
        found = torch.autograd.grad(loss, weights, allow_unused=True) if weights else ()
    return [output.detach(), *(g for g in found if g is not None)]


def same_results(expected: list[Tensor], found: list[Tensor]) -> bool:
    if not expected or len(expected) != len(found):
        return False
    # of gradients that are all rounding
    floor = 1e-5 * max((float(e.norm()) for e in expected[1:]), default=0.0)
    return all(
        float((e - f).norm()) <= 1e-2 * float(e.norm()) + floor
        for e, f in zip(expected, found, strict=True)
    )


def _trains(conv: nn.Module) -> bool:
    weight = conv._parameters.get("weight")  # a parametrised one has none under this name
    return weight is not None and weight.requires_grad


def is_free(module: nn.Module, own: int = 0) -> bool:
    """Nobody listens to what goes in and out. own: how many hooks of each kind are ours."""
    forward = max(len(module._forward_hooks), len(module._forward_pre_hooks)) <= own
    backward = module._backward_hooks or module._backward_pre_hooks
    return forward and not backward and "forward" not in vars(module)
