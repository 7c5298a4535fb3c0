from typing import Any

import numpy as np
import pytest
import torch

from finetune.data.sources.lists import from_marked, from_pairs
from finetune.tasks import resolve_task
from finetune.tasks.labels import class_names


def encode(labels: Any, classes: Any, task: Any) -> tuple[torch.Tensor, tuple[str, ...]]:
    return resolve_task(task).encode(labels, classes)


def test_several_labels_become_ones() -> None:
    targets, names = encode([["b", "a"], [], ("b",)], None, "multi_label")
    assert names == ("a", "b")
    assert torch.equal(targets, torch.tensor([[1.0, 1], [0, 0], [0, 1]]))


def test_one_class_is_enough_where_it_may_be_absent() -> None:
    assert encode([["a"], []], None, "multi_label")[1] == ("a",)


def test_no_label_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one class"):
        encode([[], []], None, "multi_label")


@pytest.mark.parametrize("label", ["a b", 3, [0, 2], np.array([0.5, 1])])
def test_labels_of_an_image_are_a_list(label: object) -> None:
    with pytest.raises(ValueError, match="labels of an image are a list of names"):
        encode([["a"], label], None, "multi_label")


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        ([1, 2.5], [[1.0], [2.5]], ("target",)),
        (["3", "-4e1"], [[3.0], [-40.0]], ("target",)),
        ([(1, 2), [3, 4]], [[1.0, 2], [3, 4]], ("target_0", "target_1")),
        (np.array([[1, 2], [3, 4]]), [[1.0, 2], [3, 4]], ("target_0", "target_1")),
        (torch.tensor([1, 2]), [[1.0], [2.0]], ("target",)),
    ],
)
def test_numbers_become_columns(labels: object, expected: list, names: tuple[str, ...]) -> None:
    targets, found = encode(labels, None, "regression")  # type: ignore[arg-type]
    assert (targets.tolist(), found) == (expected, names)


@pytest.mark.parametrize("label", ["tall", float("nan"), None, [], float("inf")])
def test_what_is_no_number_is_named(label: object) -> None:
    with pytest.raises(ValueError, match="target of image 1 is no finite number"):
        encode([1, label], None, "regression")


def test_images_have_the_same_number_of_targets() -> None:
    with pytest.raises(ValueError, match="image 1 has 1 targets, the first one has 2"):
        encode([[1, 2], [1]], None, "regression")


def test_targets_have_as_many_names() -> None:
    with pytest.raises(ValueError, match=r"there are 1 targets but 2 names: \['a', 'b'\]"):
        encode([1, 2], ["a", "b"], "regression")


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_label_that_the_given_classes_lack_is_named(task: str) -> None:
    labels = ["a", "c"] if task == "single_label" else [["a"], ["c"]]
    with pytest.raises(ValueError, match="labels that classes= lacks: 'c'; it has 'a', 'b'"):
        encode(labels, ["a", "b"], task)  # type: ignore[arg-type]


def test_marked_label_that_training_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="validation has classes that training lacks: 'c'"):
        from_marked(list("12"), [["a"], ["c"]], [False, True], 0.2, 0, task="multi_label")


@pytest.mark.parametrize(("task", "label"), [("multi_label", ["a"]), ("regression", 1.5)])
def test_random_split_is_of_all_images(task: str, label: object) -> None:
    whole = from_pairs([str(i) for i in range(50)], [label] * 50, task=task)  # type: ignore[arg-type]
    train, valid = whole.split(0.2, seed=0)
    assert 5 <= len(valid) <= 15
    assert sorted(map(int, [*train.items, *valid.items])) == list(range(50))  # type: ignore[list-item, arg-type]
    assert valid.items != whole.split(0.2, seed=1)[1].items
    assert train.task == valid.task == resolve_task(task)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_labels_may_be_ones_and_zeros_of_given_classes(kind: Any) -> None:
    targets, names = encode(kind([[1, 0, 1], [0, 0, 0]]), ("c", "b", "a"), "multi_label")
    assert names == ("c", "b", "a")
    assert targets.tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("classes", [None, ("a", "b", "c")])
def test_ones_and_zeros_need_as_many_classes(classes: Any) -> None:
    with pytest.raises(ValueError, match="2 numbers 1 and 0, which need classes= with as many nam"):
        encode([[1, 0]], classes, "multi_label")


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_class_numbers_may_be_an_array_or_a_tensor(kind: Any) -> None:
    assert from_pairs(list("123"), kind([7, 5, 7])).classes == ("5", "7")
    train, _ = from_marked(list("123"), kind([7, 5, 7]), [False, False, True], 0.2, 0)
    assert train.classes == ("5", "7")


MISSING = [None, float("nan"), np.float32("nan"), torch.tensor(float("nan"))]


@pytest.mark.parametrize("label", MISSING)
def test_missing_label_is_named_with_its_image(label: object) -> None:
    with pytest.raises(ValueError, match=r"image 1 has no label, but (None|nan); leave it out or"):
        encode(["a", label, "b"], None, "single_label")
    with pytest.raises(ValueError, match=r"image 2 has no label"):  # and not of its side
        from_marked(list("123"), ["a", "b", label], [False, True, False], 0.2, 0)


def test_missing_value_of_pandas_is_no_label() -> None:
    pandas = pytest.importorskip("pandas")
    for missing in (pandas.NA, pandas.NaT):
        with pytest.raises(ValueError, match="image 1 has no label"):
            encode(["a", missing], None, "single_label")


@pytest.mark.parametrize("labels", [[["a"], ["b"]], [("a",), ("b",)], np.array([["a"], ["b"]])])
def test_list_of_labels_asks_for_its_task(labels: Any) -> None:
    with pytest.raises(ValueError, match=r"image 0 needs one class name, got .* task='multi_label"):
        encode(labels, None, "single_label")


def test_numbers_of_arrays_and_tensors_name_classes() -> None:
    labels = [torch.tensor(7), np.int64(5), np.array(7), 5, np.str_("x")]
    assert encode(labels, None, "single_label")[1] == ("5", "7", "x")


@pytest.mark.parametrize(("task", "label"), [("single_label", "red"), ("multi_label", ["red"])])
def test_equal_names_of_classes_are_refused(task: Any, label: Any) -> None:
    with pytest.raises(ValueError, match="two classes are called 'red'; pass classes= with one na"):
        encode([label], ["blue", "red", "red"], task)


@pytest.mark.parametrize(
    ("task", "labels"),
    [("single_label", ["a"]), ("multi_label", [["a"]]), ("regression", [(1, 2)])],
)
def test_classes_may_be_an_array(task: Any, labels: list[Any]) -> None:
    assert encode(labels, np.array(["b", "a"]), task)[1] == ("b", "a")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [list, lambda labels: list(map(str, labels))])
def test_whole_numbers_are_in_their_own_order(kind: Any) -> None:
    assert encode(kind([10, 9, 11, 2]), None, "single_label")[1] == ("2", "9", "10", "11")


def test_a_float_that_is_a_whole_number_is_written_as_one():
    assert class_names([1.0, 0.0, np.float32(2), 0.5, "1.0"]) == ["1", "0", "2", "0.5", "1.0"]
