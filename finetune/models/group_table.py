"""Layer groups as a table: what is in each, and which hyper-parameters it has."""

from collections.abc import Mapping, Sequence

from finetune.models.layer_group import LayerGroup
from finetune.tables import Column, Table

PlannedRates = Mapping[str, Sequence[float | None]]
"""Phase -> the largest learning rate of each layer group in it; None while the group is frozen."""

_TITLES = {"weight_decay": "weight decay"}
_SAID_FOR_ALL = ("momentum", "weight_decay")
"""Hyper-parameters that are in the table or below it; others only where groups differ in them."""


def group_table(
    groups: Sequence[LayerGroup],
    backbones: Sequence[str] = (),
    planned_rates: PlannedRates | None = None,
) -> Table:
    """A row for each group, first layers first, and a note of what all groups have in common.

    Hyper-parameters are at their peaks. The learning rates are those of the last fit, or those that
    were set; a new learner has none, as every fit brings its own.
    backbones: paths of several backbones side by side, each of which has a range of modules.
    planned_rates: a column for each phase, in the place of the learning rate.
    """
    columns = [
        Column("group", words=True),
        Column("modules", words=True, max_width=30),
        Column("parameters"),
    ]
    rows = []
    for group in groups:
        modules = _module_ranges(group, backbones)
        rows.append([group.name, modules, f"{group.parameter_count:,}"])
    shared: list[str] = []

    def add(
        title: str, cells: Sequence[str], *, words: bool = False, max_width: int | None = None
    ) -> None:
        columns.append(Column(title, words, max_width))
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)

    def add_unless_alike(title: str, cells: Sequence[str], shared_words: str) -> None:
        if len(set(cells)) > 1:
            add(title, cells, words=title == "optimizer")
        else:
            shared.append(shared_words)

    if any(group.trainable_count != group.parameter_count for group in groups):
        add("trainable", [f"{group.trainable_count:,}" for group in groups])
    # the parameters of a loss lie in no module of the model
    add("norm", [group.norm if group.modules else "-" for group in groups], words=True)
    for phase, planned in (planned_rates or {}).items():
        cells = ["frozen" if rate is None else f"{rate:.3g}" for rate in planned]
        # so narrow that the title takes two lines
        add(f"lr {phase}", cells, max_width=max(map(len, [phase, *cells])))
    values = [{**group.values, **group.peaks} for group in groups]
    rates = _cells(values, "lr")
    are_chosen = len(set(rates)) > 1 or any("lr" in group.peaks for group in groups)
    if planned_rates is None and are_chosen:
        add("learning rate", rates)
    add_unless_alike("optimizer", [group.optimizer for group in groups], groups[0].optimizer)
    for name in _hyper_parameters(values):
        title = _TITLES.get(name, name)
        cells = _cells(values, name)
        add_unless_alike(title, cells, f"{title} {cells[0]}")
    if any(group.frozen_by_hand for group in groups):
        add("frozen by hand", [f"{_count_by_hand(group):,}" for group in groups])
    return Table(columns, [*rows, f"all groups: {', '.join(shared)}"] if shared else rows)


def _cells(values: Sequence[Mapping[str, float]], name: str) -> list[str]:
    return [f"{of_group[name]:.3g}" if name in of_group else "-" for of_group in values]


def _hyper_parameters(values: Sequence[Mapping[str, float]]) -> list[str]:
    """The usual ones, and of the others those in which the groups differ; not the rate."""
    known: dict[str, None] = {}
    for values_of_group in values:
        known |= dict.fromkeys(values_of_group)
    names = [name for name in _SAID_FOR_ALL if name in known]
    for name in known:
        groups_differ = len({of_group.get(name) for of_group in values}) > 1
        if name != "lr" and name not in _SAID_FOR_ALL and groups_differ:
            names.append(name)
    return names


def _count_by_hand(group: LayerGroup) -> int:
    return sum(group.parameters[name].numel() for name in group.frozen_by_hand)


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
