"""Backbones by name, and where their weights come from."""

import os
import traceback
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from support import copy_of, same_state
from torch import Tensor, nn

from finetune.models import backbones
from finetune.models.backbones import (
    WeightsError,
    check_name,
    create_backbone,
    features_of,
    input_size_of,
    normalisation_of,
    read_weights,
)

NAME = "test_resnet"


def random_state(seed: int = 1, name: str = NAME) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=0).state_dict()


def load(weights: object) -> nn.Module:
    return create_backbone(NAME, image_size=32, weights=weights)  # type: ignore[arg-type]


# --- names


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"no backbone 'resnet81' in timm; did you mean .*resnet1"):
        create_backbone("resnet81", image_size=32, weights=None)


def test_a_name_like_no_other_gets_the_way_to_the_list():
    with pytest.raises(ValueError, match=r"no backbone 'qqqq' in timm; there are "):
        check_name("qqqq")


def test_a_name_may_have_a_tag():
    check_name("test_resnet.r160_in1k")


def test_an_unknown_tag_is_an_error_of_the_name():
    with pytest.raises(ValueError, match=r"test_resnet\.nonsense"):
        create_backbone("test_resnet.nonsense", image_size=32, weights=None)


# --- weights


def test_no_weights_are_random_weights():
    torch.manual_seed(1)
    backbone = load(None)
    assert same_state(backbone.state_dict(), random_state(1))


def test_a_safetensors_file_is_used_bit_for_bit(tmp_path: Path):
    state = random_state()
    save_file(state, tmp_path / "w.safetensors")
    assert same_state(load(tmp_path / "w.safetensors").state_dict(), state)


@pytest.mark.parametrize("nesting", ["", "state_dict", "model"])
def test_a_pth_file_is_used_bit_for_bit(tmp_path: Path, nesting: str):
    state = random_state()
    torch.save({nesting: state, "epoch": 3} if nesting else state, tmp_path / "w.pth")
    assert same_state(load(str(tmp_path / "w.pth")).state_dict(), state)


PREFIXES = ["module.", "model.", "backbone.", "_orig_mod.", "module._orig_mod.", "net.encoder."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names_is_taken_away(tmp_path: Path, prefix: str):
    state = random_state()
    content = {prefix + name: value for name, value in state.items()}
    content["head.weight"] = torch.zeros(2, 2)
    torch.save(content, tmp_path / "w.pth")
    assert same_state(load(tmp_path / "w.pth").state_dict(), state)


def test_weights_of_two_models_that_fit_are_an_error():
    state = random_state()
    both = {f"{who}.{name}": t for who in ("student", "teacher") for name, t in state.items()}
    with pytest.raises(WeightsError, match=r"models that fit, under 'student\.' and 'teacher\.'"):
        load(both)


def test_position_embeddings_are_resampled_for_another_image_size():
    torch.manual_seed(0)
    large = create_backbone("test_vit", image_size=160, weights=None)
    small = create_backbone("test_vit", image_size=96, weights=large.state_dict())
    wide = create_backbone("test_vit", image_size=(48, 80), weights=large.state_dict())
    assert features_of(wide, (48, 80)) == features_of(small, 96)
    plain = dict(large.named_parameters())
    for name, parameter in small.named_parameters():
        if name != "pos_embed":
            assert torch.equal(parameter, plain[name])
    mean_before, mean_after = plain["pos_embed"].mean(1), small.pos_embed.mean(1)
    assert torch.allclose(mean_before, mean_after, atol=0.01)


def test_a_mapping_of_tensors_is_used_bit_for_bit():
    state = random_state()
    assert same_state(load(state).state_dict(), state)


def test_weights_of_a_training_that_diverged_are_named():
    state = random_state()
    name = next(iter(state))
    state[name] = state[name] * torch.nan
    with pytest.raises(WeightsError, match=f"hold weights that are NaN or infinite: '{name}'"):
        load(state)


def test_a_classifier_in_the_file_is_left_out(tmp_path: Path):
    state = timm.create_model(NAME, num_classes=5).state_dict()
    torch.save(state, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth").state_dict()
    assert "fc.weight" in state
    assert "fc.weight" not in loaded
    assert same_state(loaded, {name: state[name] for name in loaded})


def test_missing_tensors_and_other_shapes_are_counted_and_named(tmp_path: Path):
    state = copy_of(random_state())
    del state["bn1.weight"]
    state["conv1.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    message = r"file '.*w.pth' does not fit 'test_resnet': 1 tensors are missing and 1 have .*shape"
    with pytest.raises(WeightsError, match=message + ", such as bn1.weight, conv1.0.weight"):
        load(tmp_path / "w.pth")


def test_a_mapping_of_another_model_does_not_fit():
    with pytest.raises(WeightsError, match=r"given tensors do(es)? not fit 'test_resnet'"):
        load(random_state(name="test_efficientnet"))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str):
    with pytest.raises(WeightsError, match=f"there is no weights file .*{name}"):
        load(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "nonsense", "empty"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, name: str, damage: str):
    path = tmp_path / name
    torch.save(random_state(), path) if name == "w.pth" else save_file(random_state(), path)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:1000], "nonsense": b"x" * 1000, "empty": b""}[damage])
    with pytest.raises(WeightsError, match=f"{name}' is no readable weights file"):
        load(path)


def test_a_flipped_bit_is_an_error(tmp_path: Path):
    state = random_state()
    torch.save(state, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    place = whole.index(next(iter(state.values())).numpy().tobytes()[:40])
    (tmp_path / "w.pth").write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    with pytest.raises(WeightsError, match=r"w.pth' is no readable weights file: .*CRC-32"):
        load(tmp_path / "w.pth")


def test_a_refused_file_is_no_reason_to_unpickle_it(tmp_path: Path):
    torch.save({"conv1.weight": Payload(tmp_path)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"UnpicklingError$"):
        load(tmp_path / "w.pth")


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_a_pickled_object_is_refused_and_not_run(tmp_path: Path):
    torch.save({"conv1.weight": Payload(tmp_path / "owned")}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w.pth' is no readable weights file"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "owned").exists()


def test_a_file_without_tensors_is_refused(tmp_path: Path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no mapping of names to tensors"):
        read_weights(tmp_path / "w.pth")


def test_without_a_network_the_error_names_both_ways_out(tmp_path: Path, monkeypatch):
    # what the variables of the environment set when the package is imported
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as error:
        create_backbone(NAME, image_size=32)
    message = str(error.value)
    assert f"can't get the pretrained weights of {NAME!r}" in message
    assert "weights='weights.safetensors'" in message
    assert "weights=None" in message
    assert "`finetune demo` needs none" in message
    # a notebook would show the errors of the libraries below, 90 lines of them
    shown = "".join(traceback.format_exception(error.value))
    assert "huggingface_hub" not in shown


def test_a_model_that_timm_has_no_weights_for_is_never_random_in_silence():
    with pytest.raises(WeightsError, match=r"No pretrained weights[\s\S]*weights=None"):
        create_backbone("resnet200", image_size=32)


# --- what is known of a backbone


@pytest.mark.parametrize(
    ("name", "features"), [("test_resnet", 96), ("test_vit", 64), ("test_efficientnet", 256)]
)
def test_features_are_pooled_and_counted(name: str, features: int):
    backbone = create_backbone(name, image_size=64, weights=None)
    assert features_of(backbone, 64) == features


def test_counting_features_changes_nothing():
    backbone = load(None)
    before = copy_of(backbone.state_dict())
    features_of(backbone, 32)
    assert backbone.training
    assert same_state(backbone.state_dict(), before)


def test_a_backbone_that_does_not_pool_is_an_error():
    with pytest.raises(ValueError, match=r"Conv2d gives \(1, 4, 30, 30\), not pooled features"):
        features_of(nn.Conv2d(3, 4, 3), 32)


def test_an_architecture_of_one_size_is_built_for_the_size_asked_for():
    backbone = create_backbone("test_vit", image_size=64, weights=None)
    assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, 64)


def test_normalisation_is_the_backbones_own():
    assert normalisation_of(load(None)) == timm_normalisation(NAME)


def timm_normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    config = timm.models.get_pretrained_cfg(name)
    return config.mean, config.std


def test_a_backbone_that_does_not_tell_its_normalisation_is_an_error():
    with pytest.raises(ValueError, match="Linear does not say how its images are normalised"):
        normalisation_of(nn.Linear(2, 2))


def test_the_input_size_is_the_side_it_was_trained_with():
    assert input_size_of(NAME) == 160


def test_checkpointed_activations_give_the_same_gradients():
    images = torch.randn(2, 3, 32, 32)
    normal = create_backbone("test_efficientnet", image_size=32, weights=None)
    recomputed = create_backbone("test_efficientnet", image_size=32, weights=normal.state_dict())
    backbones.checkpoint_activations(recomputed)
    for backbone in (normal, recomputed):
        backbone.eval()(images).square().mean().backward()
    for p, q in zip(normal.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_an_architecture_that_cannot_be_checkpointed_is_named():
    with pytest.raises(ValueError, match="activations of Linear can't be checkpointed"):
        backbones.checkpoint_activations(nn.Linear(2, 2))


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["torchvision/regnet_y_400mf", "torchvision/resnet18"])
def test_source_makes_the_same_backbone_and_draws_no_number(name: str) -> None:
    before = torch.get_rng_state()
    source = backbones.source_of(name, 64)
    assert torch.equal(torch.get_rng_state(), before)
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    backbone = backbones.create_backbone(name, image_size=64, weights=None)
    assert shapes_of(namespace["backbone"]) == shapes_of(backbone)


@pytest.mark.parametrize("name", ["hiera_tiny_224", "nest_tiny"])
def test_what_takes_squares_only_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=r"can't take images of 112 x 224 px .*image_size"):
        features_of(create_backbone(name, image_size=(112, 224), weights=None), (112, 224))
