from pathlib import Path

import pytest
from support import write_photos

from finetune.cli import build
from finetune.config import DataConfig, TrainConfig


@pytest.mark.filterwarnings("ignore:groups= are not divided")
@pytest.mark.parametrize("groups", [r"(00\d)\.jpg", "patient"])
def test_groups_are_a_column_of_a_table_or_found_in_paths_of_a_folder(
    tmp_path: Path, groups: str
) -> None:
    folder = write_photos(tmp_path, per_class=8, size=(8, 8))
    table = tmp_path / "table.csv"
    lines = ["image,label,patient"]
    for file in sorted(folder.rglob("*.jpg")):
        lines.append(f"{file},{file.parent.name},{file.stem}")
    table.write_text("\n".join(lines))
    csv = str(table) if groups == "patient" else None
    config = DataConfig(data=str(folder), csv=csv, groups=groups, batch_size=4)
    data = build.data_of(config)
    train, valid = set(data.train_examples.groups or ()), set(data.valid_examples.groups or ())
    assert sorted([*train, *valid]) == [f"00{number}" for number in range(8)]


class Recorder:
    """In the place of a learner: what `fine_tune` is called with."""

    def fine_tune(self, *arguments: object, **options: object) -> None:
        self.options = options


def test_all_settings_of_fine_tuning_reach_it(tmp_path: Path) -> None:
    settings = {
        "freeze_epochs": 3, "freeze_views": 2, "lr_mult": 7.0, "unfreeze": "body_2",
        "interpolate": True,
    }  # fmt: skip
    learner = Recorder()
    build.fit(learner, TrainConfig(**settings), tmp_path / "run.pt", tmp_path / "best.pt")
    assert settings.items() <= learner.options.items()
