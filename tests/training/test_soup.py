"""learner.soup(): the mean of the weights of those trainings that validation gains by."""

from pathlib import Path

import pytest
import torch
from support import StopAt, copy_of, same_state, tiny_data, tiny_learner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from finetune import DataLoaders, Learner, SaveBest, vision_learner
from finetune.data.image_loaders import ImageDataLoaders
from finetune.training.record import training_record

SEEDS = (0, 1, 2)


def trained(seed: int = 0, groups: int = 2, **options: object) -> Learner:
    learner = tiny_learner(groups, data=tiny_data(seed=seed), metrics=["accuracy"], **options)
    learner.fit(1, 2e-2)
    return learner


@pytest.fixture(scope="module")
def learners() -> list[Learner]:
    return [trained(seed) for seed in SEEDS]


@pytest.fixture
def cook() -> Learner:
    """The learner that takes the soup; all validate on the same points."""
    return tiny_learner(metrics=["accuracy"])


def mean_of(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    mean = {}
    for name, value in states[0].items():
        mean[name] = value
        if value.is_floating_point():
            mean[name] = torch.stack([state[name] for state in states]).mean(dim=0)
    return mean


def test_the_weights_are_the_mean_of_those_that_were_taken(learners, cook):
    soup = cook.soup(learners)
    states = [learners[int(name[7])].model.state_dict() for name in soup.taken]
    assert len(states) > 1
    expected = mean_of(states)
    for name, value in cook.model.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_all_of_them_count_alike():
    """Three corners of a triangle, and a loss that is the distance from the middle of them all."""
    corners = torch.tensor([[0.0, 1.0], [-0.75, -0.5], [0.75, -0.5]])

    def distance(outputs: Tensor, targets: Tensor) -> Tensor:
        # outputs of the input 1 are the weights
        return outputs.square().sum(dim=1).mean()

    pairs = TensorDataset(torch.ones(4, 1), torch.zeros(4, dtype=torch.long))
    data = DataLoaders(DataLoader(pairs, 2), DataLoader(pairs, 4), classes=["no", "yes"])

    def at(weights: Tensor) -> Learner:
        model = nn.Linear(1, 2, bias=False)
        model.weight.data.copy_(weights[:, None])
        return Learner(
            data, model, loss=distance, split=lambda model: [[model]], progress=False, device="cpu"
        )

    cook = at(torch.ones(2))
    soup = cook.soup([at(corner) for corner in corners])
    assert len(soup.taken) == 3
    assert soup.validation["loss"] == pytest.approx(0, abs=1e-12)


def test_it_is_no_worse_than_the_best_alone(learners, cook):
    soup = cook.soup(learners)
    accuracies = [results["accuracy"] for results in soup.results.values()]
    assert accuracies == sorted(accuracies, reverse=True)
    assert soup.validation["accuracy"] > accuracies[0]
    assert cook.validate() == soup.validation


def test_what_harms_is_left_out(learners, cook):
    harmful = trained()
    with torch.no_grad():
        for parameter in harmful.model.parameters():
            parameter.neg_()
    soup = cook.soup([harmful, learners[0]])
    assert soup.taken == ("models[1]",)
    assert list(soup.results) == ["models[1]", "models[0]"]
    assert same_state(cook.model.state_dict(), learners[0].model.state_dict())


def test_files_give_what_they_would_give_a_learner(learners, cook, tmp_path: Path):
    paths = []
    for number, learner in enumerate(learners):
        paths.append(tmp_path / f"{number}.pt")
        learner.save(paths[-1])
    other = tiny_learner(metrics=["accuracy"])
    from_files, from_learners = cook.soup(paths), other.soup(learners)
    assert from_files.validation == from_learners.validation
    best = int(next(iter(from_learners.results))[7])
    assert next(iter(from_files.results)) == str(paths[best])
    assert same_state(cook.model.state_dict(), other.model.state_dict())


def test_the_best_epoch_of_an_average_is_the_average(cook, tmp_path: Path):
    best = SaveBest(tmp_path / "best.pt", mode="max")
    tiny_learner(ema=0.9).fit(2, 3e-2, callbacks=[best])
    loaded = tiny_learner(ema=0.9)
    loaded.load(tmp_path / "best.pt")
    cook.soup([tmp_path / "best.pt"])
    assert same_state(cook.model.state_dict(), loaded.model.state_dict())


def test_an_exported_folder_is_one_too(photos: Path, tmp_path: Path):
    def new() -> Learner:
        data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
        return vision_learner(data, "test_resnet", weights=None, head="linear", progress=False)

    learner = new()
    learner.fit(1, 1e-3, callbacks=[StopAt(1)])
    learner.export(tmp_path / "model")
    other = new()
    soup = other.soup([tmp_path / "model"])
    assert soup.taken == (str(tmp_path / "model"),)
    assert same_state(other.model.state_dict(), learner.model.state_dict())


def test_its_own_weights_may_be_among_them(learners):
    cook = trained()
    before = cook.validate()
    soup = cook.soup([cook, learners[1]])
    assert soup.results["models[0]"] == before


def test_the_history_and_the_card_have_its_results(learners, cook):
    cook.fit(1)
    soup = cook.soup(learners)
    row = cook.history.epochs[-1]
    assert (row.phase, row.valid) == ("soup", soup.validation)
    history = cook.history
    record = training_record(cook.trainer.setup, history.steps, history.epochs)
    assert record.validation == soup.validation
    cook.fit(1)
    record = training_record(cook.trainer.setup, history.steps, history.epochs)
    assert record.validation == history.epochs[-1].valid


def test_it_is_printed_as_a_table(learners, cook):
    soup = cook.soup(learners)
    header, *_, last = str(soup).splitlines()
    assert header.split() == ["weights", "loss", "accuracy", "taken"]
    assert last.split()[:2] == ["the", "soup"]
    assert f"{soup.validation['accuracy']:.4f}" in last


def test_an_unfinished_run_is_given_up(learners, cook):
    cook.fit(1, callbacks=[StopAt(2)])
    cook.soup(learners)
    with pytest.raises(RuntimeError, match="no unfinished run"):
        cook.resume()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: tiny_learner(3), r"models\[1\] is of another model: .*1.0.weight is not in this"),
        (
            lambda: tiny_learner(data=DataLoaders(*_loaders(), classes=["yes", "no"])),
            r"models\[1\] is for the classes \['yes', 'no'\], this learner for \['no', 'yes'\]",
        ),
    ],
    ids=["model", "classes"],
)
def test_weights_of_something_else_are_an_error_that_says_what(learners, cook, other, message):
    before = copy_of(cook.model.state_dict())
    with pytest.raises(ValueError, match=message):
        cook.soup([learners[0], other()])
    assert same_state(before, cook.model.state_dict())


def _loaders() -> tuple:
    data = tiny_data()
    return data.train, data.valid


def test_an_error_in_validation_leaves_the_weights(learners):
    def accuracy(outputs: Tensor, targets: Tensor) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("now")
        return 1.0

    calls: list[int] = []
    cook = tiny_learner(metrics=[accuracy])
    before = copy_of(cook.model.state_dict())
    with pytest.raises(RuntimeError, match="now"):
        cook.soup(learners)
    assert same_state(before, cook.model.state_dict())


def test_there_must_be_something_to_choose_from_and_by(learners, cook):
    with pytest.raises(ValueError, match="models has none"):
        cook.soup([])
    with pytest.raises(ValueError, match="there is no validation data"):
        tiny_learner(data=DataLoaders(_loaders()[0], classes=["no", "yes"])).soup(learners)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        cook.soup(["nowhere.pt"])


def test_counts_are_those_of_the_best(learners, cook):
    longer = trained()
    longer.fit(1, 1e-5)
    soup = cook.soup([learners[1], longer])
    best = [learners[1], longer][int(soup.taken[0][7])]
    name = "0.1.num_batches_tracked"
    assert torch.equal(cook.model.state_dict()[name], best.model.state_dict()[name])
