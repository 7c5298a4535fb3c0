"""Statistics move once for each batch, also where activations are computed again."""

from typing import Any

import pytest
import timm
import torch
from support import same_state, tiny_data
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from finetune import DataLoaders, Learner, Runtime


def trained(model: nn.Module, data: DataLoaders) -> Learner:
    learner = Learner(
        data, model, loss=cross_entropy, norm="train", runtime=Runtime("cpu"), progress=False
    )
    learner.fit_one_cycle(2, 1e-2)
    return learner


def test_a_backbone_with_checkpointed_activations_ends_with_the_same_statistics():
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pairs = TensorDataset(images, torch.arange(12) % 2)
    data = DataLoaders(DataLoader(pairs, 4), DataLoader(pairs, 4))
    learners = []
    for is_checkpointed in (False, True):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=2)
        model.set_grad_checkpointing(is_checkpointed)
        learners.append(trained(model, data))
    plain, checkpointed = (learner.model.state_dict() for learner in learners)
    assert all(torch.allclose(plain[name].float(), checkpointed[name].float()) for name in plain)
    losses = [learner.history.epochs[-1].valid["loss"] for learner in learners]
    assert losses[0] == pytest.approx(losses[1])


class Checkpointed(nn.Sequential):
    """As people write it: torch's function around their own layers."""

    def forward(self, inputs: Tensor) -> Any:
        return checkpoint(super().forward, inputs, use_reentrant=False)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_model_that_calls_checkpoint_by_itself_counts_each_batch_once(momentum: float | None):
    states = []
    for kind in (nn.Sequential, Checkpointed):
        torch.manual_seed(0)
        body = kind(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=momentum), nn.ReLU())
        states.append(trained(nn.Sequential(body, nn.Linear(4, 2)), tiny_data()).model.state_dict())
    assert same_state(*states)
