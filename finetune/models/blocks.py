"""The blocks of a network in order of depth, read from its tree of modules; nothing is run.

A module is a container, which is opened, or a block, which is not. What is opened becomes a chain
of pieces, one for each child, and a piece is

- a chain again,
- a block: a module that has two or more layers with weights,
- or less than a block, such as one layer, a norm or a position embedding, which then joins a block
  beside it.

A chain that has no block in it is one piece, as a stem of convolutions is.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from torch import nn

from finetune.models.module_order import children_in_order, join_path

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# A module that is no container is a stage, and opened, if it has one of these...
_CHAINS = ("blocks", "layers", "transformer_encoder")
# ...unless it stands in a container of blocks: there, it is a block of several parts.
_IN_BLOCKS = re.compile(r"(^|\.)blocks(\.\d+)+(\.layers\.\d+)?$")
# One piece, whatever is inside: what leads into blocks, and what mixes the outputs of all stages.
_CLOSED = ("stem", "downsample", "global_block", "incre_modules")
# Exceptions by class. RegStage loops over its children as if it were a Sequential; torchvision
# calls a stage MaxVitBlock, and its blocks MaxVitLayer.
_STAGES = ("RegStage", "MaxVitBlock")


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
        parameters: list[nn.Parameter] = []
        for block in self.blocks:
            parameters.extend(block.parameters)
        return parameters


@dataclass(frozen=True, slots=True)
class Body:
    """A network without its head, first layers first.

    stem: what runs before the first stage, and what the network has outside its children (a class
    token, a position embedding); may be empty. What runs after the last block is in the last block.
    """

    stem: list[nn.Parameter]
    stages: list[Stage]

    @property
    def blocks(self) -> list[Block]:
        blocks: list[Block] = []
        for stage in self.stages:
            blocks.extend(stage.blocks)
        return blocks


@dataclass(slots=True)
class _Piece:
    """A module and all parameters under it.

    weights: how many matrices and kernels it has; biases and the scales of norms do not count.
    chain: the pieces that it was opened into; empty if it was not opened. One at least is a block.
    """

    path: str
    parameters: list[nn.Parameter]
    weights: int
    chain: list["_Piece"] = field(default_factory=list)

    @property
    def is_block(self) -> bool:
        """Whether it is a block or has blocks inside."""
        return bool(self.chain) or self.weights > 1


def read_body(network: nn.Module, without: Collection[int] = ()) -> Body:
    """Reads the stem, the stages and the blocks of a network.

    without: identities of parameters to leave out, such as the classifier's. A stage is a chain on
    the outermost level that has several, or else the only chain there is. A tied weight belongs to
    the first place that has it.

    >>> layers = [nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(3)]
    >>> body = read_body(nn.Sequential(nn.Linear(2, 2), nn.Sequential(*layers)))
    >>> [block.path for block in body.blocks], len(body.stem)
    (['1.0', '1.1', '1.2'], 2)
    """
    network_piece = _Reader(network, without).read(network)
    pieces = _outermost_level(network_piece.chain)
    if not pieces:  # a network without parameters
        return Body([], [])
    if _count_chains(pieces) == 0:  # the network itself is the only stage
        before, blocks = _split_at_first_block(pieces)
        pieces = [*before, _Piece("body", [], 2, blocks)]
    first_chain = [bool(piece.chain) for piece in pieces].index(True)
    stem = pieces[:first_chain]
    pieces_of_stages = pieces[first_chain:]
    if not stem:  # it is in the first stage's container
        first_stage = pieces_of_stages[0]
        stem, first_stage.chain = _split_at_first_block(first_stage.chain)
    return Body(_parameters(stem), _stages(pieces_of_stages))


class _Reader:
    """Reads pieces from a tree of modules; a parameter belongs to the first piece that has it."""

    def __init__(self, network: nn.Module, without: Collection[int]) -> None:
        self._claimed = set(without)
        self._weights: set[int] = set()  # identities of the matrices and kernels
        for name, parameter in network.named_parameters():
            # by name as well: a position embedding has as many dimensions as a matrix
            is_weight = parameter.ndim > 1 and name.endswith("weight")
            if is_weight and id(parameter) not in self._claimed:
                self._weights.add(id(parameter))

    def read(self, module: nn.Module, path: str = "") -> _Piece:
        """Reads a module as one piece, or as a chain of pieces if there are blocks inside it."""
        is_network = not path
        is_opened = is_network or _is_opened(module, path)
        if not is_opened and not self._may_wrap_a_network(module, path):
            return self._read_closed(module, path)
        pieces = self._read_children(module, path)
        weights = sum(inner.weights for inner in pieces)
        piece = _Piece(path, _parameters(pieces), weights)
        if is_opened:
            has_blocks = any(inner.is_block for inner in pieces)
        else:  # layers do not tell a wrapper of a network from a large block; chains inside do
            has_blocks = _count_chains(pieces) > 0
        if has_blocks:
            piece.chain = pieces
        elif is_network or path.endswith("features"):  # as VGG and others call a plain stack
            _make_layers_blocks(pieces)
            piece.chain = pieces
        return piece

    def _read_children(self, module: nn.Module, path: str) -> list[_Piece]:
        """Pieces of the children, after one of what the module has outside them."""
        outside_children = self._claim(module.parameters(recurse=False))
        pieces = [_Piece(path, outside_children, weights=0)]
        for child in children_in_order(module):
            before: list[_Piece] = []
            for name, module_before in child.before:
                before.append(self._read_closed(module_before, join_path(path, name)))
            leading_in, shared = before[:1], before[1:]
            piece = self.read(child.module, join_path(path, child.path))
            pieces.extend([*leading_in, piece])
            # the first block of a stage has what all of them use
            first_block = piece.chain[0] if piece.chain else piece
            first_block.parameters.extend(_parameters(shared))
        return [piece for piece in pieces if piece.parameters]

    def _read_closed(self, module: nn.Module, path: str) -> _Piece:
        """Reads a module as one piece, whatever is inside."""
        weights = self._count_weights(module)
        return _Piece(path, self._claim(module.parameters()), weights)

    def _claim(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Those of the parameters that no earlier piece has."""
        unclaimed = [p for p in parameters if id(p) not in self._claimed]
        self._claimed.update(map(id, unclaimed))
        return unclaimed

    def _may_wrap_a_network(self, module: nn.Module, path: str) -> bool:
        """Whether the module has most of the weights, so that the blocks are likely inside it."""
        return not _is_closed(path) and self._count_weights(module) > len(self._weights) / 2

    def _count_weights(self, module: nn.Module) -> int:
        return sum(id(p) in self._weights for p in module.parameters())


def _make_layers_blocks(pieces: list[_Piece]) -> None:
    """Makes every layer with weights a block, since a plain stack of layers has no other blocks.

    Without any such layer, every piece becomes a block.
    """
    has_weights = any(piece.weights for piece in pieces)
    for piece in pieces:
        is_layer = piece.weights > 0 or not has_weights
        piece.weights = 2 if is_layer else 0


def _is_closed(path: str) -> bool:
    """Whether what is at the path stays in one piece, whatever its class is."""
    return path.rpartition(".")[2] in _CLOSED or bool(_IN_BLOCKS.search(path))


def _is_opened(module: nn.Module, path: str) -> bool:
    """Whether the module is a container or a stage, so that its children are pieces."""
    is_stage_by_class = type(module).__name__ in _STAGES
    if isinstance(module, _CONTAINERS) or is_stage_by_class:
        return path.rpartition(".")[2] not in _CLOSED
    if _is_closed(path):
        return False
    chains = [getattr(module, name, None) for name in _CHAINS]
    return any(isinstance(chain, _CONTAINERS) for chain in chains)


def _outermost_level(pieces: list[_Piece]) -> list[_Piece]:
    """Opens chains until those that remain are stages.

    A chain of several chains is a container of stages. The only chain of a network is opened for a
    single chain inside, too: it may just wrap that one.
    """
    is_only_chain = _count_chains(pieces) == 1
    least = 1 if is_only_chain else 2
    for i, piece in enumerate(pieces):
        if _count_chains(piece.chain) >= least:
            return _outermost_level([*pieces[:i], *piece.chain, *pieces[i + 1 :]])
    return pieces


def _count_chains(pieces: list[_Piece]) -> int:
    return sum(bool(piece.chain) for piece in pieces)


def _split_at_first_block(pieces: list[_Piece]) -> tuple[list[_Piece], list[_Piece]]:
    """What is before the first block, and what begins with it."""
    first_block = [piece.is_block for piece in pieces].index(True)
    return pieces[:first_block], pieces[first_block:]


def _stages(pieces: list[_Piece]) -> list[Stage]:
    """Makes a stage of every chain, together with the pieces between the chain before and it.

    What follows the last chain joins the last block.
    """
    stages: list[Stage] = []
    pieces_of_stage: list[_Piece] = []
    for piece in pieces:
        pieces_of_stage.append(piece)
        if piece.chain:
            stages.append(Stage(piece.path, _blocks(pieces_of_stage)))
            pieces_of_stage = []
    behind_last_chain = pieces_of_stage
    stages[-1].blocks[-1].parameters.extend(_parameters(behind_last_chain))
    return stages


def _blocks(pieces: list[_Piece]) -> list[Block]:
    """Merges the pieces of a chain into blocks, in execution order; one at least is a block.

    A piece without weights (a norm, a scale) belongs to the block before it, because it normalises
    that block's output. A piece with weights that is not a block itself (a projection) belongs to
    the block after it, which reads it, and so does what stands between the two. What follows the
    last block joins that one.
    """
    blocks: list[Block] = []
    for_next_block: list[nn.Parameter] = []
    for piece in pieces:
        is_right_behind_block = bool(blocks) and not for_next_block
        if piece.is_block:
            blocks_of_piece = _blocks_of(piece)
            blocks_of_piece[0].parameters[:0] = for_next_block
            blocks.extend(blocks_of_piece)
            for_next_block = []
        elif is_right_behind_block and piece.weights == 0:
            blocks[-1].parameters.extend(piece.parameters)
        else:
            for_next_block.extend(piece.parameters)
    blocks[-1].parameters.extend(for_next_block)
    return blocks


def _blocks_of(piece: _Piece) -> list[Block]:
    """The blocks inside a chain, or the one block that the piece is."""
    if piece.chain:
        return _blocks(piece.chain)
    return [Block(piece.path or "body", piece.parameters)]


def _parameters(pieces: Iterable[_Piece]) -> list[nn.Parameter]:
    parameters: list[nn.Parameter] = []
    for piece in pieces:
        parameters.extend(piece.parameters)
    return parameters
