"""The order in which the modules of a network run, as far as its tree of modules tells it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

# Classes whose stages do not run in the order in which their modules are registered. For the stage
# of number {}: the path of its blocks, of what leads into them, and of what they share.
_STAGED = {
    "CoaT": ("serial_blocks{}", "patch_embed{}", "cpe{}", "crpe{}"),
    "FasterNet": ("stages.{}.blocks", "stages.{}.downsample"),
    "Twins": ("blocks.{}", "patch_embeds.{}", "pos_block.{}"),
}
_STAGE_NUMBERS = range(10)  # more than any of them has; CoaT counts from 1


@dataclass(frozen=True, slots=True)
class Child:
    """A child of a module.

    before: paths and modules of what runs right before it, for the stages of `_STAGED` only: first
    what leads into the stage, then what its blocks share.
    """

    path: str
    module: nn.Module
    before: list[tuple[str, nn.Module]] = field(default_factory=list)


def modules_in_order(
    module: nn.Module, path: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """Yields the module and those under it, each once, with their paths, in order of depth.

    It is `named_modules()`, except for the classes that do not register modules as they run. Of
    those, the containers of stages are left out, and only their contents are yielded.
    path: of the module itself. seen: identities of modules to leave out; it grows by those yielded.

    >>> [path for path, _ in modules_in_order(nn.Sequential(nn.ReLU(), nn.Flatten()))]
    ['', '0', '1']
    """
    if seen is None:
        seen = set()
    if id(module) in seen:
        return
    seen.add(id(module))
    yield path, module
    for child in children_in_order(module):
        in_order = [*child.before, (child.path, child.module)]
        for child_path, child_module in in_order:
            yield from modules_in_order(child_module, join_path(path, child_path), seen)


def children_in_order(module: nn.Module) -> list[Child]:
    """Returns the children in the order in which they run; their paths begin at the module.

    For a class of `_STAGED`, its stages take the place of the children that hold them.
    """
    children = [Child(name, child) for name, child in module.named_children()]
    templates = _STAGED.get(type(module).__name__)
    if templates is None:
        return children
    stages, holders = _read_stages(module, templates)
    in_order: list[Child] = []
    for child in children:
        if child.path not in holders:
            in_order.append(child)
        else:  # all stages stand where the first of their holders does
            in_order.extend(stages)
            stages = []
    return in_order


def _read_stages(module: nn.Module, templates: Sequence[str]) -> tuple[list[Child], set[str]]:
    """The stages of a network, and the names of the children that hold them.

    templates: the entry of the network's class in `_STAGED`.
    """
    modules = dict(module.named_modules())
    stages: list[Child] = []
    holders: set[str] = set()
    for number in _STAGE_NUMBERS:
        paths = [template.format(number) for template in templates]
        holders.update(path.partition(".")[0] for path in paths)
        present = [(path, modules[path]) for path in paths if path in modules]
        if present:
            (path, stage), *before = present
            stages.append(Child(path, stage, before))
    return stages, holders


def join_path(path: str, name: str) -> str:
    """The path of what is called `name` in the module at `path`, which is "" for the model."""
    return f"{path}.{name}" if path else name
