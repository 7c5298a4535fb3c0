"""learner.probe(): the head is the best linear layer on the frozen features."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from support import StopAt, copy_of, same_state, tiny_learner
from torch import nn

from finetune import Callback, ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.probe.linear_probe import fit_probe
from finetune.training.events import EpochEnd, FitEnd, FitStart, PhaseStart


def learner_of(photos: Path, head: str = "mlp", **options: object) -> Learner:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    return vision_learner(data, "test_resnet", weights=None, head=head, progress=False, **options)


def test_an_mlp_head_becomes_one_linear_layer_that_answers(photos: Path, tmp_path: Path):
    learner = learner_of(photos)
    probe = learner.probe()
    layers = [type(layer) for layer in learner.model.get_submodule("head")]
    assert layers == [nn.Dropout, nn.Linear]
    features = learner.features()
    expected = probe.outputs(features.values).softmax(dim=1).numpy()
    assert learner.predictions().probabilities == pytest.approx(expected, abs=1e-3)
    learner.export(tmp_path / "model")
    image = photos / "red" / "000.jpg"
    answer = load_learner(tmp_path / "model").predict(image)
    assert answer.probability == pytest.approx(learner.predict(image).probability, abs=1e-5)


def test_a_linear_head_keeps_its_layer(photos: Path):
    learner = learner_of(photos, "linear")
    layer = learner.model.get_submodule("head")[-1]
    probe = learner.probe()
    assert learner.model.get_submodule("head")[-1] is layer
    assert torch.equal(layer.weight.detach(), probe.weight)


def test_nothing_but_the_head_changes(photos: Path):
    learner = learner_of(photos)
    learner.freeze_to(1)
    body = copy_of(learner.model.get_submodule("backbone").state_dict())
    frozen = [group.frozen for group in learner.layer_groups]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    learner.probe(views=2)
    assert same_state(body, learner.model.get_submodule("backbone").state_dict())
    assert [group.frozen for group in learner.layer_groups] == frozen
    assert torch.equal(torch.rand(1), expected)


def test_the_same_learner_has_the_same_probe(photos: Path):
    first, second = learner_of(photos).probe(views=2), learner_of(photos).probe(views=2)
    assert torch.equal(first.weight, second.weight)


@pytest.mark.filterwarnings("ignore:groups= are not divided")
def test_groups_of_the_data_are_held_out_together(photos: Path):
    data = ImageDataLoaders.from_folder(
        photos, groups=r"(\d+)\.jpg", image_size=32, batch_size=8, augment="none"
    )
    learner = vision_learner(data, "test_resnet", weights=None, head="linear", progress=False)
    features = learner.features(learner.data.train)
    probes = []
    for groups in (None, data.train_examples.groups):
        probes.append(
            fit_probe(features.values, features.targets, data.task, data.classes, groups=groups)
        )
    held_out = learner.probe().held_out
    assert torch.allclose(held_out, probes[1].held_out, atol=1e-3)
    assert not torch.allclose(held_out, probes[0].held_out, atol=1e-3)


def test_the_history_has_a_row_with_what_validation_gives(photos: Path):
    learner = learner_of(photos)
    learner.probe()
    (row,) = learner.history.epochs
    assert row.phase == "probe"
    assert dict(row.valid) == pytest.approx(learner.validate(), rel=1e-3)


def test_fine_tuning_goes_on_from_the_probe(photos: Path):
    learner = learner_of(photos)
    learner.probe()
    before = copy_of(learner.model.state_dict())
    learner.fine_tune(1, freeze_epochs=0)
    assert [row.phase for row in learner.history.epochs] == ["probe", "body_2 and above"]
    assert not same_state(before, learner.model.state_dict())
    assert "head.1.weight" in learner.layer_groups[-1].parameters
    learner.plot_losses()
    assert any(row.module == "head.1" for row in learner.movement())


def test_class_weights_of_the_loss_count(photos: Path):
    plain = learner_of(photos)
    weighted = learner_of(photos, loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 20.0, 1.0])))
    favours_second = weighted.probe().bias - plain.probe().bias
    assert favours_second[1] > favours_second[0]


def test_callbacks_see_a_phase_of_one_epoch(photos: Path):
    events: list[object] = []

    class Watch(Callback):
        def on_fit_start(self, event: FitStart) -> None:
            events.append(event.phases)

        def on_phase_start(self, event: PhaseStart) -> None:
            events.append(event.phase)

        def on_epoch_end(self, event: EpochEnd) -> None:
            events.append(event.epoch)

        def on_fit_end(self, event: FitEnd) -> None:
            events.append(event.reason)

    learner_of(photos).probe(callbacks=[Watch()])
    assert events == [("probe",), "probe", 0, "finished"]


def learner_of_own_model(photos: Path, *layers_of_head: nn.Module) -> Learner:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    model = nn.Sequential(OrderedDict(backbone=backbone, head=nn.Sequential(*layers_of_head)))
    return Learner(data, model, loss=nn.functional.cross_entropy, progress=False)


def test_the_linear_layer_of_a_model_of_ones_own_is_set(photos: Path):
    layer = nn.Linear(4, 3)
    learner = learner_of_own_model(photos, nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer)
    probe = learner.probe()
    assert torch.equal(layer.weight.detach(), probe.weight)


def test_a_head_of_ones_own_with_several_layers_is_refused_as_it_was(photos: Path):
    pooling = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    learner = learner_of_own_model(photos, *pooling, nn.Linear(4, 5), nn.Linear(5, 3))
    before = copy_of(learner.model.state_dict())
    with pytest.raises(ValueError, match=r"one layer nn.Linear\(4, 3\)"):
        learner.probe()
    assert same_state(before, learner.model.state_dict())
    assert learner.history.epochs == []


def test_features_that_are_not_pooled_are_refused(photos: Path):
    learner = learner_of_own_model(photos, nn.Conv2d(4, 3, 28), nn.Flatten())
    with pytest.raises(ValueError, match="let the backbone pool them"):
        learner.probe()


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ValueError, match="no submodule 'head' for a probe to replace"):
        tiny_learner().probe()


def test_class_weights_of_several_labels_count(photos: Path):
    files = sorted(photos.rglob("*.jpg"))
    labels = [[file.parent.name, "photo"][: 1 + number % 2] for number, file in enumerate(files)]
    data = ImageDataLoaders.from_lists(
        files, labels, task="multi_label", image_size=32, batch_size=8
    )
    answers = []
    for class_weights in (None, {"photo": 50.0}):
        learner = vision_learner(
            data, "test_resnet", weights=None, class_weights=class_weights, progress=False
        )
        learner.probe()
        probabilities = learner.predictions().probabilities
        answers.append(probabilities[:, data.classes.index("photo")].mean())
    assert answers[1] > answers[0] + 0.2


def test_an_export_after_a_probe_is_described_by_its_results(photos: Path, tmp_path: Path):
    learner = learner_of(photos)
    learner.fine_tune(1)
    learner.probe()
    learner.export(tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "model.json").read_text())
    assert stored["validation"] == pytest.approx(dict(learner.history.epochs[-1].valid))


def test_a_run_that_was_stopped_does_not_go_on_with_another_head(photos: Path):
    learner = learner_of(photos)
    learner.fine_tune(1, callbacks=[StopAt(1)])
    learner.probe()
    with pytest.raises(RuntimeError, match="no unfinished run"):
        learner.resume()
