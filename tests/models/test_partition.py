"""Groups partition a model by identity: no orphan, no overlap, tied weights once."""

import pytest
import torch
from torch import nn

from finetune.models.partition import modules_of_groups, partition_parameters


def chain(count: int = 2) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(2, 2) for _ in range(count)))


def test_every_parameter_is_in_the_group_of_its_module():
    model = chain()
    partition = partition_parameters(model, [("first", [model[0]]), ("second", [model[1]])])
    assert {group: list(named) for group, named in partition.items()} == {
        "first": ["0.weight", "0.bias"],
        "second": ["1.weight", "1.bias"],
    }
    assert all(
        parameter is model.get_parameter(name)
        for named in partition.values()
        for name, parameter in named.items()
    )


def test_zero_biases_of_equal_value_are_told_apart():
    model = chain(3)
    for layer in model:
        nn.init.zeros_(layer.bias)
        nn.init.ones_(layer.weight)
    partition = partition_parameters(model, [("a", [model[0]]), ("b", [model[1], model[2]])])
    identities = [id(p) for named in partition.values() for p in named.values()]
    assert identities == [id(p) for p in model.parameters()]


def test_members_may_be_bare_parameters():
    model = chain()
    groups = [("weights", [m.weight for m in model]), ("biases", [m.bias for m in model])]
    partition = partition_parameters(model, groups)
    assert list(partition["weights"]) == ["0.weight", "1.weight"]
    assert list(partition["biases"]) == ["0.bias", "1.bias"]


def test_orphans_are_named():
    model = chain(3)
    with pytest.raises(ValueError, match=r"2 parameters are in no layer group: 1.weight, 1.bias$"):
        partition_parameters(model, [("a", [model[0]]), ("b", [model[2]])])


def test_a_long_list_of_orphans_is_cut():
    model = chain(5)
    with pytest.raises(ValueError, match=r"8 parameters .*: 1.weight, .*, 3.weight, \.\.\.$"):
        partition_parameters(model, [("a", [model[0]])])


def test_a_module_in_two_groups_is_an_error_naming_parameter_and_groups():
    model = chain()
    with pytest.raises(ValueError, match=r"'1.weight' is in two groups, 'a' and 'b'"):
        partition_parameters(model, [("a", [model[0], model[1]]), ("b", [model[1]])])


def test_a_bare_parameter_in_two_groups_is_an_error():
    model = chain()
    members = [("a", [model[0], model[1].weight]), ("b", [model[1].bias, model[1].weight])]
    with pytest.raises(ValueError, match=r"'1.weight' is in two groups, 'a' and 'b'"):
        partition_parameters(model, members)


def test_a_module_in_one_group_and_its_parameter_in_another_is_an_error():
    model = chain()
    with pytest.raises(ValueError, match=r"'0.weight' is in two groups, 'a' and 'b'"):
        partition_parameters(model, [("a", [model[0]]), ("b", [model[0].weight, model[1]])])


def test_a_tied_weight_belongs_to_the_first_group_that_has_it_and_to_no_other():
    model = chain(3)
    model[2].weight = model[0].weight
    partition = partition_parameters(model, [("a", [model[0]]), ("b", [model[1], model[2]])])
    assert list(partition["a"]) == ["0.weight", "0.bias"]
    assert list(partition["b"]) == ["1.weight", "1.bias", "2.bias"]


def test_a_parameter_that_came_without_gradient_is_in_its_group():
    model = chain()
    model[0].weight.requires_grad_(False)
    partition = partition_parameters(model, [("a", [model[0]]), ("b", [model[1]])])
    assert list(partition["a"]) == ["0.weight", "0.bias"]


def test_a_parameter_of_another_model_is_an_error():
    model = chain()
    with pytest.raises(ValueError, match="group 'b' holds a parameter that is not in the model"):
        partition_parameters(model, [("a", [model]), ("b", [nn.Linear(2, 2)])])


def test_two_groups_of_one_name_are_an_error():
    model = chain()
    with pytest.raises(ValueError, match="two layer groups are called 'a'"):
        partition_parameters(model, [("a", [model[0]]), ("a", [model[1]])])


def test_a_group_without_parameters_that_could_train_is_an_error():
    model = nn.Sequential(nn.Module(), nn.Linear(2, 2))
    model[0].table = nn.Parameter(torch.arange(3), requires_grad=False)
    with pytest.raises(ValueError, match="layer group 'a' has no parameter that could train"):
        partition_parameters(model, [("a", [model[0]]), ("b", [model[1]])])


def test_a_member_that_is_no_module_is_an_error():
    model = chain()
    with pytest.raises(TypeError, match="holds modules or parameters, got <class 'str'>"):
        partition_parameters(model, [("a", ["0"])])


def modules_by_group(model: nn.Module, *members: list[nn.Module]) -> list[list[nn.Module]]:
    named = [(str(i), group) for i, group in enumerate(members)]
    return modules_of_groups(model, list(partition_parameters(model, named).values()))


def test_modules_without_parameters_go_with_their_predecessor():
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Dropout())
    first, second = modules_by_group(model, [model[1]], [model[3]])
    assert first == [model[0], model[1], model[2]]
    assert second == [model[3], model[4]]


def test_a_container_that_spans_groups_is_in_none():
    inner = chain()
    model = nn.Sequential(inner, nn.Linear(2, 2))
    first, second = modules_by_group(model, [inner[0]], [inner[1], model[1]])
    assert first == [inner[0]]
    assert second == [inner[1], model[1]]


def test_a_module_that_two_groups_use_is_in_the_first_only():
    shared = nn.Dropout()
    model = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), shared) for _ in range(2)))
    first, second = modules_by_group(model, [model[0]], [model[1]])
    assert shared in first
    assert shared not in second
