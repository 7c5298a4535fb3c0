"""No group is divided between training and validation, by any constructor, and it stays there."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder

from finetune import ImageDataLoaders
from finetune.data.examples import Examples
from finetune.data.groups import groups_of
from finetune.tasks import MultiLabel

pytestmark = pytest.mark.filterwarnings("ignore:groups= are not divided")

SMALL = {"image_size": 8, "batch_size": 2, "valid_fraction": 0.4}
PATIENTS = [f"patient_{number}" for number in range(10)]


def grouped(groups: Sequence[str], labels: Sequence[int], class_count: int = 3) -> Examples:
    """An example for each group and class number; its item is its number."""
    names = tuple(f"c{number}" for number in range(class_count))
    items = [str(number) for number in range(len(groups))]
    return Examples(items, torch.tensor(labels), names, groups=tuple(groups))


def even(group_count: int, per_group: int = 4, class_count: int = 2) -> Examples:
    """Groups of one size, each with one class."""
    groups = [f"g{number}" for number in range(group_count) for _ in range(per_group)]
    labels = [number % class_count for number in range(group_count) for _ in range(per_group)]
    return grouped(groups, labels, class_count)


# --- the random split


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 2)), min_size=2),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 99),
)
def test_no_group_is_divided_and_no_class_is_left_without_training(
    rows: list[tuple[str, int]], fraction: float, seed: int
) -> None:
    whole = grouped([group for group, _ in rows], [label for _, label in rows])
    groups_of_class = [{group for group, label in rows if label == c} for c in range(3)]
    assume(any(len(groups) > 1 for groups in groups_of_class))
    train, valid = whole.split(fraction, seed)
    assert train.groups is not None
    assert valid.groups is not None
    assert not set(train.groups) & set(valid.groups)
    assert len(train) + len(valid) == len(rows)
    assert len(valid) > 0
    for label, groups in enumerate(groups_of_class):
        if len(groups) > 1:
            assert bool((train.labels == label).any())


def test_each_part_knows_the_groups_of_its_images() -> None:
    whole = even(10)
    assert whole.groups is not None
    for part in whole.split(0.3, seed=0):
        assert part.groups == tuple(whole.groups[int(str(item))] for item in part.items)


@settings(max_examples=10, deadline=None)
@given(added=st.lists(st.integers(0, 39), min_size=1, max_size=30), seed=st.integers(0, 20))
def test_images_that_join_a_group_follow_it_and_move_nothing(added: list[int], seed: int) -> None:
    """However many they are: a group counts once."""
    whole = even(40)
    assert whole.groups is not None
    groups = [*whole.groups, *(f"g{number}" for number in added)]
    labels = [*whole.labels.tolist(), *(number % 2 for number in added)]
    _, valid = whole.split(0.2, seed)
    _, grown_valid = grouped(groups, labels, 2).split(0.2, seed)
    assert set(grown_valid.groups or ()) == set(valid.groups or ())


def test_group_that_is_added_moves_no_other_one_into_training() -> None:
    _, valid = even(200).split(0.2, seed=0)
    grown_train, _ = even(202).split(0.2, seed=0)
    assert not set(valid.groups or ()) & set(grown_train.groups or ())


def test_side_of_a_group_does_not_depend_on_the_order_of_the_images() -> None:
    whole = even(20)
    shuffled = whole.select(torch.randperm(80, generator=torch.Generator().manual_seed(0)))
    parts = [examples.split(0.3, seed=1)[1] for examples in (whole, shuffled)]
    assert set(parts[0].groups or ()) == set(parts[1].groups or ())


def test_each_class_holds_out_about_its_share_of_groups() -> None:
    for seed in range(20):
        _, valid = even(60, 3, 3).split(0.2, seed)
        assert all(6 <= count <= 18 for count in valid.counts())


def test_groups_of_several_labels_are_not_divided() -> None:
    names = [f"g{number // 4}" for number in range(40)]
    labels = torch.tensor([[number // 4 % 2, number % 3 == 0] for number in range(40)]).float()
    whole = Examples(names, labels, ("a", "b"), MultiLabel(), groups=tuple(names))
    train, valid = whole.split(0.3, seed=0)
    assert len(valid) > 0
    assert not set(train.items) & set(valid.items)  # type: ignore[arg-type]


def test_shares_that_groups_put_far_off_are_said() -> None:
    sizes = {"large": 60, "b": 5, "c": 5, "d": 5, "e": 5}
    groups = [name for name, size in sizes.items() for _ in range(size)]
    labels = [number % 2 for number in range(80)]
    with pytest.warns(
        UserWarning, match=r"not divided, so that validation has \d+% of all .* should have 20%"
    ):
        grouped(groups, labels, 2).split(0.2, seed=0)


def test_class_whose_images_are_all_in_one_group_is_said() -> None:
    groups = [f"g{number // 4}" for number in range(40)] + ["lone"] * 4
    labels = [number % 2 for number in range(40)] + [2] * 4
    with pytest.warns(UserWarning, match="0 of 4 of 'c2', where it should have 25%"):
        train, _ = grouped(groups, labels).split(0.25, seed=0)
    assert train.counts()[2] == 4


@pytest.mark.filterwarnings("error")
def test_shares_that_are_near_are_not_said() -> None:
    even(100, 2).split(0.2, seed=0)


def test_one_group_for_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"puts all 3 images into one group, 'a'; to hold some"):
        grouped("aaa", [0, 1, 0], 2).split(0.2, seed=0)


def test_groups_that_are_the_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves no image for validation: every class has all of"):
        grouped("aabb", [0, 0, 1, 1], 2).split(0.2, seed=0)


# --- what says the groups


def test_groups_are_a_list_or_an_array_or_a_tensor() -> None:
    for kind in (list, np.array, torch.tensor):
        assert groups_of(["a", "b", "c"], kind([7, 7, 8])) == ("7", "7", "8")


def test_function_of_the_path_says_the_group() -> None:
    assert groups_of(["x/1.jpg", Path("y/2.jpg")], lambda path: path.stem) == ("1", "2")


def test_folder_as_a_group_is_the_same_where_the_data_are_copied_to() -> None:
    found = []
    for root in ("/here", "/else/where"):
        items = [f"{root}/cat/ann/1.jpg", f"{root}/dog/bob/1.jpg"]
        found.append(groups_of(items, lambda path: path.parent, root))
    assert found[0] == found[1] == ("cat/ann", "dog/bob")


def test_pattern_is_searched_below_the_folder() -> None:
    items = ["/p9/photos/cat/p1_1.jpg", "/p9/photos/dog/p2_1.jpg"]
    for pattern in (r"(p\d)", re.compile(r"(p\d)")):
        assert groups_of(items, pattern, "/p9/photos") == ("p1", "p2")


def test_two_spellings_of_an_accent_are_one_group() -> None:
    assert len(set(groups_of(["1", "2"], ["Jos\u00e9", "Jose\u0301 "]))) == 1


@pytest.mark.parametrize("missing", [None, math.nan, "", "  "])
def test_image_without_a_group_is_named(missing: Any) -> None:
    with pytest.raises(ValueError, match=r"image 1 has no group, but .*; give it one, of its own"):
        groups_of(["1", "2"], ["a", missing])


def test_list_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="got 3 images but 2 groups; each image needs one"):
        groups_of(["1", "2", "3"], ["a", "b"])


def test_object_without_a_name_is_refused() -> None:
    """Its text is its place in memory, and the split would be another one in each run."""
    with pytest.raises(TypeError, match="image 0: groups must be texts or numbers, got <object"):
        groups_of(["1"], [object()])


@pytest.mark.parametrize("groups", [r"(\d)", lambda path: path.stem])
def test_images_without_paths_need_a_list(groups: Any) -> None:
    with pytest.raises(ValueError, match="these images are no files; pass a list"):
        groups_of([np.zeros((8, 8, 3), np.uint8)], groups)


# --- every constructor


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, ten patients with two images each; empty files, which nothing opens."""
    folder = tmp_path_factory.mktemp("photos")
    lines = ["image,label,patient"]
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for patient in PATIENTS:
            (folder / name / f"{patient}.jpg").touch()
            lines.append(f"{name}/{patient}.jpg,{name},{patient}")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder


def patient_of(path: Path) -> str:
    return path.stem


def _lists(photos: Path, **options: Any) -> ImageDataLoaders:
    files = sorted(photos.rglob("*.jpg"))
    labels = [file.parent.name for file in files]
    groups = [file.stem for file in files]
    return ImageDataLoaders.from_lists(files, labels, groups=groups, **options)


def _table(photos: Path, **options: Any) -> ImageDataLoaders:
    files = sorted(photos.rglob("*.jpg"))
    columns = {
        "patient": [file.stem for file in files],
        "image": [str(file) for file in files],
        "label": [file.parent.name for file in files],
    }
    return ImageDataLoaders.from_table(columns, image_column="image", groups="patient", **options)


CONSTRUCTORS: dict[str, Callable[..., ImageDataLoaders]] = {
    "folder, function": lambda photos, **options: ImageDataLoaders.from_folder(
        photos, groups=patient_of, **options
    ),
    "folder, pattern": lambda photos, **options: ImageDataLoaders.from_folder(
        photos, groups=r"/(\w+)\.jpg$", **options
    ),
    "csv, column": lambda photos, **options: ImageDataLoaders.from_csv(
        photos / "table.csv", groups="patient", **options
    ),
    "csv, function": lambda photos, **options: ImageDataLoaders.from_csv(
        photos / "table.csv", groups=patient_of, **options
    ),
    "table": _table,
    "lists": _lists,
    "names": lambda photos, **options: ImageDataLoaders.from_name(
        photos, lambda path: path.parent.name, groups=patient_of, **options
    ),
    "data set": lambda photos, **options: ImageDataLoaders.from_dataset(
        [(np.zeros((8, 8, 3), np.uint8), number % 2) for number in range(20)],
        classes=["cat", "dog"],
        groups=[PATIENTS[number // 2] for number in range(20)],
        **options,
    ),
}


@pytest.mark.parametrize("constructor", CONSTRUCTORS.values(), ids=CONSTRUCTORS)
def test_every_constructor_keeps_groups_together(
    photos: Path, constructor: Callable[..., ImageDataLoaders]
) -> None:
    data = constructor(photos, **SMALL)
    train, valid = set(data.train_examples.groups or ()), set(data.valid_examples.groups or ())
    assert sorted([*train, *valid]) == PATIENTS
    assert len(data.train_examples) == 2 * len(train)
    assert data.train_examples.counts() == [len(train), len(train)]


def test_constructors_agree_about_the_side_of_a_group(photos: Path) -> None:
    sides = set()
    for constructor in CONSTRUCTORS.values():
        sides.add(frozenset(constructor(photos, **SMALL).valid_examples.groups or ()))
    assert len(sides) == 1


def test_column_of_rows_says_the_groups() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "patient": datasets.Value("string"),
        }
    )
    rows = {
        "image": [np.zeros((8, 8, 3), np.uint8)] * 20,
        "label": [0, 1] * 10,
        "patient": [PATIENTS[number // 2] for number in range(20)],
    }
    dataset = datasets.Dataset.from_dict(rows, features=features)
    data = ImageDataLoaders.from_dataset(dataset, groups="patient", **SMALL)
    assert not set(data.train_examples.groups or ()) & set(data.valid_examples.groups or ())
    with pytest.raises(ValueError, match="groups='pacient' is no column of the data set; did you"):
        ImageDataLoaders.from_dataset(dataset, groups="pacient", **SMALL)


# --- splits that are given


def given_split(folder: Path, train: str, valid: str) -> Path:
    """Images of patients in two classes. train, valid: a letter a patient."""
    for part, patients in (("train", train), ("valid", valid)):
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for patient in patients:
                (folder / part / label / f"{patient}_{part}.jpg").touch()
    return folder


def test_given_folders_that_divide_a_group_are_refused(tmp_path: Path) -> None:
    folder = given_split(tmp_path, "abcd", "cdx")
    with pytest.raises(
        ValueError, match=r"2 groups of groups= have images in training and in validation: 'c', 'd'"
    ):
        ImageDataLoaders.from_folder(
            folder, train="train", valid="valid", groups=r"/(\w)_", **SMALL
        )


def test_given_folders_may_keep_groups_apart(tmp_path: Path) -> None:
    folder = given_split(tmp_path, "abcd", "xy")
    data = ImageDataLoaders.from_folder(
        folder, train="train", valid="valid", groups=r"/(\w)_", **SMALL
    )
    assert set(data.valid_examples.groups or ()) == {"x", "y"}


def test_marks_that_divide_a_group_are_refused() -> None:
    images = [np.zeros((8, 8, 3), np.uint8)] * 6
    with pytest.raises(ValueError, match=r"1 group of groups= have .*: 'p'; validation would"):
        ImageDataLoaders.from_lists(
            images,
            list("ababab"),
            is_valid=[0, 0, 0, 0, 1, 1],
            groups=list("ppqqpx"),
            **SMALL,  # type: ignore[list-item]
        )


def test_marks_may_keep_groups_apart() -> None:
    images = [np.zeros((8, 8, 3), np.uint8)] * 6
    data = ImageDataLoaders.from_lists(
        images,
        list("ababab"),
        is_valid=[0, 0, 1, 0, 0, 1],
        groups=list("abxcdx"),
        **SMALL,  # type: ignore[list-item]
    )
    assert data.train_examples.groups == ("a", "b", "c", "d")
    assert data.valid_examples.groups == ("x", "x")


def test_data_sets_that_divide_a_group_are_refused(tmp_path: Path) -> None:
    folder = given_split(tmp_path, "ab", "bc")
    parts = [ImageFolder(folder / "train"), ImageFolder(folder / "valid")]
    with pytest.raises(ValueError, match=r"1 group of groups= have .*: 'b'; validation would"):
        ImageDataLoaders.from_dataset(*parts, groups=r"/(\w)_", **SMALL)


# --- what is no group


def test_list_beside_a_folder_is_refused(photos: Path) -> None:
    """Nobody knows the order of its files."""
    with pytest.raises(ValueError, match="groups= as a list goes with images in a list or a table"):
        ImageDataLoaders.from_folder(photos, groups=["a"] * 20, **SMALL)
    with pytest.raises(ValueError, match="groups= as a list goes with images in a list or a table"):
        ImageDataLoaders.from_name(photos, patient_of, groups=["a"] * 20, **SMALL)


def test_column_that_is_not_there_is_named(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"no column 'pacient', only .* did you mean 'patient'"):
        ImageDataLoaders.from_csv(photos / "table.csv", groups="pacient", **SMALL)


def test_empty_cell_of_a_group_is_named_by_its_line(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,label,patient\n1.jpg,a,x\n2.jpg,b,\n")
    with pytest.raises(ValueError, match=r"line 3, 'patient' has no group, but ''; give it one"):
        ImageDataLoaders.from_csv(table, groups="patient", **SMALL)


def test_column_of_groups_is_not_taken_for_labels(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    lines = [f"{number}.jpg,p{number},{'ab'[number % 2]}" for number in range(10)]
    table.write_text("\n".join(["image,patient,kind", *lines]))
    (tmp_path / "0.jpg").touch()  # where some image is, so are the others
    data = ImageDataLoaders.from_csv(table, groups="patient", **SMALL)
    assert data.classes == ("a", "b")


@pytest.mark.parametrize("groups", [5, True, {"a": 1}])
def test_other_kinds_of_values_are_refused(groups: Any) -> None:
    with pytest.raises(TypeError, match="groups must be a list of groups, one for each image; or"):
        ImageDataLoaders.from_lists(["a"], ["b"], groups=groups)
