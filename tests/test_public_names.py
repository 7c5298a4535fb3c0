"""Every public name has an example that runs, and a place in the reference."""

import ast
import doctest
import re
from itertools import pairwise
from pathlib import Path

import pytest

import finetune
from finetune.dictionary import ATTRIBUTES, NAMES, OPTIONS
from finetune.optim import factories
from finetune.tasks import registered_tasks

PAGES = Path(__file__).resolve().parents[1] / "examples"
OBJECTS = ("adamw", "muon")
"""Public names that are neither classes nor functions: their docstrings stand below them."""


def docstring_below(name: str) -> str:
    """The string literal that follows the assignment to a name in `optim/factories.py`."""
    statements = ast.parse(Path(factories.__file__).read_text(encoding="utf-8")).body
    for statement, following in pairwise(statements):
        targets = [ast.unparse(target) for target in getattr(statement, "targets", [])]
        if isinstance(statement, ast.AnnAssign):
            targets = [ast.unparse(statement.target)]
        if name in targets:
            assert isinstance(following, ast.Expr)
            return str(ast.literal_eval(following.value))
    raise AssertionError(f"nothing is assigned to {name}")


@pytest.mark.parametrize("name", finetune.__all__)
def test_a_public_name_has_an_example(name: str) -> None:
    text = docstring_below(name) if name in OBJECTS else getattr(finetune, name).__doc__
    assert ">>> " in text


@pytest.mark.parametrize("name", OBJECTS)
def test_the_example_of_an_object_runs(name: str) -> None:
    parser = doctest.DocTestParser()
    example = parser.get_doctest(docstring_below(name), vars(factories).copy(), name, None, 0)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_reference_has_every_public_name_once() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES.glob("reference/*.md"))
    names = re.findall(r"^::: finetune\.(\w+)$", text, re.M)
    assert sorted(names) == sorted(finetune.__all__)


def test_the_list_of_metrics_has_those_of_each_task_in_order() -> None:
    text = (PAGES / "lists" / "metrics.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", text, re.M)
    built_in = registered_tasks()[:3]
    assert listed == [name for task in built_in for name in task.named_metrics()]


def test_the_list_of_backbones_has_those_of_the_tests() -> None:
    from test_families import TIMM, TORCHVISION

    text = (PAGES / "lists" / "backbones.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| (\w+) \| `(.+)` \|$", text, re.M)) == TIMM
    assert tuple(re.findall(r"`torchvision/(\w+)`[,.]", text)) == TORCHVISION


def test_the_list_of_words_is_the_table_of_which_errors_are_made() -> None:
    text = (PAGES / "lists" / "dictionary.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `\.?(\w+)=?` \| (.+?) \| (.+?) \| `(\w+)` \|$", text, re.M)
    words = [*OPTIONS, *ATTRIBUTES, *NAMES]
    assert listed == [(word.name, word.library, word.here, word.place) for word in words]
