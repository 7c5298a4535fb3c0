import random
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.randomness import generator, isolated, key, seed_everything, uniforms


def global_draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


# --- key and generator


def test_key_is_always_the_same() -> None:
    assert key(0, "shuffle", 0) == 6104912743681336401
    assert key(42, "augment", 3, 7) == 7761548243326175864
    assert key(-1, "split") == 2692288291375243426


def test_key_fits_into_sixty_three_bits() -> None:
    assert all(0 <= key(seed, "p", seed) < 2**63 for seed in range(1000))


@pytest.mark.parametrize("other", [(1, "p", 2, 3), (0, "q", 2, 3), (0, "p", 4, 3), (0, "p", 2, 4)])
def test_key_depends_on_every_argument(other: tuple) -> None:
    assert key(0, "p", 2, 3) != key(*other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "p", 1, 23), (0, "p", 12, 3)),
        ((0, "p", 1), (0, "p1")),
        ((1, "2p"), (12, "p")),
        ((0, "p"), (0, "p", 0)),
        ((0, "p", 1, 2), (0, "p", 2, 1)),
        ((0, "p/1", 2), (0, "p", 1, 2)),
    ],
)
def test_key_depends_on_where_arguments_end(one: tuple, other: tuple) -> None:
    assert key(*one) != key(*other)


def test_key_takes_numbers_of_numpy_alike() -> None:
    assert key(np.int64(3), "p", np.int32(4)) == key(3, "p", 4)  # type: ignore[arg-type]


def test_keys_do_not_collide() -> None:
    keys = {key(*arguments) for arguments in product(range(20), "abc", range(30))}
    assert len(keys) == 20 * 3 * 30


def test_generator_repeats_and_depends_on_its_arguments() -> None:
    def order(*arguments: object) -> list[int]:
        return torch.randperm(50, generator=generator(*arguments)).tolist()  # type: ignore[arg-type]

    assert order(0, "p", 1) == order(0, "p", 1)
    assert len({tuple(order(0, "p", e)) for e in range(20)}) == 20


def test_generator_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(0, "p"))
    assert torch.equal(torch.get_rng_state(), before)


# --- uniforms


def names_of(count: int) -> list[str]:
    return [f"draw {number}" for number in range(count)]


def test_uniforms_are_always_the_same() -> None:
    """These are SplitMix64's, computed with Python's integers."""
    assert uniforms(0, "augment", 0, torch.tensor([0, 1, 1000000]), ["a", "b"]).tolist() == [
        [0.04575788974761963, 0.08270913362503052, 0.6864076852798462],
        [0.5756446719169617, 0.2691590189933777, 0.45836466550827026],
    ]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 10**9),
    index=st.integers(0, 2**40),
    count=st.integers(1, 40),
)
def test_uniforms_lie_in_zero_to_one_without_one(
    seed: int, epoch: int, index: int, count: int
) -> None:
    draws = uniforms(seed, "p", epoch, torch.arange(index, index + 5), names_of(count))
    assert draws.shape == (count, 5)
    assert draws.dtype == torch.float32
    assert bool(((draws >= 0) & (draws < 1)).all())


@settings(max_examples=30, deadline=None)
@given(indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=9))
def test_uniforms_of_an_example_do_not_depend_on_its_batch(indices: list[int]) -> None:
    names = names_of(5)
    together = uniforms(1, "p", 2, torch.tensor(indices), names)
    alone = [uniforms(1, "p", 2, torch.tensor([i]), names) for i in indices]
    assert torch.equal(together, torch.cat(alone, dim=1))


def test_a_number_is_keyed_by_its_name_and_not_by_its_place() -> None:
    before = uniforms(1, "p", 2, torch.arange(9), ["flip", "angle"])
    after = uniforms(1, "p", 2, torch.arange(9), ["angle", "new", "flip"])
    assert torch.equal(after[[2, 0]], before)


def test_uniforms_of_no_example_are_empty() -> None:
    assert uniforms(0, "p", 0, torch.arange(0), names_of(3)).shape == (3, 0)


def test_uniforms_leave_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    uniforms(0, "p", 0, torch.arange(10), names_of(3))
    assert torch.equal(torch.get_rng_state(), before)


def table(epoch: int = 0, seed: int = 0, purpose: str = "augment") -> torch.Tensor:
    """[20000, 6]: a row for each example."""
    return uniforms(seed, purpose, epoch, torch.arange(20000), names_of(6)).T


def test_uniforms_have_the_mean_and_variance_of_the_uniform_distribution() -> None:
    draws = table().double()
    assert (draws.mean(0) - 1 / 2).abs().max() < 0.01  # 5 standard errors
    assert (draws.var(0) - 1 / 12).abs().max() < 0.003


def test_uniforms_fill_every_bin_evenly() -> None:
    """Chi-square with 99 degrees of freedom is within 30 and 180 but once in a million."""
    for column in table().T:
        counts = torch.histc(column, 100, 0, 1)
        assert 30 < float(((counts - 200) ** 2 / 200).sum()) < 180


def test_pairs_of_uniforms_fill_the_square_evenly() -> None:
    draws = table()
    cells = (draws[:, :-1] * 10).long() * 10 + (draws[:, 1:] * 10).long()
    for column in cells.T:
        counts = torch.bincount(column, minlength=100).float()
        assert 30 < float(((counts - 200) ** 2 / 200).sum()) < 180


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])


def test_neighbouring_examples_are_not_correlated() -> None:
    draws = table()
    assert abs(correlation(draws[1:], draws[:-1])) < 0.015


def test_neighbouring_draws_are_not_correlated() -> None:
    off_diagonal = torch.corrcoef(table().T.double()) - torch.eye(6)
    assert off_diagonal.abs().max() < 0.035


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}, {"purpose": "mixup"}])
def test_neighbouring_streams_are_not_correlated(other: dict) -> None:
    one, two = table(), table(**other)
    assert abs(correlation(one, two)) < 0.015
    assert not torch.isin(one[:1], two[:100]).all()


def test_streams_of_two_epochs_do_not_overlap() -> None:
    """Both walk the same counter, so one could be the other, shifted."""
    rows = [{tuple(row) for row in table(epoch)[:5000].tolist()} for epoch in range(4)]
    assert len(set.union(*rows)) == 20000


# --- global generators


def test_isolated_puts_the_global_generators_back() -> None:
    with isolated():
        expected = global_draws()
    with isolated():
        seed_everything(7, "p")
        global_draws()
    assert global_draws() == expected


def test_isolated_puts_the_global_generators_back_after_an_exception() -> None:
    with isolated():
        expected = global_draws()

    def fail() -> None:
        global_draws()
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), isolated():
        fail()
    assert global_draws() == expected


def test_isolated_nests() -> None:
    with isolated():
        seed_everything(1, "p")
        with isolated():
            expected = global_draws()
        with isolated():
            seed_everything(2, "p")
        assert global_draws() == expected


def test_seed_everything_sets_every_global_generator() -> None:
    with isolated():
        seed_everything(0, "p", 1)
        first = global_draws()
        seed_everything(0, "p", 2)
        second = global_draws()
        seed_everything(0, "p", 1)
        assert global_draws() == first
    assert all(a != b for a, b in zip(first, second, strict=True))
