"""Layer groups as a table: what is in each, and which hyper-parameters it has."""

from collections.abc import Sequence

from finetune.models.layer_group import LayerGroup
from finetune.tables import Column, Table

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


def group_table(groups: Sequence[LayerGroup], backbones: Sequence[str] = ()) -> Table:
    """A row for each group, first layers first; hyper-parameters at their peaks.

    backbones: paths of several backbones side by side, each of which has a range of modules.
    """
    values = [{**group.values, **group.peaks} for group in groups]
    names = _shown_hyper_parameters(values)
    titles = [Column(_TITLES.get(name, name)) for name in names]
    some_are_frozen_by_hand = any(group.frozen_by_hand for group in groups)
    if some_are_frozen_by_hand:
        titles.append(Column("frozen by hand"))
    rows = []
    for group, values_of_group in zip(groups, values, strict=True):
        row = _facts(group, backbones)
        for name in names:
            value = values_of_group.get(name)
            row.append("-" if value is None else f"{value:.3g}")
        if some_are_frozen_by_hand:
            frozen = [group.parameters[name].numel() for name in group.frozen_by_hand]
            row.append(f"{sum(frozen):,}")
        rows.append(row)
    return Table([*_FIXED_COLUMNS, *titles], rows)


def _facts(group: LayerGroup, backbones: Sequence[str]) -> list[str]:
    """The cells of `_FIXED_COLUMNS`."""
    modules = {name.rpartition(".")[0] for name in group.parameters}
    return [
        group.name,
        _module_ranges(group, backbones),
        f"{len(modules):,}",
        f"{group.parameter_count:,}",
        f"{group.trainable_count:,}",
        # the parameters of a loss lie in no module of the model
        group.norm if group.modules else "-",
        group.optimizer,
    ]


def _shown_hyper_parameters(values: Sequence[dict[str, float]]) -> list[str]:
    """The usual ones, and of the others those in which the groups differ."""
    known: dict[str, None] = {}
    for values_of_group in values:
        known |= dict.fromkeys(values_of_group)
    shown = [name for name in _ALWAYS_SHOWN if name in known]
    for name in known:
        groups_differ = len({of_group.get(name) for of_group in values}) > 1
        if name not in _ALWAYS_SHOWN and groups_differ:
            shown.append(name)
    return shown


def _module_ranges(group: LayerGroup, backbones: Sequence[str]) -> str:
    """First and last module, as paths: 'backbone.conv_stem .. backbone.blocks.3.1'.

    Of several backbones these are the first and last of each.
    """
    modules_by_backbone: dict[str, list[str]] = {}
    for name in group.parameters:
        module = name.rpartition(".")[0] or name
        inside = [path for path in backbones if f"{module}.".startswith(f"{path}.")]
        backbone = inside[0] if inside else ""
        modules_by_backbone.setdefault(backbone, []).append(module)
    ranges = []
    for modules in modules_by_backbone.values():
        first, last = modules[0], modules[-1]
        ranges.append(first if first == last else f"{first} .. {last}")
    return ", ".join(ranges)
