"""A sharded model trains as a whole one: each process keeps a part of every weight."""

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_python, run_together

from finetune import load_learner
from finetune.models.classifier import Architecture
from finetune.training import checkpoint
from finetune.vision import made_without_weights

LEARNER = """
import sys
from functools import partial
import numpy as np
import torch
from support import StopAt
from finetune import Callback, ImageDataLoaders, UpdateNorms, launch, vision_learner

torch.set_num_threads(1)
folder, world = sys.argv[1], launch.world_size()
noise = np.random.default_rng(0)
images = [noise.integers(0, 230 + i % 3, (32, 32, 3), dtype=np.uint8) for i in range(29)]
labels = [["a", "b", "c"][i % 3] for i in range(29)]

def learner_of(name, **options):
    data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=7)
    return vision_learner(
        data, name, weights=None, progress=False, device="cpu",
        **{"precision": "fp32", "sharding": "full", **options},
    )
"""

# what one process does, several do; and a run that is interrupted is for several others
TRAINS = """
results = {}
sgd = partial(torch.optim.SGD, momentum=0.9)
settings = {
    "test_vit": {"ema": 0.9, "clip_norm": 0.1, "optimizer": sgd},
    "test_resnet": {"head": "mlp", "norm": "train", "accumulate": 2, "mixup": 0.4},
    "test_nfnet": {"precision": "bf16", "optimizer": sgd},
}
for name in sys.argv[2:]:
    options = settings[name]
    norms = UpdateNorms(every=1)
    # one process listens, and all must measure
    callbacks = [norms] if launch.rank() == 0 else []
    learner = learner_of(name, **options)
    learner.fit_one_cycle(1, 1e-3, callbacks=callbacks)
    learner.fine_tune(1, 1e-3, freeze_epochs=1, freeze_views=1)
    learner.save(f"{folder}/{name} {world}.ckpt")
    learner.export(f"{folder}/{name} {world}")
    results[name] = {
        "predicted": learner.predict(images[0]).probabilities["a"],
        "losses": [(row.train_loss, *row.valid.values()) for row in learner.history.epochs],
        "moved": [row.distance for row in learner.movement()],
        "gradients": [row.gradient for row in norms.rows],
        "numbers": sum(tensor.numel() for tensor in learner.model.parameters()),
        "local": sum(p.to_local().numel() if world > 1 else p.numel()
                     for p in learner.model.parameters() if p.dim()),
    }
torch.save(results, f"{folder}/{launch.rank()} of {world}.pt")

learner = learner_of("test_vit", ema=0.9, clip_norm=0.1)
stops = [StopAt(4)] if world == 2 else []
learner.fit_one_cycle(2, 1e-3, checkpoint=f"{folder}/run {world}.ckpt", callbacks=stops)
"""

SCALED = """
from torch import nn
from finetune import Learner

class Scaled(nn.Linear):
    def __init__(self):
        super().__init__(32, 8)
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        return self.gain * super().forward(images.mean((1, 2)))

data = ImageDataLoaders.from_lists(images, labels, image_size=32, batch_size=7)
data = data.for_backbone(32, (0.5,) * 3, (0.5,) * 3)
learner = Learner(
    data, nn.Sequential(Scaled(), nn.Linear(8, 3)), loss=nn.functional.cross_entropy,
    progress=False, device="cpu", sharding="full",
)
learner.fit_one_cycle(1, 1e-2)
print(learner.model[0].gain.item())
"""

RESUMES = """
learner = learner_of("test_vit", ema=0.9, clip_norm=0.1)
learner.load(f"{folder}/run 2.ckpt")
learner.resume()
learner.save(f"{folder}/resumed by {world}.ckpt")
"""

WRONG = """
class Asks(Callback):
    def on_epoch_end(self, event):
        learner.predict(images[0])

learner = learner_of("test_vit", head="mlp")
for refused in (
    learner.lr_find,
    lambda: learner.fine_tune(minutes=1),
    learner.probe,
    learner.features,
    lambda: learner.activation_map(images[0]),
    lambda: learner.soup([learner, learner]),
    lambda: learner.fit_one_cycle(1, callbacks=[Asks()]),
):
    try:
        refused()
    except (ValueError, RuntimeError) as error:
        print(error)
learner.fit_one_cycle(1)  # nothing is spoilt
print(len(learner.history.epochs))
if launch.rank() == 0:
    learner.predict(images[0])
"""

NAMES = ("test_vit", "test_resnet", "test_nfnet")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what was trained by one to three processes."""
    folder = tmp_path_factory.mktemp("trained")
    for world, names in ((1, NAMES), (2, NAMES), (3, NAMES[:1])):
        ranks = run_together(world, LEARNER + TRAINS, folder, *names)
        assert [(rank.returncode, rank.stderr) for rank in ranks] == [(0, "")] * world
    return folder


def content_of(folder: Path, file: str) -> dict[str, Any]:
    return checkpoint.read(folder / f"{file}.ckpt")


def results_of(folder: Path, rank: int, world: int) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = torch.load(folder / f"{rank} of {world}.pt")
    return results


@pytest.mark.parametrize(("name", "world"), [*((name, 2) for name in NAMES), (NAMES[0], 3)])
def test_a_sharded_model_trains_as_a_whole_one(trained: Path, name: str, world: int) -> None:
    whole, shards = content_of(trained, f"{name} 1"), content_of(trained, f"{name} {world}")
    tolerance = {"rtol": 0, "atol": 2e-2 if name == "test_nfnet" else 1e-4}
    torch.testing.assert_close(shards["model"], whole["model"], **tolerance)
    states = [content["optimizer"]["state"] for content in (shards, whole)]
    torch.testing.assert_close(*states, **tolerance)
    expected = results_of(trained, 0, 1)[name]
    results = results_of(trained, 0, world)[name]
    for what in ("predicted", "losses", "moved", "gradients"):
        torch.testing.assert_close(
            results[what], expected[what], rtol=2e-2, atol=2e-2, equal_nan=True
        )


@pytest.mark.parametrize("name", NAMES)
def test_each_process_has_its_part(trained: Path, name: str) -> None:
    of_ranks = [results_of(trained, rank, 2)[name] for rank in range(2)]
    scalars = of_ranks[0]["numbers"] - sum(results["local"] for results in of_ranks)
    assert 0 <= scalars < 10
    for results in of_ranks:
        assert results["local"] == pytest.approx(results["numbers"] / 2, rel=0.05)


def test_a_single_number_is_the_same_in_all_processes(tmp_path: Path) -> None:
    first, second = run_together(2, LEARNER + SCALED, tmp_path)
    assert (first.stderr, second.stderr) == ("", "")
    assert first.stdout == second.stdout
    assert float(first.stdout) != 1


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_model_is_a_whole_one(trained: Path, name: str) -> None:
    exported = load_learner(trained / f"{name} 2").model.state_dict()
    saved = content_of(trained, f"{name} 2")["model"]
    torch.testing.assert_close(exported, saved, rtol=0, atol=0)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_run_goes_on_in_any_number_of_processes(trained: Path, world: int) -> None:
    ranks = run_together(world, LEARNER + RESUMES, trained)
    assert [(rank.returncode, rank.stderr) for rank in ranks] == [(0, "")] * world
    whole, resumed = content_of(trained, "run 1"), content_of(trained, f"resumed by {world}")
    torch.testing.assert_close(resumed["model"], whole["model"], rtol=0, atol=1e-5)
    states = [content["optimizer"]["state"] for content in (resumed, whole)]
    torch.testing.assert_close(*states, rtol=0, atol=1e-5)


def test_what_a_sharded_model_cannot_do_is_said(tmp_path: Path) -> None:
    first, second = run_together(2, LEARNER + WRONG, tmp_path)
    assert second.stdout == first.stdout
    lines = first.stdout.splitlines()
    texts = (
        "a copy of the model",
        "a copy of the model",
        "head='linear'",
        "load_learner(folder)",
        "load_learner(folder)",
        "the files in one process",
        "between two fits",
    )
    assert len(lines) == len(texts) + 1
    for line, text in zip(lines, texts, strict=False):
        assert text in line
    # one process alone asked for a prediction
    assert second.returncode == 0
    assert "which has ended; all processes must call it" in first.stderr


def test_one_process_shards_nothing(tmp_path: Path) -> None:
    program = run_python(
        LEARNER + 'print(type(learner_of("test_vit").model[1][1].weight))', tmp_path
    )
    assert program.stdout == "<class 'torch.nn.parameter.Parameter'>\n"


def test_processes_but_the_first_begin_without_weights() -> None:
    model = made_without_weights(Architecture.create("test_vit", classes=3))
    assert all(parameter.is_meta for parameter in model.parameters())


GRADIENTS = """
import sys
import torch
from finetune import distributed
from finetune.distributed.sharding import shard, whole
from finetune.models.backbones import input_size_of
from finetune.models.classifier import Architecture
from finetune.models.units import sharding_units
from finetune.vision import made_without_weights

torch.set_num_threads(1)
device = torch.device("cpu")
distributed.join(device)
for name in sys.argv[1:]:
    size = min(input_size_of(name), 128)
    architecture = Architecture.create(name, 3, image_size=size)
    torch.manual_seed(0)
    model = architecture.build().eval()
    torch.manual_seed(0)
    sharded = made_without_weights(architecture) if distributed.rank() else architecture.build()
    shard(sharded.eval(), sharding_units(sharded), device)
    assert repr(sharded) == repr(model)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    for each in (model, sharded):
        each(images).square().mean().backward()
    for parameter, of_shards in zip(model.parameters(), sharded.parameters(), strict=True):
        assert (parameter.grad is None) == (of_shards.grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(whole(of_shards.grad), parameter.grad, rtol=0, atol=1e-5)
"""


@pytest.mark.slow
def test_architectures_of_all_kinds_have_the_gradients_of_the_whole() -> None:
    names = (
        *("coat_tiny", "convit_tiny", "edgenext_xx_small", "efficientvim_m1", "levit_128s"),
        *("mobilevit_xxs", "pvt_v2_b0", "test_coatnet", "test_mambaout", "xcit_nano_12_p8_224"),
        *("torchvision/regnet_x_400mf", "torchvision/shufflenet_v2_x0_5", "torchvision/vgg11"),
    )
    ranks = run_together(2, GRADIENTS, *names)
    assert [(rank.returncode, rank.stderr) for rank in ranks] == [(0, "")] * 2
