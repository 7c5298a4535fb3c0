"""One small model of every family of timm and torchvision, from images to an exported folder."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from support import StopAt, copy_of, same_state, write_photos

from finetune import ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.data.memory import memory_bytes
from finetune.models.backbones import input_size_of

SIZES = (64, 128, 224)  # the smallest that works is taken, or else the model's own

# The smallest of each of timm's modules...
TIMM = {
    "beit": "beit_base_patch16_224", "byoanet": "halonet_h1", "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224", "coat": "coat_tiny", "convit": "convit_tiny",
    "convmixer": "convmixer_768_32", "convnext": "test_convnext", "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240", "csatv2": "csatv2", "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny", "davit": "davit_tiny", "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224", "densenet": "densenet121", "dla": "dla46x_c", "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small", "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0", "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0", "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0", "fastvit": "fastvit_t8", "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny", "gemma4_vit": "gemma4_vit_167m", "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b", "hgnet": "hgnetv2_b0", "hiera": "hiera_tiny_224",
    "hieradet_sam2": "hieradet_small", "hrnet": "hrnet_w18_small", "iformer": "iformer_t",
    "inception_next": "inception_next_atto", "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3", "inception_v4": "inception_v4", "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s", "lowformer": "lowformer_b0", "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet", "metaformer": "poolformerv2_s12", "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050", "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs", "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap", "nasnet": "nasnetalarge",
    "nest": "nest_tiny", "nextvit": "nextvit_small", "nfnet": "test_nfnet", "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large", "pvt_v2": "pvt_v2_b0", "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny", "regnet": "regnetx_002", "repghost": "repghostnet_050",
    "repvit": "repvit_m1", "res2net": "res2next50", "resnest": "resnest14d",
    "resnet": "test_resnet", "resnetv2": "resnetv2_18", "rexnet": "rexnet_100",
    "selecsls": "selecsls42", "senet": "legacy_seresnet18", "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1", "sknet": "skresnet18", "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs", "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224", "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224", "tresnet": "tresnet_m", "twins": "twins_svt_small",
    "vgg": "vgg11", "visformer": "visformer_tiny", "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224", "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224", "vovnet": "ese_vovnet19b_slim_dw", "xception": "legacy_xception",
    "xception_aligned": "xception41p", "xcit": "xcit_nano_12_p8_224",
}  # fmt: skip
# ...and of torchvision's.
TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_32", "wide_resnet50_2"),
)
LARGE = ("deepseek_vit_412m",)  # and it has no smaller one


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("few"), per_class=4)


def learner_of(photos: Path, name: str) -> Learner:
    """On the smallest images that the model takes."""
    sizes = sorted({*(s for s in SIZES if s < input_size_of(name)), input_size_of(name)})
    for size in sizes:
        data = ImageDataLoaders.from_folder(photos, image_size=size, batch_size=3)
        try:
            return vision_learner(
                data, name, weights=None, head="linear", progress=False, precision="fp32"
            )
        except Exception:
            if size == sizes[-1]:
                raise
    raise AssertionError


def assert_trains_and_ships(photos: Path, name: str, folder: Path) -> None:
    learner = learner_of(photos, name)
    assert learner.layer_groups.names == ("body_1", "body_2", "head")
    before = copy_of(learner.model[0].state_dict())
    learner.freeze()
    learner.fit_one_cycle(1, 1e-3, callbacks=[StopAt(1)])
    assert same_state(before, learner.model[0].state_dict())
    learner.unfreeze()
    learner.fit_one_cycle(1, 1e-4, callbacks=[StopAt(1)])
    assert all(torch.isfinite(p).all() for p in learner.model.parameters())
    assert not same_state(before, learner.model[0].state_dict())
    learner.export(folder)
    image = next(photos.rglob("*.jpg"))
    own = learner.predict(image).probabilities
    assert load_learner(folder).predict(image).probabilities == pytest.approx(own, abs=1e-4)


def test_every_module_of_timm_has_its_model():
    assert TIMM.keys() == set(timm.list_modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM.values())
def test_a_family_of_timm(name: str, few: Path, tmp_path: Path):
    if name in LARGE and memory_bytes() < 20e9:
        pytest.skip(f"{name} needs 12 GB")
    assert_trains_and_ships(few, name, tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_a_family_of_torchvision(name: str, few: Path, tmp_path: Path):
    assert_trains_and_ships(few, f"torchvision/{name}", tmp_path / "model")


@pytest.mark.parametrize("name", ["test_vit", "torchvision/squeezenet1_1"])
def test_a_sample_of_both(name: str, few: Path, tmp_path: Path):
    assert_trains_and_ships(few, name, tmp_path / "model")


def test_a_model_that_torchvision_does_not_have_is_named():
    with pytest.raises(ValueError, match=r"'torchvision/resnet17'; did you mean 'torchvision/res"):
        input_size_of("torchvision/resnet17")


def test_a_model_built_for_one_size_says_so(few: Path):
    data = ImageDataLoaders.from_folder(few, image_size=64, batch_size=3)
    with pytest.raises(ValueError, match=r"takes images of 224 pixels only, got image_size=64"):
        vision_learner(data, "torchvision/vit_b_32", weights=None)


def test_images_are_normalised_as_torchvision_says(few: Path):
    learner = learner_of(few, "torchvision/squeezenet1_1")
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    inputs = learner.data.describe_inputs()
    assert inputs is not None
    assert (list(inputs["mean"]), list(inputs["std"])) == (list(weights.mean), list(weights.std))
