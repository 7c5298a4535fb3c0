"""WholeBatch: a process computes its share of a batch as one process would compute all of it."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from finetune import distributed
from finetune.data.loaders import Batch
from finetune.distributed import Share

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
"""Those that multiply their input with numbers that they draw."""


def filled(batch: Batch, share: Share) -> Batch:
    """The batch of a process; one without a share of the examples gets the first of all of them.

    Its pass must not count, but it is needed, since it takes part in the exchange of statistics and
    gradients; and there are models that can't do with a batch of no example.
    """
    if all(share.counts):
        return batch
    first: Batch | None = None
    if len(batch):
        first, *_ = batch.split(len(batch))
    of_all: list[Batch] = distributed.gathered(first, torch.device("cpu"))
    if len(batch):
        return batch
    return of_all[share.counts.index(max(share.counts))]


class WholeBatch(TorchFunctionMode):
    """Put it around the forward and the backward pass of a process's share of a batch.

    BatchNorm in train mode uses the statistics of the whole batch. Dropout, that of attention, and
    the stochastic depth of timm and torchvision, draw for the whole batch, of which the process
    takes the rows of its examples; all processes have seeded their generators alike. So the result
    does not depend on how many processes share a batch. What a process computes without a share,
    see `filled`, moves no statistics, and gives no gradient.
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self._share = share

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func in _DROPOUTS:
            return self._dropout(func, *args, **kwargs)
        if func is Tensor.bernoulli_:
            return self._fill(func, *args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attention(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """`F.batch_norm`; in training with the mean and variance of all processes' examples."""
        if not training:
            return F.batch_norm(
                input, running_mean, running_var, weight, bias, training, momentum, eps
            )
        values_per_channel = self._share.count * input.shape[2:].numel()
        if values_per_channel == 1:
            size = [self._share.count, *input.shape[1:]]
            # the words of torch
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {size}"
            )
        is_counted = self._share.examples > 0
        output, mean, variance = _BatchNorm.apply(input, weight, bias, eps, is_counted)
        if running_mean is not None and running_var is not None:
            unbiased = variance * (values_per_channel / (values_per_channel - 1))
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        return output  # type: ignore[no-any-return]

    def _dropout(
        self, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        whole_shape = self._shape_of_whole(input)
        if not training or p == 0 or whole_shape is None:
            return func(input, p, training, inplace)  # type: ignore[no-any-return]
        with torch.no_grad():
            factors = self._own_rows(func(_ones(whole_shape, input), p))
        return input.mul_(factors) if inplace else input * factors

    def _fill(self, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Fills a tensor at random, as `func` would fill that of the whole batch."""
        whole_shape = self._shape_of_whole(tensor)
        if whole_shape is None:
            return func(tensor, *args, **kwargs)  # type: ignore[no-any-return]
        whole = func(tensor.new_empty(whole_shape), *args, **kwargs)
        return tensor.copy_(self._own_rows(whole))

    def _attention(
        self,
        func: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        **kwargs: Any,
    ) -> Tensor:
        """torch's attention, whose dropout happens inside: it runs among zeros for the others."""
        has_rows_for_each = self._shape_of_whole(query) is not None
        if dropout_p == 0 or not has_rows_for_each or not len(query) == len(key) == len(value):
            return func(query, key, value, attn_mask, dropout_p, **kwargs)  # type: ignore[no-any-return]
        if attn_mask is not None and attn_mask.dim() == query.dim() and len(attn_mask) > 1:
            attn_mask = self._among_others(attn_mask)
        whole = [self._among_others(tensor) for tensor in (query, key, value)]
        return self._own_rows(func(*whole, attn_mask, dropout_p, **kwargs))

    def _among_others(self, rows: Tensor) -> Tensor:
        """The tensor of the whole batch in which only this process's rows are not 0, or False."""
        whole_shape = self._shape_of_whole(rows)
        assert whole_shape is not None
        whole = rows.new_zeros(whole_shape)
        self._by_example(whole)[self._share.rows] = rows.reshape(
            self._share.examples, -1, *rows.shape[1:]
        )
        return whole

    def _shape_of_whole(self, tensor: Tensor) -> list[int] | None:
        """The shape that a tensor of this process's examples would have for the whole batch.

        An example may have several rows, such as windows of an image. None for a tensor without
        rows for each example.
        """
        examples = self._share.examples
        if not examples or not tensor.dim() or len(tensor) % examples:
            return None
        return [len(tensor) // examples * self._share.count, *tensor.shape[1:]]

    def _own_rows(self, whole: Tensor) -> Tensor:
        """The rows of this process's examples."""
        return self._by_example(whole)[self._share.rows].flatten(0, 1)

    def _by_example(self, whole: Tensor) -> Tensor:
        """A tensor of the whole batch with an axis of examples, and one of the rows of each."""
        count = self._share.count
        return whole.reshape(count, len(whole) // count, *whole.shape[1:])


def _ones(shape: list[int], like: Tensor) -> Tensor:
    """Ones that lie in memory in the order of another tensor's dimensions, as draws follow it."""
    outermost_first = sorted(range(like.dim()), key=like.stride, reverse=True)
    ones = like.new_ones([shape[axis] for axis in outermost_first])
    axes = [outermost_first.index(axis) for axis in range(like.dim())]
    return ones.permute(axes)


class _BatchNorm(torch.autograd.Function):
    """BatchNorm in train mode of examples that are shared among processes.

    It is made of torch's BatchNorm in eval mode, which passes over its input once, and of what the
    statistics add to the gradient of the input:

        dx = scale * (dy - mean of dy - normalised x * mean of (dy * normalised x)),

    with means over all examples and `scale = weight / sqrt(variance + eps)`.

    input [B, C, ...], weight and bias [C] or None; is_counted: whether the examples are a share.
    Gives the output, and the mean and the biased variance [C] of all examples. Gradients of weight
    and bias are of this process's examples, as those of any layer, since they are averaged later.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        is_counted: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance, count = _moments(input if is_counted else input[:0])
        output = F.batch_norm(input, mean, variance, weight, bias, eps=eps)
        ctx.save_for_backward(input, weight, mean, variance, count)
        ctx.mark_non_differentiable(mean, variance)
        ctx.eps, ctx.is_counted = eps, is_counted
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, variance, count = ctx.saved_tensors
        needs_input, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        of_input, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, input, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        if not ctx.is_counted:
            # to the bit: what is not a share gives no gradient, through the statistics neither
            of_input, of_weight, of_bias = (values * 0 for values in (of_input, of_weight, of_bias))
        if needs_input:
            # each example moves the mean and the deviation that all examples are normalised with
            means = distributed.total(torch.stack([of_bias, of_weight])) / count
            inverse_deviation = (variance + ctx.eps).rsqrt()
            scale = inverse_deviation if weight is None else inverse_deviation * weight
            if ctx.is_counted:
                # centred first, as a mean may be much larger than the deviation
                through_statistics = _full_precision(input) - _by_channel(mean, input)
                through_statistics *= _by_channel(scale * inverse_deviation * means[1], input)
                through_statistics += _by_channel(scale * means[0], input)
                of_input = (of_input - through_statistics).to(input.dtype)
        return (
            of_input if needs_input else None,
            of_weight if needs_weight else None,
            of_bias if needs_bias else None,
            None,
            None,
        )


def _moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance [C] of the examples of all processes, and how many values each has.

    Source: Chan, Golub, LeVeque (1979), which adds up parts without loss of digits.
    """
    values = _full_precision(values)
    channels = values.shape[1]
    count = values.numel() // max(channels, 1)
    mean, variance = values.new_zeros(2, channels)
    if count:
        mean, variance = torch.batch_norm_update_stats(values, None, None, 0.0)
    of_this_process = torch.cat([mean, variance * count, mean.new_full((1,), count)])
    parts = distributed.stacked(of_this_process)
    means, sums_of_squares = parts[:, :channels], parts[:, channels:-1]
    counts = parts[:, -1:]
    whole_count = counts.sum()
    whole_mean = (counts * means).sum(0) / whole_count
    between = (counts * (means - whole_mean).square()).sum(0)
    return whole_mean, (sums_of_squares.sum(0) + between) / whole_count, whole_count


def _by_channel(numbers: Tensor, values: Tensor) -> Tensor:
    """Numbers [C] in a shape that goes with values [B, C, ...]."""
    return numbers.reshape(1, -1, *[1] * (values.dim() - 2))


def _full_precision(values: Tensor) -> Tensor:
    if values.dtype in (torch.float16, torch.bfloat16):
        return values.float()
    return values
