"""The frozen beginning of a model, found by watching one forward pass, and the rest on its own.

The model keeps its code. While the rest runs, the whole model is called, but the frozen modules at
its beginning are skipped: they return NaN, and the last of them, the boundary, returns the features
that were computed before. Whatever goes round the boundary becomes NaN, which shows in the outputs,
and such a model is left whole.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from finetune.distributed.sharding import forget_pass
from finetune.training.runtime.modules import eval_mode, is_free

WORTHWHILE = 0.1
"""The smallest share of a model's layers to skip: behind the first few, features are large."""

_Call: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Template:
    """What an output is like, for any number of images.

    number: NaN, in the output's dtype and on its device. rows: how many an image has, one but for
    windows of images and the like. shape: of one row. layout: in memory.
    """

    number: Tensor
    rows: int
    shape: torch.Size
    layout: torch.memory_format

    @classmethod
    def of(cls, output: object, image_count: int) -> "_Template | None":
        """None for what is no tensor of floats with the same number of rows for each image."""
        # integers have no NaN that would show where they go
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        if output.dim() == 0 or len(output) == 0 or len(output) % image_count:
            return None
        layout = torch.contiguous_format
        if output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last):
            layout = torch.channels_last
        rows = len(output) // image_count
        return cls(output.new_tensor(nan), rows, output.shape[1:], layout)

    @property
    def dtype(self) -> torch.dtype:
        """Half precision comes from autocast; outside of it nothing would convert the weights."""
        is_half = self.number.dtype in (torch.float16, torch.bfloat16)
        if is_half and not torch.is_autocast_enabled(self.number.device.type):
            return torch.float32
        return self.number.dtype

    def placeholder(self, image_count: int) -> Tensor:
        """NaN in the output's shape, one number in memory."""
        return self.number.to(self.dtype).expand(image_count * self.rows, *self.shape)

    def filled(self, values: Tensor) -> Tensor:
        """A copy of the values as the output, which the model may change in place."""
        return values.to(self.dtype, memory_format=self.layout, copy=True)


class Suffix(nn.Module):
    """A model behind its frozen beginning: it takes what `prefix` returns in place of images.

    Both work only inside of `active()`, where other calls of the model do what they always do.
    skipped: the modules that are skipped, with what their outputs are like; the boundary is last.
    features: what the boundary's output is like.
    """

    def __init__(
        self, model: nn.Module, skipped: dict[nn.Module, _Template], image: _Template
    ) -> None:
        super().__init__()
        self.model = model
        self.skipped = skipped
        self.image = image
        boundary = next(reversed(skipped))
        self.features = skipped[boundary]
        self._features_now = torch.empty(0)  # those of the last call
        self._is_running = False  # inside of `forward`
        self._stops_at_boundary = False  # inside of `prefix`
        self._backward_number: int | None = None  # torch's, of the last call's backward pass

    @classmethod
    def find(cls, model: nn.Module, images: Tensor) -> "Suffix | None":
        """Finds the frozen beginning by one forward pass; None where it is missing or too small.

        model: with the modes and flags of training, which it keeps. images: two of them.
        """
        constant, ends = _constant_modules_and_ends(model)
        image = _Template.of(images, len(images))
        if not constant or not ends or model in ends or image is None:
            return None
        with eval_mode(model):
            skipped = _find_skippable(model, images, constant, ends)
        if _share_of_layers(skipped, model) < WORTHWHILE:
            return None
        return cls(model, skipped, image)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Put it around a whole phase, so that it is open in the backward passes, too.

        Activations that are not kept (gradient checkpointing) are computed again there.
        """
        *inner, boundary = self.skipped
        try:
            with _intercepted(inner, self._skip), _intercepted([boundary], self._at_boundary):
                yield
        finally:
            self._features_now = torch.empty(0)  # a batch on the device

    def prefix(self, images: Tensor) -> Tensor:
        """Returns the features of the images: the model runs until it has them."""
        self._stops_at_boundary = True
        try:
            self.model(images)
        except _Reached as reached:
            forget_pass(self.model)
            return reached.features
        finally:
            self._stops_at_boundary = False
        raise RuntimeError(
            f"{type(self.model).__name__} takes another way through its layers than at first; "
            "give cache_features=False"
        )

    def forward(self, features: Tensor) -> Any:
        self._features_now = features
        self._is_running = True
        try:
            outputs = self.model(self.image.placeholder(len(features)))
        finally:
            self._is_running = False
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(self._note_backward)  # type: ignore[no-untyped-call]
        return outputs

    def _note_backward(self, _: Tensor) -> None:
        self._backward_number = torch._C._current_graph_task_id()

    def _skips(self) -> bool:
        """Whether the present call of a module belongs to a call of the suffix.

        It may come in the backward pass, where checkpointed activations are computed again.
        """
        return self._is_running or self._backward_number == torch._C._current_graph_task_id()

    def _skip(self, module: nn.Module, call: _Call, *args: Any, **kwargs: Any) -> Any:
        if self._skips():
            return self.skipped[module].placeholder(len(self._features_now))
        return call(*args, **kwargs)

    def _at_boundary(self, module: nn.Module, call: _Call, *args: Any, **kwargs: Any) -> Any:
        if self._skips():
            return self.features.filled(self._features_now)
        output = call(*args, **kwargs)
        if self._stops_at_boundary:
            raise _Reached(output)
        return output


class Prefix(nn.Module):
    """The frozen beginning as a module, for use inside of the suffix's `active()`."""

    def __init__(self, suffix: Suffix) -> None:
        super().__init__()
        self.model = suffix.model
        self.forward = suffix.prefix


class _Reached(BaseException):  # the model's own code could catch an Exception
    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


def _constant_modules_and_ends(model: nn.Module) -> tuple[list[nn.Module], set[nn.Module]]:
    """The constant modules, and the modules at whose first call the constant part ends."""
    constant = []
    ends = set()
    for module in model.modules():
        if _is_constant(module):
            constant.append(module)
        elif _is_end(module):
            ends.add(module)
    return constant, ends


def _is_constant(module: nn.Module) -> bool:
    """Whether the output for an image never changes, and depends on no other image."""
    if any(parameter.requires_grad for parameter in module.parameters()):
        return False
    for part in module.modules():
        uses_batch_statistics = isinstance(part, _BatchNorm) and part.running_mean is None
        if part.training or uses_batch_statistics:
            return False
    return True


def _is_end(module: nn.Module) -> bool:
    """Whether a module that is not constant is a place where NaN may not go in.

    That is one that computes something itself, or where somebody listens or has put in another
    forward. Any other is a container, which only calls its children.
    """
    has_trained_weights = any(p.requires_grad for p in module.parameters(recurse=False))
    has_children = any(True for _ in module.children())
    # timm's norms have children (an activation), and compute something nevertheless
    computes_itself = has_trained_weights or not has_children or isinstance(module, _BatchNorm)
    is_compiled = module._compiled_call_impl is not None
    return computes_itself or is_compiled or not is_free(module)


def _find_skippable(
    model: nn.Module, images: Tensor, constant: list[nn.Module], ends: set[nn.Module]
) -> dict[nn.Module, _Template]:
    """The modules to skip, in the order of their calls, with what their outputs are like.

    The last of them, the boundary, has one row for each image.
    """
    calls: list[tuple[nn.Module, _Template | None]] = []
    counts_at_ends: list[int] = []  # how many calls there were before each call of an end
    running: list[nn.Module] = []  # the outermost constant module that is being called

    def record(module: nn.Module, call: _Call, *args: Any, **kwargs: Any) -> Any:
        if module in ends:
            counts_at_ends.append(len(calls))
            return call(*args, **kwargs)
        if running:  # a part of a constant module is skipped with it
            return call(*args, **kwargs)
        running.append(module)
        output = call(*args, **kwargs)
        running.pop()
        calls.append((module, _Template.of(output, len(images))))
        return output

    with _intercepted([*constant, *ends], record):
        model(images)
    if not counts_at_ends:
        return {}
    # of a module that is called twice, one of the calls may be behind the end
    call_counts = Counter(module for module, _ in calls)
    skippable: dict[nn.Module, _Template] = {}
    for module, template in calls[: counts_at_ends[0]]:
        if template is not None and call_counts[module] == 1:
            skippable[module] = template
    while skippable and skippable[next(reversed(skippable))].rows != 1:
        skippable.popitem()
    return skippable


def _share_of_layers(modules: Iterable[nn.Module], model: nn.Module) -> float:
    """The share of the model's layers with weights that are in these modules."""

    def layers_in(module: nn.Module) -> set[nn.Module]:
        return {part for part in module.modules() if part._parameters}

    layers: set[nn.Module] = set()
    for module in modules:
        layers |= layers_in(module)
    return len(layers) / len(layers_in(model))


@contextmanager
def _intercepted(modules: list[nn.Module], answer: _Call) -> Iterator[None]:
    """Inside of it `answer(module, call, ...)` answers each call of these modules.

    call: what the module would do itself, its hooks included.
    """
    # where torch puts a compiled module's call; copies of a module come without it
    name = "_compiled_call_impl"
    compiled_calls = {module: vars(module).get(name) for module in modules}
    try:
        for module, compiled_call in compiled_calls.items():
            call = compiled_call or module._call_impl
            vars(module)[name] = partial(answer, module, call)
        yield
    finally:
        for module, compiled_call in compiled_calls.items():
            vars(module).pop(name, None)
            if compiled_call is not None:
                vars(module)[name] = compiled_call
