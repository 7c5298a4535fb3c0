"""Labels of one data set, numbered by the classes of another."""

import pytest
import torch

from finetune.data.examples import Examples
from finetune.data.relabelling import relabelled


def test_labels_go_by_name_and_none_stays_none() -> None:
    own = Examples(["a", "b", "c"], torch.tensor([1, 0, -1]), ("cat", "dog"))
    found = relabelled(own, ("dog", "owl", "cat"), "single_label")
    assert found.labels.tolist() == [0, 2, -1]
    assert found.classes == ("dog", "owl", "cat")
    assert relabelled(own, own.classes, "single_label") is own


def test_a_class_without_a_image_may_be_missing() -> None:
    own = Examples(["a"], torch.tensor([1]), ("cat", "dog"))
    assert relabelled(own, ("dog", "owl"), "single_label").labels.tolist() == [0]
    with pytest.raises(ValueError, match="no class 'dog' to compare with; did you mean 'dogs'"):
        relabelled(own, ("cat", "dogs"), "single_label")


def test_other_tasks_must_agree() -> None:
    own = Examples(["a"], torch.ones(1, 2), ("x", "y"), "regression")
    with pytest.raises(ValueError, match="targets x, y, here they are y, x"):
        relabelled(own, ("y", "x"), "regression")
    with pytest.raises(ValueError, match="are for 'regression', not for 'single_label'"):
        relabelled(own, ("x", "y"), "single_label")
