"""Every architecture of timm and torchvision splits into layer groups, in every way to say it."""

import re
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeAlias

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from finetune.models.partition import partition_parameters
from finetune.models.splitting import Split, split_model

Models: TypeAlias = Callable[..., Iterator[tuple[str, nn.Module]]]
SPLITS: tuple[Split, ...] = (None, "halves", "stages", "layers", 4)

# What timm has no classifier for: it gives tokens or feature maps to another model.
ENCODERS = {
    *("deepseek_vit_412m_enc", "gemma4_vit_167m_enc", "gemma4_vit_570m_enc"),
    *("mobilenetv5_300m_enc", "qwen3_vit_88m_enc", "qwen3_vit_306m_enc", "qwen3_vit_416m_enc"),
}
# Class and parameters whose group is not where they run: they normalise the output of each stage,
# but for the head only.
OUT_OF_ORDER = {"EfficientViM": r"norm\.\d", "EfficientViMDistilled": r"norm\.\d"}
# What the authors call a block, by class name; cut in two it may never be...
BLOCK = re.compile(
    r"(\w*(Block|Bottleneck)\w*|\w*Cell\d?|_?InvertedResidual|_?DenseLayer|MaxVitLayer|MBConv|"
    r"TransformerLayer|Fire|DlaTree|Inception[A-E]?|Mixed\w+)$"
)
# ...but for classes that are called so and hold blocks, which are stages
STAGES = {
    *("densenet.DenseBlock", "densenet._DenseBlock", "maxvit.MaxVitBlock"),  # hold layers
    *("fasternet.Block", "iformer.StageBlock", "shvit.StageBlock"),  # downsampling and blocks
}
FAMILIES = (
    *("test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_mambaout"),
    *("test_nfnet", "test_byobnet", "regnetx_002", "densenet121", "vgg11", "inception_v3"),
    *("swin_tiny_patch4_window7_224", "coat_lite_tiny", "twins_pcpvt_small", "fasternet_t0"),
    *("efficientvim_m1", "hrnet_w18_small", "volo_d1_224", "levit_128s", "crossvit_9_240", "dla34"),
    *("visformer_tiny", "gcvit_xxtiny", "poolformer_s12", "pvt_v2_b0", "mobilevit_xxs"),
)
FAMILIES_OF_TORCHVISION = ("vit_b_16", "maxvit_t", "mobilenet_v2", "squeezenet1_1")


class NoValues(TorchFunctionMode):
    """Leaves new weights as they are: on the meta device they have no values, only cost time."""

    RANDOM = frozenset({"uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_"})

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if getattr(func, "__name__", "") in self.RANDOM and tensor.is_meta:
            return tensor
        return func(*args, **kwargs)


class Uses(TorchFunctionMode):
    """Names of the parameters of a model in the order in which a forward pass first uses them."""

    READS = frozenset({"__get__", "dim", "size", "numel", "stride", "is_floating_point"})

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.used: dict[str, None] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") not in self.READS:
            for leaf in tree_leaves((args, kwargs or {})):
                if isinstance(leaf, Tensor) and id(leaf) in self.names:
                    self.used.setdefault(self.names[id(leaf)])
        return func(*args, **(kwargs or {}))


def build(create: Callable[..., nn.Module], **options: object) -> nn.Module:
    """A model on the meta device, or on the CPU where the class can't be built there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"), NoValues():
                return create(**options)
        except NotImplementedError:  # RegNet of torchvision computes widths with tensors
            return create(**options)


def of_timm(name: str, *, anew: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """The full classifier, and the backbone under a head of our own.

    anew: build the backbone as `create_backbone` does, instead of from the classifier (in half the
    time, to the same).
    """
    full = build(timm.create_model, model_name=name)
    if getattr(full, "num_classes", None) == 0 and hasattr(full, "get_classifier"):
        full = build(timm.create_model, model_name=name, num_classes=10)
    yield "full", full
    backbone = build(timm.create_model, model_name=name, num_classes=0) if anew else full
    if hasattr(backbone, "reset_classifier"):
        backbone.reset_classifier(0)
    features = getattr(backbone, "head_hidden_size", 0) or backbone.num_features
    head = nn.Linear(int(features), 3, device="meta")
    yield "backbone", nn.Sequential(OrderedDict(backbone=backbone, head=head))


def of_torchvision(name: str) -> Iterator[tuple[str, nn.Module]]:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    yield "full", build(torchvision.models.get_model, name=name, weights=None, **options)


def faults(model: nn.Module) -> list[str]:
    """What is wrong with the layer groups; ValueError where the model is refused."""
    wrong: list[str] = []
    pretrained_names, blocks = pretrained(model), blocks_of(model)
    for split in SPLITS:
        # each parameter is in exactly one, by identity
        groups = partition_parameters(model, split_model(model, split))
        group_of = {name: group for group, names in groups.items() for name in names}
        if [*groups][-1] != "head":
            wrong.append(f"{split}: the last group is {[*groups][-1]}")
        for name in pretrained_names & groups["head"].keys():
            wrong.append(f"{split}: {name} in the head")
        for path, names in blocks.items():
            inside = {group_of.get(name) for name in names} - {None, "head"}
            if len(inside) > 1:
                wrong.append(f"{split}: {path} is in {sorted(map(str, inside))}")
    return wrong


def blocks_of(model: nn.Module) -> dict[str, list[str]]:
    """Path of each module that its authors call a block, and the names of its parameters."""
    return {
        f"{path}, a {type(m).__name__},": [f"{path}.{name}" for name, _ in m.named_parameters()]
        for path, m in model.named_modules()
        if BLOCK.match(type(m).__name__)
        and f"{type(m).__module__}.{type(m).__name__}".split(".", 2)[-1] not in STAGES
    }


def pretrained(model: nn.Module) -> set[str]:
    """Names of the parameters that timm loads whatever the number of classes."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    if isinstance(model, nn.Sequential):
        return {name for name in shapes if name.startswith("backbone.")}
    new = getattr(model, "pretrained_cfg", {}).get("classifier")
    if new is None:  # torchvision
        return {name for name, shape in shapes.items() if shape[0] != 1000}
    new = (*([new] if isinstance(new, str) else new), "head_dist.linear")  # not told by Levit
    return {n for n in shapes if not n.startswith(tuple(f"{path}." for path in new))}


def first_uses(model: nn.Module, size: tuple[int, ...]) -> list[str]:
    """Names of the parameters as they run, without what the network itself owns (class token)."""
    network = model[0] if isinstance(model, nn.Sequential) else model
    prefix = "backbone." if network is not model else ""
    owned = re.compile(rf"\w+$|{OUT_OF_ORDER.get(type(network).__name__, '$')}")
    uses = Uses(model)
    with torch.no_grad(), uses:
        model.eval()(torch.zeros(1, *size, device=next(model.parameters()).device))
    return [name for name in uses.used if not owned.match(name.removeprefix(prefix))]


def order_faults(model: nn.Module, split: Split, uses: list[str]) -> list[str]:
    """Parameters that run after those of a later group of the body."""
    groups = partition_parameters(model, split_model(model, split))
    place = {n: i for i, names in enumerate(groups.values()) for n in names}
    in_body = [name for name in uses if name not in groups["head"] and name in place]
    return [
        f"{split}: {name} runs after {previous}"
        for previous, name in pairwise(in_body)
        if place[name] < place[previous]
    ]


def size_of(name: str) -> tuple[int, ...]:
    if timm.is_model(name):
        return tuple(timm.models.get_pretrained_cfg(name).input_size)
    return (3, 299, 299) if "inception" in name else (3, 224, 224)


@pytest.mark.parametrize(
    ("models", "name"),
    [*((of_timm, n) for n in FAMILIES), *((of_torchvision, n) for n in FAMILIES_OF_TORCHVISION)],
)
def test_a_family_splits_in_order(models: Models, name: str):
    for _, model in models(name):
        uses = first_uses(model, size_of(name))
        assert faults(model) == []
        assert [fault for split in SPLITS for fault in order_faults(model, split, uses)] == []


def test_an_encoder_is_refused():
    model = build(timm.create_model, model_name="qwen3_vit_88m_enc")
    with pytest.raises(ValueError, match=r"Qwen3VitEncoder .* has no classifier"):
        split_model(model)


def survey(names: list[str], models: Models) -> Counter:
    """Prints and counts what is covered, refused and failing."""
    counts: Counter = Counter()
    families: dict[str, tuple[int, str]] = {}
    start = time.perf_counter()
    options = {"anew": False} if models is of_timm else {}
    for name in names:
        for kind, model in models(name, **options):
            try:
                wrong = faults(model)
                outcome = "failing" if wrong else "covered"
            except ValueError as error:
                outcome, wrong = "refused", [str(error)[:200]]
            if outcome != "covered":
                print(f"{outcome:8} {kind:8} {name}: {'; '.join(wrong[:3])}")
            counts[f"{kind} {outcome}"] += 1
            counts["undocumented"] += outcome == "refused" and (
                name not in ENCODERS or kind != "full"
            )
            counts["not on meta"] += not next(model.parameters()).is_meta
            if kind == "full" and outcome == "covered":
                entry = (sum(1 for _ in model.modules()), name)
                family = type(model).__name__
                families[family] = min(families.get(family, entry), entry)
    for family, (_, name) in sorted(families.items()):
        for kind, model in models(name):
            uses = first_uses(model, size_of(name))
            wrong = [fault for split in SPLITS for fault in order_faults(model, split, uses)]
            counts["out of order" if wrong else "in order"] += 1
            print(*(f"{family} {kind} {name}: {fault}\n" for fault in wrong[:3]), end="", sep="")
    print(f"{len(families)} families, {time.perf_counter() - start:.0f} s; {dict(counts)}")
    return counts


@pytest.mark.slow
def test_all_of_timm():
    counts = survey(timm.list_models(), of_timm)
    assert counts["full covered"] == len(timm.list_models()) - len(ENCODERS)
    assert counts["full failing"] + counts["backbone failing"] == 0
    assert counts["undocumented"] + counts["out of order"] == 0


@pytest.mark.slow
def test_all_of_torchvision():
    names = torchvision.models.list_models(module=torchvision.models)
    counts = survey(names, of_torchvision)
    assert counts["full covered"] == len(names)
    assert counts["out of order"] == 0
