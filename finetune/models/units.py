"""The modules of a model whose weights are brought together for themselves, where it is sharded."""

from collections.abc import Iterator

from torch import nn

from finetune.models.backbone_set import members_of
from finetune.models.blocks import read_body
from finetune.models.splitting import count_places, is_pair


def sharding_units(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model, in order of depth.

    Only those that are modules of several layers, and share no weight with what is outside of them.

    >>> layers = [nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(3)]
    >>> backbone = nn.Sequential(nn.Linear(2, 2), nn.Sequential(*layers))
    >>> units = sharding_units(nn.Sequential(backbone, nn.Linear(2, 2)))
    >>> [layers.index(unit) for unit in units]
    [0, 1, 2]
    """
    places = count_places(model)
    units = []
    for network in _networks(model):
        for block in read_body(network).blocks:
            module = dict(network.named_modules()).get(block.path)
            if module is None or not _is_called(module):
                continue
            is_apart = all(count == places[p] for p, count in count_places(module).items())
            if is_apart and module is not network:
                units.append(module)
    return units


def _networks(model: nn.Module) -> Iterator[nn.Module]:
    """What has blocks inside: each backbone, or the whole of any other model."""
    if not is_pair(model):
        yield model
        return
    backbone, _ = model.children()
    yield from members_of(backbone).values()


def _is_called(module: nn.Module) -> bool:
    """Whether it has layers inside, and is no mere list of them, which nobody calls."""
    is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
    return not is_list and any(True for _ in module.children())
