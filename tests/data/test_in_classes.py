"""Labels of one data set, numbered by the classes of another."""

import pytest
import torch

from finetune.data.examples import Examples
from finetune.tasks import Regression, SingleLabel


def test_labels_go_by_name_and_none_stays_none() -> None:
    own = Examples(["a", "b", "c"], torch.tensor([1, 0, -1]), ("cat", "dog"))
    found = own.in_classes(("dog", "owl", "cat"), SingleLabel())
    assert found.labels.tolist() == [0, 2, -1]
    assert found.classes == ("dog", "owl", "cat")
    assert own.in_classes(own.classes, SingleLabel()) is own


def test_a_class_without_an_image_may_be_missing() -> None:
    own = Examples(["a"], torch.tensor([1]), ("cat", "dog"))
    assert own.in_classes(("dog", "owl"), SingleLabel()).labels.tolist() == [0]
    with pytest.raises(ValueError, match="no class 'dog' to compare with; did you mean 'dogs'"):
        own.in_classes(("cat", "dogs"), SingleLabel())


def test_other_tasks_must_agree() -> None:
    own = Examples(["a"], torch.ones(1, 2), ("x", "y"), Regression())
    with pytest.raises(ValueError, match="targets x, y, here they are y, x"):
        own.in_classes(("y", "x"), Regression())
    with pytest.raises(ValueError, match="are for 'regression', not for 'single_label'"):
        own.in_classes(("x", "y"), SingleLabel())
