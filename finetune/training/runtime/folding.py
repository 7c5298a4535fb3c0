"""A BatchNorm in eval mode is a scale and a shift: it is folded into the convolution before it.

    norm(conv(x, W)) = conv(x, s W) + (beta - mean s),   s = gamma / sqrt(var + eps)

That is exact, and differentiable in W, gamma and beta. The norm then neither passes over its input
nor keeps it for the backward pass; these inputs are nearly half of what a network like EfficientNet
keeps.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from finetune.distributed.sharding import is_sharded, local
from finetune.randomness import isolated
from finetune.training.runtime.modules import computes_again, eval_mode, is_free

_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class FoldedNorms:
    """Convolutions of a model, each with the norm that is folded into it while `active()`."""

    def __init__(self, folds: list[tuple[nn.Module, nn.Module]], *, training: bool = True) -> None:
        self.folds = folds  # convolution and norm of each
        self.training = training
        # by convolution; outside of training the weights stay as they are, and are folded once
        self._folded_weights: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    @classmethod
    def find(cls, model: nn.Module, inputs: Tensor, *, training: bool = True) -> "FoldedNorms":
        """Finds each convolution that trains and whose output only a norm in eval mode reads.

        The model runs once to see which layer reads what, and twice more to prove that outputs and
        gradients stay the same with the norms folded; if they do not, nothing is folded. The model
        is left as it was.

        inputs: a few images. training: False also folds norms into frozen convolutions; the result
        holds for as long as weights and statistics do not change.
        """
        norms = _norms_in_eval_mode(model)
        if not norms or computes_again(model):
            return cls([])
        # outside of training another thread may be drawing, whose generators must not be set back
        keep_generators = isolated() if training else nullcontext()
        with keep_generators, eval_mode(model):
            folded = cls(_find_folds(model, inputs, norms, training), training=training)
            if not folded.folds:
                return folded
            expected = results_of(model, inputs, cls([]), training)
            results = results_of(model, inputs, folded, training)
        if not same_results(expected, results):
            return cls([])
        return folded

    def active(self) -> AbstractContextManager[None]:
        """Folds the norms inside of this context; put it around a forward pass.

        Weights and buffers stay where they are, under their names; only what the layers see
        differs. A norm that is in train mode by now is left alone. The layers are patched and
        restored, so only one thread may use the model meanwhile.
        """
        if not self.folds:
            return nullcontext()
        return self._active()

    @contextmanager
    def _active(self) -> Iterator[None]:
        try:
            for conv, norm in self.folds:
                if norm.training:
                    continue
                weight, bias = self._folded_weights.get(conv) or _fold(conv, norm)
                if not self.training:
                    self._folded_weights[conv] = weight, bias
                # an instance's attributes come before its registered parameters
                conv.__dict__.update(weight=weight, bias=bias)
                norm.__dict__["forward"] = _Activation(norm)
            yield
        finally:
            for conv, norm in self.folds:
                conv.__dict__.pop("weight", None)
                conv.__dict__.pop("bias", None)
                norm.__dict__.pop("forward", None)


class _Activation:
    """The forward of a folded norm: timm's norms have dropout and an activation built in."""

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm if isinstance(norm, BatchNormAct2d) else None

    def __call__(self, x: Tensor) -> Any:
        if self.norm is None:
            return x
        return self.norm.act(self.norm.drop(x))


def _fold(conv: nn.Module, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight [D, C, K, L] and bias [D] of the convolution that does the work of both layers."""
    # the registered ones, also where `active` has put others in front of them
    weight = conv._parameters["weight"]
    bias = conv._parameters["bias"]
    assert weight is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    centre = -norm.running_mean
    if bias is not None:
        centre = bias - norm.running_mean
    shift = centre * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return weight * scale.view(-1, 1, 1, 1), shift


def _norms_in_eval_mode(model: nn.Module) -> set[nn.Module]:
    """The norms that use running statistics now."""
    norms = set()
    for module in model.modules():
        is_norm = type(module) in _NORMS  # a subclass may compute something else
        if is_norm and not module.training and module.running_mean is not None:
            norms.add(module)
    return norms


@torch.no_grad()
def _find_folds(
    model: nn.Module, inputs: Tensor, norms: set[nn.Module], training: bool = True
) -> list[tuple[nn.Module, nn.Module]]:
    """Convolutions whose output one of the norms reads and nothing else; both are called once."""
    usage = _Usage({norm for norm in norms if is_free(norm)}, training)
    hooks = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(usage.enter))
        hooks.append(module.register_forward_hook(usage.leave))
    try:
        with usage:
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    folds = []
    for conv, readers in usage.readers.items():
        if len(readers) != 1:
            continue
        reader = readers[0]
        is_norm = isinstance(reader, nn.Module) and reader in usage.norms
        if is_norm and usage.calls[conv] == usage.calls[reader] == 1:
            folds.append((conv, reader))
    return folds


class _Usage(TorchFunctionMode):
    """Records, during one forward pass, what reads the outputs of the convolutions.

    A reader is a norm, a module without norms inside, or a torch function outside of the norms.
    norms: those that may be folded. readers: convolution -> what reads its output.
    calls: module -> how often it was called.
    """

    def __init__(self, norms: set[nn.Module], training: bool) -> None:
        super().__init__()
        self.norms = norms
        self.training = training
        self.readers: dict[nn.Module, list[Any]] = {}
        self.calls: dict[nn.Module, int] = {}
        self._source: dict[int, nn.Module] = {}  # id of an output -> its convolution
        self._outputs: list[Tensor] = []  # held, so that no other tensor gets the id of one
        self._running_norm: nn.Module | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # to look at an attribute, such as the shape, reads no number
        is_attribute = getattr(func, "__name__", "") == "__get__"
        if self._running_norm is None and not is_attribute:
            for value in tree_leaves((args, kwargs)):
                self._note(value, func)
        return func(*args, **kwargs)

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """The forward pre-hook of every module."""
        self.calls[module] = self.calls.get(module, 0) + 1
        if module in self.norms:
            self._running_norm = module
        has_norms_inside = any(part in self.norms for part in module.modules())
        # a module with norms inside may only hand its input on to its parts
        if module in self.norms or not has_norms_inside:
            for value in args:
                self._note(value, module)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The forward hook of every module."""
        if module is self._running_norm:
            self._running_norm = None
        if self._may_be_folded_into(module):
            self._source[id(output)] = module
            self._outputs.append(output)
            self.readers.setdefault(module, [])

    def _note(self, value: object, reader: object) -> None:
        convolution = self._source.get(id(value))
        if convolution is not None:
            self.readers[convolution].append(reader)

    def _may_be_folded_into(self, module: nn.Module) -> bool:
        if type(module) not in _CONVOLUTIONS or not is_free(module, our_hooks=1):
            return False
        weight = module._parameters.get("weight")  # a parametrised one is not under this name
        if weight is None:
            return False
        return weight.requires_grad or not self.training


def results_of(
    model: nn.Module, inputs: Tensor, folded: FoldedNorms, training: bool = True
) -> list[Tensor]:
    """The output and, in training, the gradients of the mean square of the output.

    Empty where the output is not a single tensor.
    """
    weights = []
    if training:
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.set_grad_enabled(bool(weights)):
        with folded.active():
            output = model(inputs)
        if not isinstance(output, Tensor):
            return []
        results = [output.detach()]
        if weights:
            loss = output.square().mean()
            results += _gradients_of(loss, weights)
    return results


def _gradients_of(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Of weights without a gradient so far; of sharded ones the part of this process."""
    if not any(map(is_sharded, weights)):
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return [gradient for gradient in gradients if gradient is not None]
    # the pass goes to whole weights, which are here for its time only
    loss.backward()  # type: ignore[no-untyped-call]
    parts = [local(weight.grad) for weight in weights if weight.grad is not None]
    for weight in weights:
        weight.grad = None
    return parts


def same_results(expected: list[Tensor], results: list[Tensor]) -> bool:
    """Whether two answers of `results_of` are the same to rounding; empty ones are not."""
    if not expected or len(expected) != len(results):
        return False
    gradients = expected[1:]
    largest_gradient = max((float(gradient.norm()) for gradient in gradients), default=0.0)
    # a gradient that is zero but for rounding has no digits to compare
    tolerance = 1e-5 * largest_gradient
    for expected_tensor, tensor in zip(expected, results, strict=True):
        difference = float((expected_tensor - tensor).norm())
        is_close = difference <= 1e-2 * float(expected_tensor.norm()) + tolerance
        if not is_close:
            return False
    return True
