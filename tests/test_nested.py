"""Tensors inside tuples, mappings and data classes."""

from collections import OrderedDict, UserDict
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.nested import (
    concatenated,
    count_examples,
    main_output,
    main_target,
    map_tensors,
    rows_of,
    tensors_in,
)


class Pair(NamedTuple):
    label: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Answer:
    logits: Tensor
    auxiliary: Tensor


@dataclass
class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """A mapping that is a data class, as transformers' is: entries are attributes as well."""

    loss: Any = None
    logits: Any = None

    def __post_init__(self) -> None:
        for field in fields(self):
            super().__setitem__(field.name, getattr(self, field.name))

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        super().__setattr__(name, value)


EIGHT = torch.arange(8.0)
STRUCTURES = [
    EIGHT,
    (EIGHT, EIGHT),
    {"label": EIGHT},
    {"label": EIGHT, "more": [EIGHT, {"deep": EIGHT}]},
    Pair(EIGHT, EIGHT),
    Answer(EIGHT, EIGHT),
    ModelOutput(logits=EIGHT),
    UserDict(label=EIGHT),
    MappingProxyType({"label": EIGHT}),
    {"label": EIGHT, "path": list("abcdefgh")},
    EIGHT.numpy(),
]


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda value: type(value).__name__)
def test_every_structure_has_as_many_examples_as_its_tensors_have_rows(structure: Any) -> None:
    assert count_examples(structure) == 8
    assert count_examples(rows_of(structure, slice(2, 5), 8)) == 3
    assert count_examples(concatenated([structure, structure])) == 16


@pytest.mark.parametrize("structure", STRUCTURES[:8], ids=lambda value: type(value).__name__)
def test_a_structure_keeps_its_type(structure: Any) -> None:
    doubled = map_tensors(lambda tensor: tensor * 2, structure)
    assert type(doubled) is type(structure)
    assert all(torch.equal(tensor, EIGHT * 2) for tensor in tensors_in(doubled))
    assert EIGHT[1] == 1  # nothing changes in place


def test_a_tensor_without_dimensions_counts_nothing() -> None:
    assert count_examples((EIGHT, torch.tensor(0.5))) == 8
    assert rows_of((EIGHT, torch.tensor(0.5)), slice(0, 2), 8)[1] == 0.5


def test_tensors_of_different_sizes_are_refused_with_their_shapes() -> None:
    with pytest.raises(ValueError, match=r"its number of examples, .*\[5, 2\].*\{'label': \[4\]\}"):
        count_examples(torch.zeros(5, 2), {"label": torch.zeros(4)})


def test_what_has_no_tensors_is_counted_as_a_list_or_refused() -> None:
    assert count_examples(["a", "b"], None) == 2
    with pytest.raises(ValueError, match="no tensors by which to count its examples, but dict"):
        count_examples({"a": 1})


def test_rows_of_a_list_of_texts_are_texts() -> None:
    assert rows_of({"path": ["a.jpg", "b.jpg"], "of": "all"}, slice(1, 2), 2) == {
        "path": ("b.jpg",),
        "of": "all",
    }


def test_rows_are_taken_by_number_as_well() -> None:
    rows = rows_of((EIGHT, list("abcdefgh")), torch.tensor([7, 0]), 8)
    assert rows[0].tolist() == [7, 0]
    assert rows[1] == ("h", "a")


def test_batches_of_different_images_can_not_be_put_together() -> None:
    with pytest.raises(
        ValueError, match=r"different shapes can't be put together: \[2, 3\], \[2, 4"
    ):
        concatenated([torch.zeros(2, 3), torch.zeros(2, 4)])


def test_arrays_and_numbers_of_batches_are_put_together() -> None:
    arrays, numbers = concatenated([(np.ones(2), torch.tensor(1.0))] * 2)
    assert len(arrays) == 4
    assert numbers.tolist() == [1, 1]


@pytest.mark.parametrize(
    "outputs",
    [
        EIGHT,
        (EIGHT, torch.zeros(1)),
        [EIGHT, torch.zeros(1)],
        {"features": torch.zeros(1), "logits": EIGHT},
        {"out": EIGHT},
        {"out": (EIGHT, torch.zeros(1))},
        ModelOutput(loss=torch.zeros(1), logits=EIGHT),
        Answer(EIGHT, torch.zeros(1)),
    ],
    ids=repr,
)
def test_the_main_output_is_the_first_the_logits_or_the_only_one(outputs: Any) -> None:
    assert main_output(outputs) is EIGHT


def test_outputs_that_do_not_say_which_counts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"which of the model's outputs 'a', 'b' counts.*'logits'"):
        main_output({"a": EIGHT, "b": EIGHT})


@pytest.mark.parametrize(
    "targets", [EIGHT, (EIGHT, torch.ones(8)), {"weight": torch.ones(8), "label": EIGHT}]
)
def test_the_main_target_is_the_first_or_the_label(targets: Any) -> None:
    assert main_target(targets) is EIGHT
