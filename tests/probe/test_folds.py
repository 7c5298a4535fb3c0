"""Folds: every stratum in its share, groups together."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.probe.folds import NEVER, assign_folds


def strata_of(labels: list[int]) -> list[torch.Tensor]:
    targets = torch.tensor(labels)
    return [torch.nonzero(targets == label).flatten() for label in range(max(labels) + 1)]


@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.integers(2, 5))
def test_every_fold_has_its_share_of_every_class(labels: list[int], folds: int):
    fold_of = assign_folds(strata_of(labels), None, len(labels), folds, seed=0)
    for stratum in strata_of(labels):
        counts = torch.bincount(fold_of[stratum].clamp_min(0), minlength=folds)
        if len(stratum) > 1:
            assert counts.max() - counts.min() <= 1


@given(st.lists(st.integers(0, 9), min_size=10, max_size=60))
def test_a_group_is_in_one_fold(groups: list[int]):
    labels = [number % 2 for number in range(len(groups))]
    fold_of = assign_folds(strata_of(labels), groups, len(groups), 3, seed=0)
    for group in set(groups):
        members = [fold for fold, of in zip(fold_of.tolist(), groups, strict=True) if of == group]
        assert len(set(members)) == 1


def test_what_is_alone_in_its_class_is_never_held_out():
    assert assign_folds(strata_of([0, 0, 1, 0]), None, 4, 2, seed=0)[2] == NEVER


def test_where_all_are_alone_they_are_held_out_nevertheless():
    fold_of = assign_folds(strata_of([0, 1, 2, 3]), None, 4, 2, seed=0)
    assert sorted(fold_of.tolist()) == [0, 0, 1, 1]
