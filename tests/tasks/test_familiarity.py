"""How strange an image is, from energies and features alone."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.tasks import Familiarity, MultiLabel, PostProcessing, Regression, SingleLabel


def draw(seed: int, count: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Energies [N] and features [N, 6] around one direction. shift: how strange they are."""
    generator = torch.Generator().manual_seed(seed)
    energy = torch.randn(count, generator=generator) + shift
    features = torch.randn(count, 6, generator=generator) * 0.3
    features[:, 0] += 2
    features[:, 1] += shift
    return energy, features


@pytest.fixture(scope="module")
def familiarity() -> Familiarity:
    return Familiarity.fit(*draw(0, 200), draw(1, 500)[1])


def test_of_images_like_those_of_validation_a_twentieth_is_above_the_threshold(
    familiarity: Familiarity,
) -> None:
    of_validation = np.array(familiarity.unknown(*draw(0, 200)))
    assert (of_validation > 0.95).mean() == pytest.approx(0.05, abs=0.011)
    of_others = np.array(familiarity.unknown(*draw(2, 2000)))
    assert (of_others > 0.95).mean() == pytest.approx(0.05, abs=0.03)
    assert np.quantile(of_others, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.1)


def test_the_score_is_the_sum_of_two_standardised_measures(familiarity: Familiarity) -> None:
    energy, features = draw(0, 200)
    known = F.normalize(draw(1, 500)[1], dim=1)
    distance = 1 - (F.normalize(features, dim=1) @ known.T).max(dim=1).values
    expected = (energy - energy.mean()) / energy.std(correction=0)
    expected += (distance - distance.mean()) / distance.std(correction=0)
    assert familiarity.score(energy, features).numpy() == pytest.approx(expected.numpy(), abs=0.1)


def test_stranger_than_all_is_still_ordered_and_at_most_one(familiarity: Familiarity) -> None:
    energy, features = draw(3, 1)
    unknown = [familiarity.unknown(energy + more, features)[0] for more in (8, 9, 12, 1000)]
    assert 0.99 < unknown[0] < unknown[1] < unknown[2] <= unknown[3] == 1
    assert familiarity.unknown(energy - 1000, features) == [0]


def test_one_measure_is_enough() -> None:
    energy, features = draw(0, 200)
    by_energy = Familiarity.fit(energy, None, None)
    assert by_energy.features.numel() == 0
    assert np.argsort(by_energy.unknown(energy, None)).tolist()[-1] == int(energy.argmax())
    by_distance = Familiarity.fit(None, features, draw(1, 500)[1])
    strange = by_distance.unknown(None, -features)
    assert min(strange) > 0.99


def test_a_measure_that_never_varies_says_nothing() -> None:
    energy, features = torch.zeros(200), draw(0, 200)[1]
    fitted = Familiarity.fit(energy, features, draw(1, 500)[1])
    alone = Familiarity.fit(None, features, draw(1, 500)[1])
    assert fitted.unknown(energy, features) == pytest.approx(alone.unknown(None, features))


def test_it_is_what_it_was_from_plain_data_and_tensors(familiarity: Familiarity) -> None:
    settings = PostProcessing(familiarity=familiarity)
    again = PostProcessing.from_dict(settings.to_dict(), settings.tensors()).familiarity
    assert again is not None
    assert again.unknown(*draw(4, 50)) == familiarity.unknown(*draw(4, 50))
    assert familiarity.features.dtype == torch.float16


@pytest.mark.parametrize(
    ("content", "features", "error"),
    [
        ({"quantiles": [0.0], "count": 3}, torch.zeros(2, 2), "needs 101 quantiles .* it has 1"),
        ({"quantiles": [0.0] * 101, "count": 3}, torch.zeros(2), r"features \[M, F\], .* \[2\]"),
    ],
)
def test_damaged_content_is_refused(content: dict, features: Tensor, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Familiarity.from_dict(content, features)


def test_energies_are_low_where_a_class_is_seen() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.0, 0.0]])
    for task in (SingleLabel(), MultiLabel()):
        energy = task.energy(logits)
        assert energy is not None
        assert energy[0] < energy[1]
    assert SingleLabel().energy(logits)[1] == pytest.approx(-np.log(2))  # type: ignore[index]
    assert Regression().energy(logits) is None
