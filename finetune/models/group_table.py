"""Layer groups as a table: what is in each, and which hyper-parameters it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.tables import Column, Table

if TYPE_CHECKING:
    from finetune.models.layer_groups import LayerGroup

_TITLES = {"lr": "learning rate", "weight_decay": "weight decay"}
_ALWAYS_SHOWN = ("lr", "momentum", "weight_decay")
_FIXED_COLUMNS = (
    Column("group", words=True),
    Column("modules", words=True, max_width=34),
    Column("layers"),
    Column("parameters"),
    Column("trainable"),
    Column("norm", words=True),
    Column("optimizer", words=True),
)


def group_table(groups: Sequence[LayerGroup]) -> Table:
    """A row for each group, first layers first; hyper-parameters at their peaks."""
    values = [{**group.values, **group.peaks} for group in groups]
    names = _shown_hyper_parameters(values)
    titles = [Column(_TITLES.get(name, name)) for name in names]
    rows = []
    for group, own in zip(groups, values, strict=True):
        modules = {name.rpartition(".")[0] for name in group.parameters}
        row = [
            group.name,
            _module_range(group),
            f"{len(modules):,}",
            f"{group.parameter_count:,}",
            f"{group.trainable_count:,}",
            group.norm,
            group.optimizer,
        ]
        for name in names:
            row.append(f"{own[name]:.3g}" if name in own else "-")
        rows.append(row)
    return Table([*_FIXED_COLUMNS, *titles], rows)


def _shown_hyper_parameters(values: Sequence[dict[str, float]]) -> list[str]:
    """The usual ones, and of the others those in which the groups differ."""
    known = dict.fromkeys(name for own in values for name in own)
    shown = [name for name in _ALWAYS_SHOWN if name in known]
    for name in known:
        groups_differ = len({own.get(name) for own in values}) > 1
        if name not in _ALWAYS_SHOWN and groups_differ:
            shown.append(name)
    return shown


def _module_range(group: LayerGroup) -> str:
    """First and last module, as paths: 'backbone.conv_stem .. backbone.blocks.3.1'."""
    owners = [name.rpartition(".")[0] or name for name in group.parameters]
    if owners[0] == owners[-1]:
        return owners[0]
    return f"{owners[0]} .. {owners[-1]}"
