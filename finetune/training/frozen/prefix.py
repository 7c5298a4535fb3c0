"""The frozen beginning of a model, found by watching one forward pass, and the rest on its own.

The model keeps its code. While the rest runs, all of it is called, but frozen modules are passed
by: they give NaN, and the last of them, the boundary, gives the features. What goes round the
boundary becomes NaN and shows, and such a model is left whole.
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

from finetune.training.runtime.modules import eval_mode, is_free

WORTHWHILE = 0.1
"""Share of a model's layers with weights that is worth it: behind the first, features are large."""

_Call: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Blank:
    """What an output is like, for any number of images.

    number: NaN. rows: of one image. shape: of a row. layout: in memory.
    """

    number: Tensor
    rows: int
    shape: torch.Size
    layout: torch.memory_format

    @classmethod
    def like(cls, output: object, images: int) -> "_Blank | None":
        """None for what is no tensor of floats with as many rows for each image."""
        if not isinstance(output, Tensor) or not output.is_floating_point() or not output.dim():
            return None
        if not len(output) or len(output) % images:
            return None
        last = output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        return cls(output.new_tensor(nan), len(output) // images, output.shape[1:], layout)

    @property
    def dtype(self) -> torch.dtype:
        """Half precision comes from autocast; outside of it nothing would convert the weights."""
        half = self.number.dtype in (torch.float16, torch.bfloat16)
        outside = not torch.is_autocast_enabled(self.number.device.type)
        return torch.float32 if half and outside else self.number.dtype

    def of(self, images: int) -> Tensor:
        """One number in memory, whatever the shape."""
        return self.number.to(self.dtype).expand(images * self.rows, *self.shape)

    def filled(self, values: Tensor) -> Tensor:
        """A copy, which may be changed in place."""
        return values.to(self.dtype, memory_format=self.layout, copy=True)


class Suffix(nn.Module):
    """A model behind its frozen beginning: it takes what `prefix` gives, in place of images.

    Both work inside `active()` only, where other calls of the model do what they always do.
    blanks: the modules that are passed by, with what their outputs are like; the boundary is last.
    features: what its output is like.
    """

    def __init__(self, model: nn.Module, blanks: dict[nn.Module, _Blank], image: _Blank) -> None:
        super().__init__()
        self.model, self.blanks, self.image = model, blanks, image
        self.features = blanks[next(reversed(blanks))]
        self._given = torch.empty(0)
        self._running = self._stopping = False
        self._backward: int | None = None  # torch's number for the backward pass of the last call

    @classmethod
    def find(cls, model: nn.Module, images: Tensor) -> "Suffix | None":
        """By one forward pass; None where no beginning that is worth it is frozen.

        model: with the modes and flags of training, which it keeps. images: two of them.
        """
        constant, ends = _parts(model)
        image = _Blank.like(images, len(images))
        if not constant or not ends or model in ends or image is None:
            return None
        with eval_mode(model):
            blanks = _watch(model, images, constant, ends)
        worth_it = _share_of_layers(blanks, model) >= WORTHWHILE
        return cls(model, blanks, image) if worth_it else None

    @contextmanager
    def active(self) -> Iterator[None]:
        """For a whole phase: checkpointed activations are computed again in the backward pass."""
        *others, boundary = self.blanks
        with _answered(others, self._pass_by), _answered([boundary], self._at_boundary):
            yield

    def prefix(self, images: Tensor) -> Tensor:
        """The features of these images: the model runs until it has them."""
        self._stopping = True
        try:
            self.model(images)
        except _Reached as reached:
            return reached.features
        finally:
            self._stopping = False
        raise RuntimeError(
            f"{type(self.model).__name__} takes another way through its layers than at first; "
            "give cache_features=False"
        )

    def forward(self, features: Tensor) -> Any:
        self._given, self._running = features, True
        try:
            outputs = self.model(self.image.of(len(features)))
        finally:
            self._running = False
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(self._note_backward)  # type: ignore[no-untyped-call]
        return outputs

    def _note_backward(self, _: Tensor) -> None:
        self._backward = torch._C._current_graph_task_id()

    def _skips(self) -> bool:
        return self._running or self._backward == torch._C._current_graph_task_id()

    def _pass_by(self, module: nn.Module, call: _Call, *args: Any, **kwargs: Any) -> Any:
        if self._skips():
            return self.blanks[module].of(len(self._given))
        return call(*args, **kwargs)

    def _at_boundary(self, module: nn.Module, call: _Call, *args: Any, **kwargs: Any) -> Any:
        if self._skips():
            return self.features.filled(self._given)
        output = call(*args, **kwargs)
        if self._stopping:
            raise _Reached(output)
        return output


class Prefix(nn.Module):
    """The frozen beginning as a module, inside of the suffix's `active()`."""

    def __init__(self, suffix: Suffix) -> None:
        super().__init__()
        self.model, self.forward = suffix.model, suffix.prefix


class _Reached(BaseException):  # an Exception could be taken by the model's own code
    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


def _parts(model: nn.Module) -> tuple[list[nn.Module], set[nn.Module]]:
    """The modules that are constant, and those at whose call the constant part ends."""
    constant = [module for module in model.modules() if _is_constant(module)]
    others = set(model.modules()).difference(constant)
    return constant, {module for module in others if _is_end(module)}


def _is_constant(module: nn.Module) -> bool:
    """Whether an image's output depends on the image only."""
    trains = any(parameter.requires_grad for parameter in module.parameters())
    return not trains and not any(map(_depends_on_more, module.modules()))


def _depends_on_more(part: nn.Module) -> bool:
    without_statistics = isinstance(part, _BatchNorm) and part.running_mean is None
    return part.training or without_statistics


def _is_end(module: nn.Module) -> bool:
    """Of those that are not constant; in the others only the children count.

    Where somebody listens or has put in a forward of their own, no NaN may go in.
    """
    has_own = any(p.requires_grad for p in module.parameters(recurse=False))
    alone = not any(True for _ in module.children()) or isinstance(module, _BatchNorm)
    return has_own or alone or not is_free(module) or module._compiled_call_impl is not None


def _watch(
    model: nn.Module, images: Tensor, constant: list[nn.Module], ends: set[nn.Module]
) -> dict[nn.Module, _Blank]:
    """What to pass by, in the order of the calls; the last has a row for each image."""
    calls: list[tuple[nn.Module, _Blank | None]] = []
    first_end: list[int] = []
    inside: list[nn.Module] = []

    def note(module: nn.Module, call: _Call, *args: Any, **kwargs: Any) -> Any:
        if module in ends:
            first_end.append(len(calls))
        if module in ends or inside:
            return call(*args, **kwargs)
        inside.append(module)
        output = call(*args, **kwargs)
        inside.pop()
        calls.append((module, _Blank.like(output, len(images))))
        return output

    with _answered([*constant, *ends], note):
        model(images)
    counts = Counter(module for module, _ in calls)
    before = calls[: first_end[0]] if first_end else []
    found = {module: blank for module, blank in before if blank and counts[module] == 1}
    while found and found[next(reversed(found))].rows != 1:
        found.popitem()
    return found


def _share_of_layers(modules: Iterable[nn.Module], model: nn.Module) -> float:
    def layers(module: nn.Module) -> set[nn.Module]:
        return {part for part in module.modules() if part._parameters}

    return len(set().union(*map(layers, modules))) / len(layers(model))


@contextmanager
def _answered(modules: list[nn.Module], answer: Callable[..., Any]) -> Iterator[None]:
    """Calls of these modules, hooks included, are answered by `answer(module, call, ...)`."""
    name = "_compiled_call_impl"  # torch's own place for that; copies of a module come without it
    before = {module: vars(module).get(name) for module in modules}
    try:
        for module, own in before.items():
            vars(module)[name] = partial(answer, module, own or module._call_impl)
        yield
    finally:
        for module, own in before.items():
            vars(module).pop(name, None)
            if own is not None:
                vars(module)[name] = own
