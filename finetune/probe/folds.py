"""Folds: which examples are held out together."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from finetune.randomness import generator

NEVER = -1
"""The fold of an example that is never held out."""


def assign_folds(
    strata: Sequence[Tensor],
    groups: Sequence[Hashable] | None,
    count: int,
    folds: int,
    seed: int,
) -> Tensor:
    """The fold of each of `count` examples, [N] int64 in [0, folds), or `NEVER`.

    Each fold has its share of every stratum. What is alone in its stratum is in no fold, because
    nothing could be learnt of a class that is held out with it; but where that leaves no example
    to hold out, strata are ignored.
    strata: numbers of the examples that are alike, such as those of a class. groups: of each
    example; examples of one group are in one fold, and count for the stratum of the first of them.

    >>> assign_folds([torch.tensor([0, 2, 3, 5]), torch.tensor([1])], None, 6, 2, seed=0).tolist()
    [1, -1, 1, 0, -1, 0]
    """
    stratum_of = torch.full((count,), len(strata))
    for stratum, members in enumerate(strata):
        stratum_of[members] = stratum
    units: dict[Hashable, list[int]] = {}
    for example in range(count):
        unit = example if groups is None else groups[example]
        units.setdefault(unit, []).append(example)
    units_by_stratum: dict[int, list[list[int]]] = {}
    for members_of_unit in units.values():
        stratum = int(stratum_of[members_of_unit[0]])
        units_by_stratum.setdefault(stratum, []).append(members_of_unit)
    can_hold_out = any(len(alike) > 1 for alike in units_by_stratum.values())
    if not can_hold_out:
        units_by_stratum = {0: list(units.values())}

    fold_of = torch.full((count,), NEVER)
    dealt = 0
    for stratum, alike in sorted(units_by_stratum.items()):
        if len(alike) == 1:
            continue
        order = torch.randperm(len(alike), generator=generator(seed, "folds", stratum)).tolist()
        # each stratum begins where the one before ended, so that the folds are of one size
        for position, unit_number in enumerate(order):
            fold_of[alike[unit_number]] = (dealt + position) % folds
        dealt += len(alike)
    return fold_of
