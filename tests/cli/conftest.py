"""Runs that the tests of the command share; do not change them."""

from pathlib import Path

import pytest

from finetune.cli import main
from finetune.interpret import page

SMALL = [
    "--model", "test_efficientnet", "--weights", "null", "--image_size", "32", "--batch_size", "8",
]  # fmt: skip


def train(output: Path, *words: object) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        # each run draws five figures, a fifth of whose time would be that of their pixels
        patch.setattr(page, "SAVED_DPI", 30)
        assert main(["train", *map(str, words), *SMALL, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Options of `finetune train` for a model that learns little in little time."""
    return list(SMALL)


@pytest.fixture(scope="session")
def run_folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "run", photos, "--epochs", "1")


@pytest.fixture(scope="session")
def tables(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labels.csv and values.csv: images, of a folder elsewhere, in the second column."""
    folder = tmp_path_factory.mktemp("tables")
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    labels = [
        f"{i},{n},{n.split('/')[0]}{'|even' if i % 2 == 0 else ''}" for i, n in enumerate(names)
    ]
    (folder / "labels.csv").write_text("\n".join(["number,file,labels", *labels]))
    values = [f"{i},{name},{i * 10},{-i}" for i, name in enumerate(names)]
    (folder / "values.csv").write_text("\n".join(["number,file,width,height", *values]))
    return folder


@pytest.fixture(scope="session")
def labels_run(photos: Path, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several labels an image, with a "|" between them."""
    table = ["--csv", tables / "labels.csv", "--image-column", "file", "--label-column", "labels"]
    task = ["--task", "multi_label", "--label-delimiter", "|", "--epochs", 1, "--freeze-epochs", 0]
    return train(tmp_path_factory.mktemp("runs") / "labels", photos, *table, *task)


@pytest.fixture(scope="session")
def values_run(photos: Path, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The targets width and height."""
    table = ["--csv", tables / "values.csv", "--image-column", "file"]
    columns = ["--label-column", "[width,height]", "--task", "regression"]
    short = ["--epochs", 1, "--freeze-epochs", 0]
    return train(tmp_path_factory.mktemp("runs") / "values", photos, *table, *columns, *short)
