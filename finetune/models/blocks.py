"""The blocks of a network in order of depth, read from its tree of modules; nothing is run.

Containers are opened and blocks are not. What is opened becomes a chain of pieces: further chains,
blocks (two or more layers with weights), and what belongs to a neighbouring block (one layer, a
norm, a position embedding). A chain of no block is itself one piece, as a stem of convolutions is.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# A module that is no container is a stage, and opened, if it has one of these...
_CHAINS = ("blocks", "layers", "transformer_encoder")
# ...unless it stands in a container of blocks: there, it is a block of several parts.
_IN_BLOCKS = re.compile(r"(^|\.)blocks(\.\d+)+(\.layers\.\d+)?$")
# One piece, whatever is inside: what leads into blocks, and what mixes the outputs of all stages.
_CLOSED = ("stem", "downsample", "global_block", "incre_modules")
# Exceptions by class. RegStage loops over its children as if it were a Sequential; torchvision
# says MaxVitBlock to a stage, its blocks are called MaxVitLayer.
_STAGES = ("RegStage", "MaxVitBlock")
# Classes whose stages do not run in the order in which their parts are registered: the stage, what
# leads into it, and what its blocks share. {} is 0, 1, ...
_STAGED = {
    "CoaT": ("serial_blocks{}", "patch_embed{}", "cpe{}", "crpe{}"),
    "FasterNet": ("stages.{}.blocks", "stages.{}.downsample"),
    "Twins": ("blocks.{}", "patch_embeds.{}", "pos_block.{}"),
}


@dataclass(frozen=True, slots=True)
class Block:
    """A block, with what leads into it and what follows it up to the next."""

    path: str
    parameters: list[nn.Parameter]


@dataclass(frozen=True, slots=True)
class Stage:
    """Neighbouring blocks in one container."""

    path: str
    blocks: list[Block]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for block in self.blocks for p in block.parameters]


@dataclass(frozen=True, slots=True)
class Body:
    """A network without its head, first layers first.

    stem: what runs before the first stage, and what the network itself owns (class token, position
    embedding); may be empty. What runs after the last block is in the last block.
    """

    stem: list[nn.Parameter]
    stages: list[Stage]

    @property
    def blocks(self) -> list[Block]:
        return [block for stage in self.stages for block in stage.blocks]


@dataclass(slots=True)
class _Piece:
    """A module and all parameters under it; chain: its pieces, if it was opened.

    weights: how many matrices and kernels it has.
    """

    path: str
    parameters: list[nn.Parameter]
    weights: int
    chain: list["_Piece"] = field(default_factory=list)

    @property
    def is_block(self) -> bool:
        return bool(self.chain) or self.weights > 1


def read_body(network: nn.Module, without: Collection[int] = ()) -> Body:
    """The stem, stages and blocks of a network.

    without: identities of parameters to leave out, such as the classifier's. A stage is a chain on
    the outermost level that has several, or else the only chain there is. A tied weight belongs to
    the first place that has it.

    >>> layers = [nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(3)]
    >>> body = read_body(nn.Sequential(nn.Linear(2, 2), nn.Sequential(*layers)))
    >>> [block.path for block in body.blocks], len(body.stem)
    (['1.0', '1.1', '1.2'], 2)
    """
    pieces = _outermost_level(_Reader(network, without).read(network).chain)
    if not any(piece.chain for piece in pieces):  # the network itself is the only stage
        start = _first(piece.is_block for piece in pieces)
        pieces[start:] = [_Piece("body", [], 2, pieces[start:])]
    start = _first(bool(piece.chain) for piece in pieces)
    stem, rest = pieces[:start], pieces[start:]
    if not stem:  # it is in the first stage's container
        chain = rest[0].chain
        start = _first(piece.is_block for piece in chain)
        stem, chain[:] = chain[:start], chain[start:]
    stages: list[Stage] = []
    before: list[_Piece] = []
    for piece in rest:
        before.append(piece)
        if piece.chain:
            stages.append(Stage(piece.path, _blocks(before)))
            before = []
    if stages and stages[-1].blocks:
        stages[-1].blocks[-1].parameters.extend(_parameters(before))
    return Body(_parameters(stem), [stage for stage in stages if stage.blocks])


def modules_in_order(
    module: nn.Module, path: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """The module and those under it, each once, with their paths, in order of depth.

    It is `named_modules()`, but for the classes that do not register modules as they run.

    >>> [path for path, _ in modules_in_order(nn.Sequential(nn.ReLU(), nn.Flatten()))]
    ['', '0', '1']
    """
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    yield path, module
    for stage, *parts in _children_in_order(module):
        for name, child in [*parts, stage]:
            yield from modules_in_order(child, f"{path}.{name}" if path else name, seen)


class _Reader:
    """Reads pieces from a tree of modules; each parameter is in the first that has it."""

    def __init__(self, network: nn.Module, without: Collection[int]) -> None:
        self.taken = set(without)
        named = network.named_parameters()
        weights = {id(p) for name, p in named if p.ndim > 1 and name.endswith("weight")}
        self.weights = weights - self.taken

    def read(self, module: nn.Module, path: str = "") -> _Piece:
        opened = not path or _is_opened(module, path)
        if not opened and not self._may_wrap_a_network(module, path):
            return self._piece(module, path)
        pieces = [self._piece(module, path, own=True)]
        prefix = f"{path}." if path else ""
        for (name, child), *parts in _children_in_order(module):
            before = [self._piece(part, prefix + part_name) for part_name, part in parts]
            stage = self.read(child, prefix + name)
            pieces.extend([*before[:1], stage])
            first = stage.chain[0] if stage.chain else stage
            first.parameters.extend(_parameters(before[1:]))
        pieces = [piece for piece in pieces if piece.parameters]
        whole = _Piece(path, _parameters(pieces), sum(piece.weights for piece in pieces))
        if any(piece.is_block if opened else piece.chain for piece in pieces):
            whole.chain = pieces
        elif not path or path.endswith("features"):  # a plain stack, where every layer is a block
            least = min(1, whole.weights)
            for piece in pieces:
                piece.weights = 2 if piece.weights >= least else 0
            whole.chain = pieces
        return whole

    def _may_wrap_a_network(self, module: nn.Module, path: str) -> bool:
        """Has it most of the weights? Then it is opened, if only there are chains in it."""
        return not _is_closed(path) and self._count(module) > len(self.weights) / 2

    def _piece(self, module: nn.Module, path: str, *, own: bool = False) -> _Piece:
        """own: without what the module's children have."""
        new = [p for p in module.parameters(recurse=not own) if id(p) not in self.taken]
        self.taken.update(map(id, new))
        return _Piece(path, new, 0 if own else self._count(module))

    def _count(self, module: nn.Module) -> int:
        return sum(id(p) in self.weights for p in module.parameters())


def _is_closed(path: str) -> bool:
    return path.rpartition(".")[2] in _CLOSED or bool(_IN_BLOCKS.search(path))


def _is_opened(module: nn.Module, path: str) -> bool:
    if isinstance(module, _CONTAINERS) or type(module).__name__ in _STAGES:
        return path.rpartition(".")[2] not in _CLOSED
    has_chain = any(isinstance(getattr(module, name, None), _CONTAINERS) for name in _CHAINS)
    return has_chain and not _is_closed(path)


def _children_in_order(module: nn.Module) -> list[list[tuple[str, nn.Module]]]:
    """Each child, in the order in which they run; a stage of `_STAGED` with its other parts."""
    children = [[named] for named in module.named_children()]
    templates = _STAGED.get(type(module).__name__)
    if templates is None:
        return children
    modules = dict(module.named_modules())
    paths = [[template.format(i) for template in templates] for i in range(10)]
    stages = [[(path, modules[path]) for path in row if path in modules] for row in paths]
    roots = {path.partition(".")[0] for row in paths for path in row}
    start = _first(child[0][0] in roots for child in children)
    rest = [child for child in children[start:] if child[0][0] not in roots]
    return [*children[:start], *filter(None, stages), *rest]


def _outermost_level(pieces: list[_Piece]) -> list[_Piece]:
    """Opens chains of several chains, and a lone one of any, until what is left are stages."""
    lone = sum(bool(piece.chain) for piece in pieces) == 1
    for i, piece in enumerate(pieces):
        if sum(bool(inner.chain) for inner in piece.chain) > (0 if lone else 1):
            return _outermost_level([*pieces[:i], *piece.chain, *pieces[i + 1 :]])
    return pieces


def _blocks(pieces: list[_Piece]) -> list[Block]:
    """What is no block joins the next one; a norm, and what is behind the last, the one before."""
    blocks: list[Block] = []
    before: list[nn.Parameter] = []
    for piece in pieces:
        if piece.chain or piece.is_block:
            found = (
                _blocks(piece.chain)
                if piece.chain
                else [Block(piece.path or "body", piece.parameters)]
            )
            found[0].parameters[:0] = before
            blocks, before = blocks + found, []
        elif blocks and not before and not piece.weights:
            blocks[-1].parameters.extend(piece.parameters)
        else:
            before.extend(piece.parameters)
    if blocks:
        blocks[-1].parameters.extend(before)
    return blocks


def _parameters(pieces: list[_Piece]) -> list[nn.Parameter]:
    return [p for piece in pieces for p in piece.parameters]


def _first(flags: Iterable[bool]) -> int:
    """Index of the first that is true, or their number."""
    listed = list(flags)
    return listed.index(True) if True in listed else len(listed)
