"""A share of a batch is computed as one process computes it. The file is also the script that the
processes run: each knows the whole batch, and compares what it does with its share."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import run_together
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from finetune import Batch, distributed
from finetune.randomness import seed_everything
from finetune.training.whole_batch import WholeBatch, filled


class Transposed(nn.Module):
    """Dropout of a tensor whose dimensions lie in memory in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(images.permute(0, 2, 1, 3))


class Windows(nn.Module):
    """Two rows for each example; and the dropout of a next layer, which draws behind the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Dropout(0.5)
        self.second = nn.Dropout(0.3, inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.reshape(2 * len(images), 3, -1)
        return self.second(2 * self.first(rows)).reshape(images.shape)


class Attention(nn.Module):
    """Attention with dropout, of four positions and one head, with masks of each example or not."""

    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        self.masked = masked

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.permute(0, 2, 1, 3).reshape(len(images), 1, 4, 12)
        mask = tokens[..., :4] < 1 if self.masked else None
        if mask is not None:
            mask = mask | torch.eye(4, dtype=torch.bool)
        return F.scaled_dot_product_attention(tokens, 2 * tokens, tokens, mask, dropout_p=0.5)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch norm of images": lambda: nn.BatchNorm2d(3, momentum=0.3),
    "batch norm without weights": lambda: nn.BatchNorm2d(3, affine=False),
    "batch norm with a cumulative mean": lambda: nn.BatchNorm2d(3, momentum=None),
    "batch norm without running statistics": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "batch norm in half precision": lambda: nn.BatchNorm2d(3),
    "batch norm of features": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48)),
    "dropout": lambda: nn.Dropout(0.5),
    "dropout in the layout channels_last": lambda: nn.Dropout(0.5).to(
        memory_format=torch.channels_last
    ),
    "dropout of channels": lambda: nn.Dropout2d(0.5),
    "dropout of a transposed tensor": Transposed,
    "dropout of windows": Windows,
    "dropout of attention": lambda: Attention(masked=False),
    "dropout of attention with masks": lambda: Attention(masked=True),
    "stochastic depth of timm": lambda: DropPath(0.5),
    "stochastic depth of torchvision": lambda: StochasticDepth(0.5, "row"),
}
COUNTS = (7, 2, 1)
"""Examples of the batches; of one some processes have no share."""


@pytest.mark.parametrize("processes", [3])
def test_a_share_is_computed_as_the_whole_batch_is(processes: int) -> None:
    for rank in run_together(processes, Path(__file__)):
        assert (rank.returncode, rank.stderr, rank.stdout) == (0, "", "compared\n")


# --- what runs in each process


def _compare(name: str, count: int) -> None:
    if count == 1 and "features" in name:
        return
    layer = LAYERS[name]()
    torch.manual_seed(7)
    images = torch.randn(count, 3, 4, 4)
    weights = torch.randn(count, 3, 4, 4)
    if "channels_last" in name:
        images = images.to(memory_format=torch.channels_last)
    tolerance = 2e-5
    if "half precision" in name:
        images, weights, tolerance = images.bfloat16(), weights.bfloat16(), 0.05
    for parameter in layer.parameters():
        nn.init.uniform_(parameter)
    alone = copy.deepcopy(layer)
    expected = _results(alone, images, weights)
    mine = slice(distributed.rank(), None, distributed.world_size())
    share = distributed.share_of(len(images[mine]))
    assert (share.count, share.rows) == (count, mine)
    has_share = bool(share.examples)
    own_images, own_weights = images[mine], weights[mine]
    if not has_share:
        own_images, own_weights = images[:1], torch.zeros_like(weights[:1])
    with WholeBatch(share):
        found = _results(layer, own_images, own_weights)
    if has_share:
        for of_all, of_share in zip(expected, found, strict=True):
            torch.testing.assert_close(of_share, of_all[mine], atol=tolerance, rtol=1e-5, msg=name)
    else:
        assert not found[1].any(), name
    for parameter, other in zip(alone.parameters(), layer.parameters(), strict=True):
        assert parameter.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(
            distributed.total(other.grad), parameter.grad, atol=tolerance, rtol=1e-5, msg=name
        )
    for buffer, other in zip(alone.buffers(), layer.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)


def _results(layer: nn.Module, images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs, and the gradients of the images of a weighted sum of their squares."""
    seed_everything(0, "test")
    inputs = images.clone().requires_grad_()
    outputs = layer(inputs).reshape(images.shape)
    (weights * outputs.square()).sum().backward()
    assert inputs.grad is not None
    return outputs.detach(), inputs.grad


def _compare_a_single_value() -> None:
    """As alone, one value in all has no variance, in any process."""
    share = distributed.share_of(int(distributed.rank() == 0))
    with WholeBatch(share), pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm1d(3)(torch.zeros(1, 3))


def _compare_filled_batches() -> None:
    """A process without a share gets an example of another one."""
    mine = slice(distributed.rank(), None, distributed.world_size())
    inputs = {"a": torch.arange(8.0).reshape(2, 4)[mine], "b": torch.tensor([True, False])[mine]}
    batch = Batch(inputs, torch.tensor([5, 6])[mine], torch.tensor([8, 9])[mine])
    filled_batch = filled(batch, distributed.share_of(len(batch)))
    if len(batch):
        assert filled_batch is batch
    else:
        assert filled_batch.inputs["a"].tolist() == [[0, 1, 2, 3]]
        assert filled_batch.inputs["b"].tolist() == [True]
        assert (filled_batch.targets.tolist(), filled_batch.indices.tolist()) == ([5], [8])


def _compare_other_shares() -> None:
    """A loader may divide its batches in a way of its own, here into stretches."""
    examples = (4, 0, 1)
    share = distributed.share_of(examples[distributed.rank()])
    assert (share.count, share.rows) == (
        5,
        (slice(0, 4), slice(4, 4), slice(4, 5))[dist.get_rank()],
    )
    rows = torch.arange(5.0)[share.rows]
    assert share.whole(rows).tolist() == [0, 1, 2, 3, 4]


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.join(torch.device("cpu"))
    for layer_name in LAYERS:
        for batch_size in COUNTS:
            _compare(layer_name, batch_size)
    _compare_a_single_value()
    _compare_filled_batches()
    _compare_other_shares()
    print("compared")
    sys.exit()
