"""Wrong labels are found by a judge that has not seen them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_learner, write_photos

from finetune import ImageDataLoaders, vision_learner
from finetune.inference import predictor
from finetune.inference.label_issues import FOLDS, _folds, cross_probabilities
from finetune.interpret.suspicious import rank_suspicious


def flipped(count: int = 1000, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, set[int]]:
    """Features that tell the classes apart, not perfectly, and labels of which 5 % are wrong."""
    noise = torch.Generator().manual_seed(0)
    truth = torch.arange(count) % classes
    centres = torch.randn(classes, 16, generator=noise) * 1.6
    features = centres[truth] + torch.randn(count, 16, generator=noise)
    wrong = torch.randperm(count, generator=noise)[: count // 20]
    labels = truth.clone()
    labels[wrong] = (truth[wrong] + 1 + torch.arange(len(wrong)) % (classes - 1)) % classes
    return features, labels, set(wrong.tolist())


def test_flipped_labels_rank_first() -> None:
    features, labels, wrong = flipped()
    probabilities = cross_probabilities(features, labels, 5, seed=0)
    ranked = [number for number, _ in rank_suspicious(probabilities, labels.numpy())]
    assert len(wrong & set(ranked[: len(wrong)])) >= 0.9 * len(wrong)
    assert set(ranked[:20]) <= wrong


def test_nobody_is_judged_by_who_saw_the_label() -> None:
    features, labels, _ = flipped(200)
    before = cross_probabilities(features, labels, 5, seed=0)
    other = labels.clone()
    other[17] = (labels[17] + 1) % 5
    fold = _folds(labels, 5, 0, FOLDS)
    # in a single fold by hand: the label of a member of it changes nothing there
    from finetune.inference import label_issues as module

    kept = module._folds
    try:
        module._folds = lambda *args: fold
        after = cross_probabilities(features, other, 5, seed=0)
    finally:
        module._folds = kept
    same = fold == fold[17]
    assert np.array_equal(before[same], after[same])
    assert not np.array_equal(before[~same], after[~same])


def test_every_fold_has_its_share_of_every_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2)
    fold = _folds(labels, 3, 0, FOLDS)
    assert torch.bincount(fold[labels == 0]).tolist() == [10] * 5
    assert torch.bincount(fold[labels == 1]).tolist() == [2] * 5
    assert len(set(fold[labels == 2].tolist())) == 2


def test_frames_of_one_video_do_not_confirm_the_label_of_each_other() -> None:
    noise = torch.Generator().manual_seed(0)
    truth = torch.arange(60) % 2
    videos = torch.randn(60, 300, generator=noise)
    videos[:, :40] += (truth[:, None] - 0.5) * 2
    labels = truth.clone()
    labels[:6] = 1 - labels[:6]
    frames, targets = videos.repeat_interleave(5, 0), labels.repeat_interleave(5)
    groups = [str(number // 5) for number in range(300)]
    means = []
    for known_groups in (None, groups):
        probabilities = cross_probabilities(frames, targets, 2, seed=0, groups=known_groups)
        means.append(float(probabilities[torch.arange(30), targets[:30]].mean()))
    assert means[0] > 0.9
    assert means[1] < 0.3


@pytest.mark.filterwarnings("ignore:groups= are not divided")
def test_groups_of_the_data_reach_the_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def noted(*args: Any, **options: Any) -> Any:
        seen.append(options["groups"])
        return cross_probabilities(*args, **options)

    monkeypatch.setattr(predictor, "cross_probabilities", noted)
    folder = write_photos(tmp_path, per_class=6)
    data = ImageDataLoaders.from_folder(
        folder, groups=r"(\d+)\.jpg", valid_fraction=0.4, image_size=32, batch_size=4
    )
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False)
    learner.suspicious_labels()
    assert seen == [data.train_examples.groups]


def test_swapped_images_of_training_are_found(tmp_path: Path) -> None:
    folder = write_photos(tmp_path, per_class=40)
    for number in (3, 11):
        red, blue = folder / "red" / f"{number:03d}.jpg", folder / "blue" / f"{number:03d}.jpg"
        red.rename(folder / "blue" / f"was_red_{number}.jpg")
        blue.rename(folder / "red" / f"was_blue_{number}.jpg")
    data = ImageDataLoaders.from_folder(folder, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False)
    table = learner.suspicious_labels()
    swapped = {str(item) for item in data.train_examples.items if "was" in str(item)}
    assert len(swapped) > 1
    first = table[: len(swapped)]
    assert {row.item for row in first} == swapped
    assert all(Path(row.item).name.startswith(f"was_{row.looks_like}") for row in first)
    assert all(Path(row.item).parent.name == row.label for row in table)
    assert len(table.plot().axes) >= len(table)
    file = tmp_path / "corrections.csv"
    table.to_csv(file)
    # what a person does in a spreadsheet
    lines = file.read_text().splitlines()
    red_number = next(i for i, line in enumerate(lines) if "was_red" in line)
    lines[red_number] = lines[red_number].replace("blue,,,", "blue,relabel,red,")
    file.write_text("\n".join(lines))
    mended = ImageDataLoaders.from_folder(folder, image_size=32, corrections=file)
    changed = (mended.train_examples.labels != data.train_examples.labels).nonzero().flatten()
    assert [Path(str(data.train_examples.items[i])).name[:7] for i in changed] == ["was_red"]


def test_labels_of_validation_are_judged_by_the_model() -> None:
    learner = tiny_learner(1)  # a linear layer
    with torch.no_grad():
        learner.model[0].weight.copy_(torch.tensor([[-5.0] * 4, [5.0] * 4]))
        learner.model[0].bias.zero_()
    learner.data.valid.loader.dataset.tensors[1][7] ^= 1
    assert [row.number for row in learner.suspicious_labels(of="valid")] == [7]


def test_weights_that_saw_the_labels_are_not_asked(photos: Path) -> None:
    items = sorted(photos.rglob("*.jpg"))
    labels = [item.parent.name for item in items]
    labels[3], labels[12] = labels[12], labels[3]
    data = ImageDataLoaders.from_lists(items, labels, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_resnet", weights=None, progress=False)
    before = learner.suspicious_labels(count=99)
    assert len(before) > 0
    learner.fit(3, 1e-2)
    after = learner.suspicious_labels(count=99)
    assert [row.number for row in after] == [row.number for row in before]
    assert [row[3] for row in after] == pytest.approx([row[3] for row in before], abs=1e-3)


def test_what_can_not_be_named_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not number its examples"):
        tiny_learner().suspicious_labels()
    with pytest.raises(ValueError, match="of must be one of 'train', 'valid', got 'test'"):
        tiny_learner().suspicious_labels(of="test")
    with pytest.raises(ValueError, match="count must be a whole number of at least 1, got 0"):
        tiny_learner().suspicious_labels(0, of="valid")
