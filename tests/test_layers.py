"""Imports point to a lower floor or into the same folder, never up."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import finetune

PACKAGE = Path(finetune.__file__).parent
FLOORS = (  # top to bottom; names on one floor do not import each other
    {"__main__"},
    {"cli"},
    {"demo", "comparison", "cross_validation", "serving"},
    {"config", "vision"},
    {"learner"},
    {"learner_options", "inference"},
    {"lr_finder", "callbacks"},
    {"training"},
    {"export"},
    {"optim", "data", "probe"},
    {"metrics"},
    {"models", "tasks", "cleaning"},
    {"interpret"},
    {"corrections", "web"},
    {"randomness", "distributed", "options", "tables", "arguments", "files"},
    {"wording", "dictionary", "nested", "turns", "modes", "forks", "launch", "image_size"},
)


def room_of(module: str) -> str:
    """finetune.data.images.decode -> data"""
    return module.split(".")[1]


def floor_of(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def is_module(name: str) -> bool:
    return (PACKAGE.parent / f"{name.replace('.', '/')}.py").is_file()


@cache
def modules() -> dict[Path, ast.Module]:
    """Each file of the package, parsed once for all tests."""
    return {file: ast.parse(file.read_text()) for file in PACKAGE.rglob("*.py")}


@cache
def imports() -> list[tuple[str, str]]:
    """(importing module, imported module) inside the package."""
    found = []
    for file, module in modules().items():
        importer = ".".join(["finetune", *file.relative_to(PACKAGE).with_suffix("").parts])
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("finetune"):
                for name in node.names:
                    target = f"{node.module}.{name.name}"
                    if node.module != "finetune" and not is_module(target):
                        target = str(node.module)
                    found.append((importer, target))
    return found


def test_no_module_leads_back_to_itself() -> None:
    """Not even by an import for types alone: what two files need of each other is a third one."""
    arrows: dict[str, set[str]] = {}
    for importer, imported in imports():
        if importer != imported and not importer.endswith("__init__"):
            arrows.setdefault(importer, set()).add(imported)
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_point_down_or_stay_in_their_folder() -> None:
    upward = []
    for importer, imported in imports():
        if importer == "finetune.__init__":
            continue
        above, below = room_of(importer), room_of(imported)
        if above != below and floor_of(above) >= floor_of(below):
            upward.append(f"{importer} -> {imported}")
    assert upward == []


def test_every_module_has_a_floor() -> None:
    rooms = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms - {"__init__"} == set().union(*FLOORS)


def imports_matplotlib(tree: ast.AST) -> bool:
    """But for type checking."""
    found = False
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= any(name.partition(".")[0] == "matplotlib" for name in names)
        found |= imports_matplotlib(node)
    return found


def test_only_the_figures_import_matplotlib() -> None:
    files = {file for file, module in modules().items() if imports_matplotlib(module)}
    assert files
    assert {file.parent.name for file in files} == {"interpret"}


def test_importing_finetune_loads_nothing_heavy_and_leaves_signals_alone() -> None:
    code = (
        "import signal, sys\n"
        "before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]\n"
        "import finetune\n"
        "heavy = {'matplotlib', 'torchmetrics', 'rich', 'jsonargparse', 'sklearn', 'pandas',\n"
        "    'onnx', 'onnxruntime', 'onnxscript', 'starlette', 'uvicorn', 'anywidget'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))\n"
        "print(before == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]
