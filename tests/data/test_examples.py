import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.data.examples import Examples
from finetune.data.sources.folders import from_folder, image_files
from finetune.data.sources.lists import from_marked, from_pairs, without_labels
from finetune.tasks import MultiLabel, SingleLabel


def numbered(counts: tuple[int, ...]) -> Examples:
    """counts[c] examples of class c, whose items are their numbers."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    names = tuple(f"c{i}" for i in range(len(counts)))
    return Examples([str(i) for i in range(len(labels))], labels, names)


def touch(folder: Path, *names: str) -> Path:
    """Empty files: nothing here opens them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names_of(examples: Examples, folder: Path) -> list[str]:
    return [Path(str(item)).relative_to(folder).as_posix() for item in examples.items]


# --- the random split


def test_same_seed_gives_the_same_split() -> None:
    one, other = (numbered((40, 40)).split(0.25, seed=3) for _ in range(2))
    assert [part.items for part in one] == [part.items for part in other]


def test_other_seed_gives_another_split() -> None:
    assert len({tuple(numbered((40, 40)).split(0.25, seed)[1].items) for seed in range(9)}) == 9


def test_split_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    numbered((40, 40)).split(0.25, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_split_of_a_class_does_not_depend_on_the_others() -> None:
    alone, beside = (numbered(counts).split(0.25, 0)[1] for counts in ((40, 0), (40, 500)))
    assert [item for item in beside.items if int(str(item)) < 40] == alone.items


def test_split_holds_out_other_places_in_each_class() -> None:
    _, valid = numbered((40, 40)).split(0.25, seed=0)
    places = [int(str(item)) % 40 for item in valid.items]
    assert set(places[:10]) != set(places[10:])


def test_split_does_not_depend_on_where_the_other_classes_lie() -> None:
    """Which of a class's examples are held out is drawn by their place within the class."""
    labels = torch.randint(3, (900,), generator=torch.Generator().manual_seed(0))
    mixed = Examples([str(i) for i in range(900)], labels, ("a", "b", "c"))
    in_order = mixed.select(torch.cat([torch.nonzero(labels == c).flatten() for c in range(3)]))
    parts = (examples.split(0.25, seed=0)[1].items for examples in (mixed, in_order))
    assert len(set(map(frozenset, parts))) == 1


def test_seed_holds_out_the_same_examples_in_every_release() -> None:
    _, valid = numbered((8, 8)).split(0.25, seed=0)
    assert valid.items == ["2", "5", "11", "12"]


class CountNumbers(TorchDispatchMode):
    """Counts the numbers that torch's operations write."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        self.written += result.numel() if isinstance(result, Tensor) else 0
        return result


def test_cost_of_a_split_does_not_grow_with_the_classes() -> None:
    """A search per class took 600 MB for a million examples in a thousand classes."""
    written = []
    for classes in (10, 500):
        with CountNumbers() as count:
            numbered((5000 // classes,) * classes).split(0.2, seed=0)
        written.append(count.written)
    assert written[1] < 2 * written[0]


def test_split_holds_out_about_the_fraction_of_each_class() -> None:
    """Exact shares would move old examples from validation to training when others are added."""
    for seed in range(20):
        _, valid = numbered((100, 40, 10)).split(0.2, seed)
        large, middle, small = torch.bincount(valid.labels, minlength=3).tolist()
        assert 10 <= large <= 30
        assert 4 <= middle <= 12
        assert 1 <= small <= 3


def test_split_holds_out_the_fraction_on_average() -> None:
    counts = [len(numbered((50, 50)).split(0.2, seed)[1]) for seed in range(50)]
    assert 18 < sum(counts) / len(counts) < 22


def in_classes_of_ten(names: list[str]) -> Examples:
    labels = torch.tensor([zlib.crc32(name.encode()) % 10 for name in names])
    return Examples(names, labels, tuple("abcdefghij"))


def test_image_that_is_added_moves_no_other_one_into_training() -> None:
    names = [f"{number}.jpg" for number in range(400)]
    _, valid = in_classes_of_ten(names).split(0.2, seed=0)
    grown_train, _ = in_classes_of_ten(["new.jpg", *names]).split(0.2, seed=0)
    assert not set(valid.items) & set(grown_train.items)


def test_data_that_double_move_hardly_any_image_into_training() -> None:
    names = [f"{number}.jpg" for number in range(800)]
    _, valid = in_classes_of_ten(names[::2]).split(0.2, seed=0)
    grown_train, _ = in_classes_of_ten(names).split(0.2, seed=0)
    assert len(set(valid.items) & set(grown_train.items)) <= 0.02 * len(valid)


def test_rows_of_one_file_are_on_one_side() -> None:
    """Also where their spelling differs, and where they name different classes."""
    names = [f"photos/{number}.jpg" for number in range(30)]
    same = [f"photos//{number}.jpg" for number in range(30)]
    for seed in range(9):
        whole = from_pairs([*names, *same, *names], ["a"] * 60 + ["a", "b"] * 15)
        train, valid = (set(map(os.path.normpath, part.items)) for part in whole.split(0.3, seed))  # type: ignore[arg-type]
        assert not train & valid


def test_split_does_not_depend_on_where_the_folder_is() -> None:
    sides = []
    for root in ("/here", "/else/where/"):
        whole = from_pairs([f"{root}/{number}.jpg" for number in range(30)], ["a", "b"] * 15)
        sides.append([Path(str(i)).name for i in whole.split(0.3, 0, root=root)[1].items])
    assert sides[0] == sides[1]


def test_split_of_files_is_the_same_where_they_are_copied_to() -> None:
    sides = []
    for folder in ("/scratch/job_17/photos", "/scratch/job_18/photos", "photos"):
        whole = from_pairs([f"{folder}/{number}.jpg" for number in range(30)], ["a", "b"] * 15)
        sides.append([Path(str(i)).name for i in whole.split(0.3, 0)[1].items])
    assert sides[0] == sides[1] == sides[2]


@pytest.mark.parametrize("kind", [str, object])
def test_paths_of_an_array_are_split_as_those_of_a_list(kind: Any) -> None:
    names = [f"{number}.jpg" for number in range(20)] * 2
    labels = ["a", "b"] * 20
    listed = from_pairs(names, labels).split(0.3, 0)
    train, valid = from_pairs(np.array(names, dtype=kind), labels).split(0.3, 0)
    assert train.items == listed[0].items
    assert not set(train.items) & set(valid.items)  # type: ignore[arg-type]


def test_class_of_one_image_in_many_rows_stays_in_training() -> None:
    whole = from_pairs(["1.jpg"] * 5 + list("abcdefgh"), ["a"] * 5 + ["b"] * 8)
    train, _ = whole.split(0.4, seed=0)
    assert train.counts()[0] == 5


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=2, max_size=5).filter(any),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(0, 99),
)
def test_split_is_a_partition_with_each_class_in_both(
    counts: list[int], fraction: float, seed: int
) -> None:
    whole = numbered(tuple(counts))
    train, valid = whole.split(fraction, seed)
    assert sorted([*train.items, *valid.items], key=lambda item: int(str(item))) == whole.items
    for label, count in enumerate(counts):
        assert bool((train.labels == label).any()) == (count >= 1)
        assert bool((valid.labels == label).any()) == (count >= 2)


# --- the random split of several labels


def labelled(rows: list[list[bool]]) -> Examples:
    """An example for each row of labels, whose item is its number."""
    names = tuple(f"c{number}" for number in range(len(rows[0])))
    items = [str(number) for number in range(len(rows))]
    return Examples(items, torch.tensor(rows).float(), names, MultiLabel())


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=30),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_split_of_several_labels_leaves_none_of_two_images_without_training(
    rows: list[list[bool]], fraction: float, seed: int
) -> None:
    whole = labelled(rows)
    train, valid = whole.split(fraction, seed)
    assert sorted([*train.items, *valid.items], key=lambda item: int(str(item))) == whole.items
    for before, left in zip(whole.counts(), train.counts(), strict=True):
        assert left >= 1 or before < 2


def test_label_whose_images_rarer_labels_decide_about_keeps_one_for_training() -> None:
    """Each of the first two labels may hold out the image that has the third label, too."""
    rows = [[True, False, True], [True, False, False], [False, True, True], [False, True, False]]
    for seed in range(20):
        train, _ = labelled(rows).split(0.5, seed)
        assert all(train.counts())


def test_split_of_several_labels_holds_out_the_fraction_of_each_label() -> None:
    """A rare label, too, which a split of all images often leaves without validation."""
    for seed in range(20):
        rows = [[True, number % 2 == 0, number % 20 == 0, False] for number in range(200)]
        valid = labelled(rows).split(0.2, seed)[1].counts()
        assert 20 <= valid[0] <= 60
        assert 10 <= valid[1] <= 30
        assert 1 <= valid[2] <= 3


def test_images_with_a_label_of_their_own_each_are_split_all_the_same() -> None:
    rows = [[column == number for column in range(40)] + [True] for number in range(40)]
    train, valid = labelled(rows).split(0.2, seed=0)
    assert 4 <= len(valid) <= 12
    assert train.counts()[-1] == len(train)


def test_image_that_is_added_to_several_labels_moves_no_other_one() -> None:
    rows = [[number % 2 == 0, number % 3 == 0, number % 7 == 0] for number in range(300)]
    _, valid = labelled(rows).split(0.2, seed=0)
    _, grown = labelled([*rows, [True, True, True]]).split(0.2, seed=0)
    assert set(valid.items) <= set(grown.items)  # type: ignore[arg-type]


def test_split_keeps_items_and_labels_together() -> None:
    whole = numbered((30, 30))
    for part in whole.split(0.3, seed=1):
        assert part.classes == whole.classes
        assert part.labels.tolist() == [int(whole.labels[int(str(item))]) for item in part.items]


def test_parts_know_their_numbers_in_the_whole() -> None:
    train, _ = numbered((30, 30)).split(0.3, seed=1)
    part = train.select(torch.tensor([5, 2]))
    assert part.numbers is not None
    assert part.numbers.tolist() == [int(str(item)) for item in part.items]
    marks = [False, True, False, True]
    for side in from_marked(list("0123"), list("aabb"), marks, 0.2, 0):
        assert side.numbers is not None
        assert list(map(str, side.numbers.tolist())) == side.items


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 20, float("nan")])
def test_bad_valid_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"valid_fraction must be .* above 0 and below 1, got"):
        numbered((4, 4)).split(fraction, seed=0)


# --- lists


def test_classes_are_sorted() -> None:
    examples = from_pairs(["1", "2", "3"], ["zebra", "ant", "bee"])
    assert examples.classes == ("ant", "bee", "zebra")
    assert examples.labels.tolist() == [2, 0, 1]
    assert examples.labels.dtype == torch.int64


def test_given_classes_keep_their_order() -> None:
    examples = from_pairs(["1", "2"], ["ant", "bee"], ("bee", "ant", "cat"))
    assert examples.classes == ("bee", "ant", "cat")
    assert examples.labels.tolist() == [1, 0]


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 images but 1 labels"):
        from_pairs(["1", "2"], ["a"])


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no images"):
        from_pairs([], [])


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least two classes, found only \['ant'\]"):
        from_pairs(["1", "2"], ["ant", "ant"])


def test_classes_that_differ_only_in_case_are_refused() -> None:
    with pytest.raises(ValueError, match="classes 'Ant' and 'ant' differ only in case"):
        from_pairs(["1", "2"], ["ant", "Ant"])


def test_class_that_training_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"training lacks: 'cat'; training has 'ant', 'bee'"):
        from_pairs(["1"], ["cat"], ("ant", "bee"))


def test_marks_say_what_is_validation() -> None:
    train, valid = from_marked(list("12345"), list("aabba"), [False, True, False, 1, 0], 0.2, 0)  # type: ignore[list-item]
    assert train.items == ["1", "3", "5"]
    assert valid.items == ["2", "4"]
    assert valid.classes == train.classes == ("a", "b")


def test_marks_may_be_an_array_or_a_tensor() -> None:
    marks = [False, False, True, True]
    for kind in (np.array, torch.tensor):
        _, valid = from_marked(list("1234"), list("abab"), kind(marks), 0.2, 0)
        assert valid.items == ["3", "4"]


def test_without_marks_the_split_is_random() -> None:
    whole = from_pairs(list("12345678"), list("aaaabbbb"))
    _, valid = from_marked(list("12345678"), list("aaaabbbb"), None, 0.25, 5)
    assert valid.items == whole.split(0.25, 5)[1].items


def test_validation_may_lack_a_class() -> None:
    _, valid = from_marked(list("123"), list("aba"), [False, False, True], 0.2, 0)
    assert (valid.classes, valid.labels.tolist()) == (("a", "b"), [0])


def test_marked_class_that_training_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="training lacks: 'c'"):
        from_marked(list("123"), list("abc"), [False, False, True], 0.2, 0)


def test_marks_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3 images, 3 labels and 2 marks of is_valid"):
        from_marked(list("123"), list("aba"), [False, True], 0.2, 0)


@pytest.mark.parametrize("mark", [True, False])
def test_marks_that_leave_one_side_empty_are_refused(mark: bool) -> None:
    with pytest.raises(ValueError, match="all 3 images are marked for"):
        from_marked(list("123"), list("aba"), [mark] * 3, 0.2, 0)


# --- folders


def test_class_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.jpg", "b/1.png", "a/3.jpeg")
    examples = from_folder(tmp_path)
    assert examples.classes == ("a", "b")
    assert names_of(examples, tmp_path) == ["a/3.jpeg", "b/1.png", "b/2.jpg"]
    assert examples.labels.tolist() == [0, 1, 1]


def test_images_in_nested_folders_belong_to_the_class(tmp_path: Path) -> None:
    touch(tmp_path, "a/2020/x/1.jpg", "a/0.jpg", "b/1.jpg")
    examples = from_folder(tmp_path)
    assert names_of(examples, tmp_path) == ["a/0.jpg", "a/2020/x/1.jpg", "b/1.jpg"]


def test_images_are_in_the_order_of_their_whole_paths(tmp_path: Path) -> None:
    touch(tmp_path, "a/x0.jpg", "a/x/1.jpg", "a/x-.jpg", "b/1.jpg")
    names = names_of(from_folder(tmp_path), tmp_path)
    assert names == ["a/x-.jpg", "a/x/1.jpg", "a/x0.jpg", "b/1.jpg"]


def test_folder_with_the_name_of_an_image_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.jpg/1.jpg", "b/1.jpg")
    assert names_of(from_folder(tmp_path), tmp_path) == ["a/x.jpg/1.jpg", "b/1.jpg"]


def test_linked_images_and_folders_belong_to_the_class(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a/1.jpg", "photos/b/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "photos/a/link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "photos/b/3.jpg").symlink_to(tmp_path / "elsewhere/2.jpg")
    names = names_of(from_folder(tmp_path / "photos"), tmp_path / "photos")
    assert names == ["a/1.jpg", "a/link/2.jpg", "b/1.jpg", "b/3.jpg"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "a/.1.jpg", ".git/1.jpg", "a/.cache/1.jpg")
    examples = from_folder(tmp_path)
    assert examples.classes == ("a", "b")
    assert names_of(examples, tmp_path) == ["a/1.jpg", "b/1.jpg"]


@pytest.mark.parametrize("name", ["@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/1.jpg"])
@pytest.mark.parametrize("place", ["", "a", "a/deep"])
def test_copies_that_systems_make_are_left_out_and_said(
    tmp_path: Path, place: str, name: str
) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", f"{place}/{name}".lstrip("/"))
    with pytest.warns(UserWarning, match=f"left out in .*: 1 folder {name.split('/')[0]}$"):
        examples = from_folder(tmp_path)
    assert names_of(examples, tmp_path) == ["a/1.jpg", "b/1.jpg"]


def test_what_a_mac_keeps_beside_an_image_is_left_out_and_said(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "a/._1.jpg")
    with pytest.warns(UserWarning, match=r"left out in .*: 1 \._\*$"):
        assert names_of(from_folder(tmp_path), tmp_path) == ["a/1.jpg", "b/1.jpg"]


def test_texts_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.JPG", "a/notes.txt", "labels.csv", "b/Thumbs.db")
    assert names_of(from_folder(tmp_path), tmp_path) == ["a/1.jpg", "b/1.JPG"]


@pytest.mark.parametrize("name", ["jpg", "photojpg", "1.jpg.part", "1.jpg.", "1.jpgx"])
def test_only_the_last_suffix_makes_an_image(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", f"b/{name}")
    with pytest.warns(UserWarning, match="left out in .*: 1 "):
        assert names_of(from_folder(tmp_path), tmp_path) == ["a/1.jpg", "b/1.jpg"]


def test_files_that_are_left_out_are_said_in_one_line(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "a/2.heic", "b/3.HEIC", "b/scan", "0.png", "read me.txt")
    line = (
        r"left out in .*: 1 \(none\), 2 \.heic, 1 beside the class folders; to read them, install "
        "and register pillow-heif, or convert them"
    )
    with pytest.warns(UserWarning, match=line) as warned:
        from_folder(tmp_path)
    assert len(warned) == 1
    assert warned[0].filename == __file__


def test_class_of_files_that_can_not_be_opened_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.heic", "b/2.heic")
    with pytest.raises(ValueError, match=r"b' holds no image \(but 2 \.heic; to read them, ins"):
        from_folder(tmp_path)
    with pytest.raises(ValueError, match=r"or below \(but 2 \.heic; to read them, install and"):
        image_files(tmp_path / "b")


@pytest.mark.parametrize("extension", [".ppm", ".avif", ".jp2", ".tga", ".ICO", ".apng", ".mpo"])
def test_whatever_pillow_opens_belongs_to_the_class(tmp_path: Path, extension: str) -> None:
    touch(tmp_path, "a/1.jpg", f"b/1{extension}")
    assert len(from_folder(tmp_path)) == 2


def test_format_whose_opener_is_registered_belongs_to_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.init()
    monkeypatch.setitem(Image.EXTENSION, ".heic", "PNG")
    touch(tmp_path, "a/1.jpg", "b/1.heic")
    assert len(from_folder(tmp_path)) == 2


@pytest.mark.parametrize("target", [".", "..", "../b"])
def test_links_in_a_circle_end(tmp_path: Path, target: str) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a/link").symlink_to(target, target_is_directory=True)
    (tmp_path / "b/link").symlink_to("../a", target_is_directory=True)
    assert len(from_folder(tmp_path)) <= 4
    assert len(image_files(tmp_path)) == 2


@pytest.mark.parametrize("given", [None, ("z", "caf\u00e9"), ("z", "cafe\u0301")])
def test_two_spellings_of_an_accent_are_one_class(
    tmp_path: Path, given: tuple[str, str] | None
) -> None:
    touch(tmp_path, "caf\u00e9/1.jpg", "cafe\u0301/2.jpg", "z/3.jpg")
    examples = from_folder(tmp_path, given)
    assert sorted(examples.classes) == ["caf\u00e9", "z"]
    assert sorted(examples.texts()) == ["caf\u00e9", "caf\u00e9", "z"]


def test_two_spellings_of_a_label_are_one_class() -> None:
    assert from_pairs(list("123"), ["caf\u00e9", "cafe\u0301", "z"]).classes == ("caf\u00e9", "z")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'.*gone' does not exist"):
        from_folder(tmp_path / "gone")


def test_file_instead_of_a_folder_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.zip")
    with pytest.raises(FileNotFoundError, match=r"a\.zip' is a file; it needs one folder a class"):
        from_folder(tmp_path / "a.zip")


def test_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(ValueError, match="has no class folders; put images in"):
        from_folder(tmp_path)


def test_class_folder_without_images_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/notes.txt", "c/1.jpg")
    with pytest.raises(ValueError, match=r"class folder '.*b' holds no image"):
        from_folder(tmp_path)


def test_folder_of_one_class_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    with pytest.raises(ValueError, match=r"at least two classes, found only \['a'\]"):
        from_folder(tmp_path)


def test_class_folders_that_differ_only_in_case_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "Hat/1.jpg", "hat/1.jpg")
    with pytest.raises(ValueError, match="classes 'Hat' and 'hat' differ only in case"):
        from_folder(tmp_path)


@pytest.mark.parametrize(
    ("folders", "hint"),
    [
        (("train", "valid"), "pass train='train', valid='valid'"),
        (("train", "val"), "pass train='train', valid='val'"),
        (("training", "validation"), "pass train='training', valid='validation'"),
        (("test", "train"), "pass train='train', valid='test'"),
        (("test", "train", "valid"), "pass train='train', valid='valid'"),
        (("seg_test", "seg_train"), "pass train='seg_train', valid='seg_test'"),
        (("dev", "train"), "pass train='train', valid='dev'"),
        (("test_set", "training_set"), "pass train='training_set', valid='test_set'"),
        (("train2017", "val2017"), "pass train='train2017', valid='val2017'"),
        (("TestSet", "TrainSet"), "pass train='TrainSet', valid='TestSet'"),
        (("pred", "test", "train"), "pass train='train', valid='test'"),
    ],
)
def test_folder_that_holds_a_split_says_how_to_use_it(
    tmp_path: Path, folders: tuple[str, ...], hint: str
) -> None:
    touch(tmp_path, *(f"{name}/{label}/1.jpg" for name in folders for label in "ab"))
    with pytest.raises(ValueError, match=f"looks like a given split, not like classes; {hint}"):
        from_folder(tmp_path)


def test_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "aeroplane/1.jpg")
    assert from_folder(tmp_path).classes == ("aeroplane", "train")


@pytest.mark.parametrize("names", [("test_fail", "test_pass"), ("trainer", "validator")])
def test_classes_may_have_words_of_a_split(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, *(f"{name}/1.jpg" for name in names))
    assert from_folder(tmp_path).classes == names


def test_folder_labels_count_in_the_given_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "c/1.jpg", "c/2.jpg")
    examples = from_folder(tmp_path, ("c", "b", "a"))
    assert examples.classes == ("c", "b", "a")
    assert examples.labels.tolist() == [2, 0, 0]
    assert examples.labels.dtype == torch.int64


def test_folder_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "c/1.jpg")
    with pytest.raises(ValueError, match="training lacks: 'c'"):
        from_folder(tmp_path, ("a", "b"))


def test_image_files_are_sorted_and_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b/1.PNG", "a.jpg", ".hidden/c.jpg", ".d.jpg", "e.txt"):
        (tmp_path / name).touch()
    assert image_files(tmp_path) == [str(tmp_path / "a.jpg"), str(tmp_path / "b/1.PNG")]


def test_image_files_say_that_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="'photos' does not exist"):
        image_files("photos")
    with pytest.raises(ValueError, match="there is no image in"):
        image_files(tmp_path)


# --- columns of a data frame


@pytest.mark.parametrize("marks", [None, [False, True, False, False]])
def test_images_and_labels_of_a_data_frame_go_by_position(marks: list[bool] | None) -> None:
    frame = pytest.importorskip("pandas").DataFrame(
        {"path": ["a0", "b1", "a2", "b3"], "label": list("abab")}, index=[2, 0, 3, 7]
    )
    for part in from_marked(frame["path"], frame["label"], marks, 0.5, 0):
        assert [str(item)[0] for item in part.items] == part.texts()


def test_images_without_labels_of_a_data_frame_go_by_position() -> None:
    paths = pytest.importorskip("pandas").Series(["x", "y"], index=[5, 0])
    items = without_labels(paths, ("a", "b"), SingleLabel()).items
    assert (items[0], items[1]) == ("x", "y")


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_array_of_images_stays_one(kind: Any) -> None:
    images = kind([[[0]], [[1]]])
    assert from_pairs(images, ["a", "b"]).items is images
