"""Soups: the mean of the weights of several trainings, of those that validation gains by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from finetune import export, turns
from finetune.tables import Column, Table
from finetune.tasks.ranking import rank
from finetune.training import checkpoint as checkpoints
from finetune.training.checkpoint import CheckpointError
from finetune.training.content import check as check_content
from finetune.training.setup import Setup
from finetune.wording import number

State: TypeAlias = dict[str, Any]
"""A module's `state_dict`."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One training's weights. name: for people. read: gives them, each time from their file."""

    name: str
    classes: Sequence[str] | None
    read: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Soup:
    """What a soup is made of.

    results: name -> what validation gave for the weights alone, the best first. taken: the names of
    those whose mean the weights are now, in the order in which they were added. validation: what it
    gives for the mean; never worse than for the best alone.
    """

    results: Mapping[str, Mapping[str, float]]
    taken: tuple[str, ...]
    validation: Mapping[str, float]

    def __str__(self) -> str:
        names = list(self.validation)
        columns = [Column("weights", words=True), *map(Column, names), Column("taken", words=True)]
        rows = []
        for name, results in self.results.items():
            is_taken = "yes" if name in self.taken else "no"
            rows.append([name, *(number(results[metric]) for metric in names), is_taken])
        rows.append(["the soup", *(number(value) for value in self.validation.values()), ""])
        return Table(columns, rows).text()


def of_setup(name: str, setup: Setup) -> Ingredient:
    """The weights of a learner as they are now."""
    # copies: one of the learners may be the one whose model gets the soup
    weights = {name: _copied(value) for name, value in setup.model.state_dict().items()}
    return Ingredient(name, setup.data.classes, lambda: weights)


def of_checkpoint(path: Path) -> Ingredient:
    """The weights that `learner.load(path)` would give a learner."""
    return Ingredient(str(path), _read(path)["classes"], lambda: _weights_of(path))


def _read(path: Path) -> dict[str, Any]:
    content = checkpoints.read(path)
    check_content(content, path)
    return content


def _weights_of(path: Path) -> State:
    content = checkpoints.read(path)
    if content["optimizer"].get("mode", {}).get("is_training"):
        raise CheckpointError(
            f"{str(path)!r} was saved while a schedule-free optimizer trained, and holds no "
            "weights to use as they are; load() it into a learner, and pass that"
        )
    weights: State = content["model"]
    average = content.get("average")
    # in the middle of a run the average lies beside the weights that train
    if average is not None and not average["in_place"]:
        weights.update(average["kept"])
    return weights


def of_exported(folder: Path, name: str | None = None) -> Ingredient:
    """The weights of an exported model. name: what the user calls it, by default the folder."""
    description = export.read_description(folder)

    def read() -> State:
        model = description.architecture.build(weights=None)
        export.read_weights(folder, model)
        return model.state_dict()

    return Ingredient(name or str(folder), description.classes, read)


def check_fits(ingredient: Ingredient, model: nn.Module, classes: Sequence[str] | None) -> None:
    """Raises ValueError, with the difference, for weights of another model or other classes."""
    name = ingredient.name
    if None not in (ingredient.classes, classes):
        expected, theirs = list(classes or ()), list(ingredient.classes or ())
        if theirs != expected:
            raise ValueError(
                f"{name} is for the classes {theirs}, this learner for {expected}; a soup is of "
                "trainings of one model on one set of classes"
            )
    differences = checkpoints.differences_in_words(ingredient.read(), model.state_dict())
    if differences:
        raise ValueError(
            f"{name} is of another model: {differences}; a soup is of trainings of one model, with "
            "the same backbone and head"
        )


def make_soup(
    model: nn.Module,
    ingredients: Sequence[Ingredient],
    validate: Callable[[], dict[str, float]],
) -> Soup:
    """Gives the model the greedy soup of ingredients that fit; after an error, what it had.

    Floating point weights and buffers are averaged, all else is that of the best alone.
    Source: Wortsman et al. 2022, https://arxiv.org/abs/2203.05482, recipe 1.
    """
    before = {name: _copied(value) for name, value in model.state_dict().items()}
    soup = before
    try:
        results = {}
        for ingredient in ingredients:
            _place(model, ingredient.read())
            results[ingredient.name] = validate()
        # of equal ones the first stays the first
        in_order = sorted(ingredients, key=lambda made: rank(results[made.name]), reverse=True)
        best, *next_best = in_order
        names_taken = [best.name]
        mean = {name: _copied(value) for name, value in best.read().items()}
        validation = results[best.name]
        for ingredient in next_best:
            candidate = _mean_with(mean, ingredient.read(), 1 / (len(names_taken) + 1))
            _place(model, candidate)
            candidate_results = validate()
            if rank(candidate_results) >= rank(validation):
                mean, validation = candidate, candidate_results
                names_taken.append(ingredient.name)
        soup = mean
    finally:
        _place(model, soup)
    ordered_results = {ingredient.name: results[ingredient.name] for ingredient in in_order}
    return Soup(ordered_results, tuple(names_taken), validation)


def _mean_with(mean: State, weights: Mapping[str, Any], share: float) -> State:
    """The mean after one more has been added, of which its share is this."""
    candidate = {}
    for name, value in mean.items():
        candidate[name] = value
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            candidate[name] = value.lerp(weights[name].detach().to(value.device), share)
    return candidate


def _copied(value: Any) -> Any:
    """A tensor in main memory; anything else as it is."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return value


@torch.no_grad()
def _place(model: nn.Module, weights: Mapping[str, Any]) -> None:
    with turns.alone():
        model.load_state_dict(dict(weights))
