"""Every public argument gets values of every wrong kind: the package works, or says what is wrong.

The public signatures are walked, so that a new argument is tried without a line here. A function
that needs arguments has them in `RIGHT_CALLS`, and what is not called at all has its reason in
`NOT_WALKED`: a class with its methods, or by `.*` its methods alone.
"""

import dataclasses
import inspect
import math
import os
import re
import traceback
import types
import typing
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import numpy as np
import pytest
import torch
from hub_server import TOKEN, hub_server, use_hub
from parquets import write_folder_as_parquet
from PIL import Image
from support import StopAt, tiny_data, tiny_learner, tiny_model, write_photos
from tars import write_folder_as_shards
from torch import nn

import finetune
from finetune import (
    FilePrediction,
    GroupOptimizer,
    ImageDataLoaders,
    LayerDecay,
    LayerGroups,
    Learner,
    Phase,
    PostProcessing,
    Predictor,
    Runtime,
    adamw,
    vision_learner,
)
from finetune.data.image_options import ImageSettings
from finetune.interpret.predictions import Predictions
from finetune.learner_options import FitSettings, LearnerSettings

WRONG = {
    "None": None,
    "nan": math.nan,
    "inf": math.inf,
    "True": True,
    "8.0": 8.0,
    "'8'": "8",
    "-1": -1,
    "0": 0,
    "object": object(),
    "[]": [],
    "10**400": 10**400,
}

BACKBONE = "test_resnet"


class World:
    """What right calls need, made when it is asked for, and only once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def photos(self) -> Path:
        return write_photos(self.folder / "photos", per_class=4, size=(16, 16))

    @cached_property
    def image(self) -> Path:
        return next(self.photos.rglob("*.jpg"))

    @cached_property
    def table(self) -> Path:
        files = sorted(self.photos.rglob("*.jpg"))
        lines = [f"{file.relative_to(self.photos)},{file.parent.name}" for file in files]
        path = self.photos / "labels.csv"
        path.write_text("\n".join(["image,label", *lines]))
        return path

    @cached_property
    def shard(self) -> Path:
        write_folder_as_shards(self.photos, self.folder / "shards", 1)
        return self.folder / "shards" / "train-000.tar"

    @cached_property
    def parquet(self) -> Path:
        write_folder_as_parquet(self.photos, self.folder / "parquet", 1)
        return self.folder / "parquet" / "train-000.parquet"

    @cached_property
    def data(self) -> ImageDataLoaders:
        return ImageDataLoaders.from_folder(
            self.photos, image_size=32, batch_size=4, valid_fraction=0.5
        )

    @cached_property
    def vision(self) -> Learner:
        learner = vision_learner(
            self.data,
            BACKBONE,
            weights=None,
            head="linear",
            device="cpu",
            precision="fp32",  # no trial of what is fastest
            progress=False,
        )
        learner.fit(1, callbacks=[StopAt(1)])
        return learner

    @cached_property
    def exported(self) -> Path:
        self.vision.export(self.folder / "exported")
        return self.folder / "exported"

    @cached_property
    def predictor(self) -> Predictor:
        return self.vision.predictor()

    @cached_property
    def predictions(self) -> Predictions:
        table = self.predictor.predictions()
        assert isinstance(table, Predictions)
        return table

    @property
    def points(self) -> Learner:
        """A new one for each call, as a fit goes on from the fit before."""
        return tiny_learner(data=tiny_data(8))

    @cached_property
    def groups(self) -> LayerGroups:
        groups = LayerGroups.from_model(tiny_model(), [1])
        GroupOptimizer(groups)  # gives them hyper-parameters
        return groups

    @cached_property
    def phase(self) -> Phase:
        return Phase("fit", 1, 0, {"lr": (1e-3, 1e-3)})

    @cached_property
    def optimizer(self) -> GroupOptimizer:
        return GroupOptimizer(self.groups)

    def pictures(self) -> list[np.ndarray]:
        return [np.full((8, 8, 3), 20 * number, np.uint8) for number in range(8)]


# an instance of each class for its methods
INSTANCES: dict[str, Callable[[World], Any]] = {
    "DataLoaders": lambda world: tiny_data(8),
    "GroupOptimizer": lambda world: world.optimizer,
    "History": lambda world: world.vision.history,
    "ImageDataLoaders": lambda world: world.data,
    "LayerDecay": lambda world: LayerDecay(1e-3, 0.5),
    "LayerGroups": lambda world: world.groups,
    "Learner": lambda world: world.points,
    "Phase": lambda world: world.phase,
    "PostProcessing": lambda world: PostProcessing(),
    "Predictions": lambda world: world.predictions,
    "Predictor": lambda world: world.predictor,
    "Runtime": lambda world: Runtime(torch.device("cpu")),
}

# the calls of a learner that are about images
_OF_VISION = {
    f"Learner.{name}"
    for name in (
        "activation_map",
        "adjust_priors",
        "calibrate",
        "clean",
        "cleaning_session",
        "export",
        "push_to_hub",
        "features",
        "predict",
        "predict_folder",
        "predict_together",
        "predictions",
        "probe",
        "show_results",
        "suspicious_labels",
        "tta",
    )
}


_SMALL = {"image_size": 8, "batch_size": 2, "valid_fraction": 0.5}


def _fit(**arguments: Any) -> Callable[[World], dict[str, Any]]:
    # stopped at once, since an epoch may be asked for 10**400 times
    return lambda world: {**arguments, "callbacks": [StopAt(1)]}


def _members(world: World) -> dict[str, Any]:
    model = tiny_model()
    return {"model": model, "members": [("body", [model[0]]), ("head", [model[1]])]}


def _lists(world: World) -> dict[str, Any]:
    return {
        "images": world.pictures(),
        "labels": ["a", "b"] * 4,
        **_SMALL,
    }


def _mean_over_rows(outputs: Any, targets: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets)


# the arguments without which a right call is not possible, or not quick
RIGHT_CALLS: dict[str, Callable[[World], dict[str, Any]]] = {
    "CSVLog": lambda world: {"path": world.folder / "log.csv"},
    "DataLoaders": lambda world: {"train": tiny_data(8).train},
    "GroupOptimizer": lambda world: {"groups": world.groups},
    "History.write_csv": lambda world: {"path": world.folder / "history.csv"},
    "History.write_steps_csv": lambda world: {"path": world.folder / "steps.csv"},
    "ImageDataLoaders": lambda world: {
        "train_examples": world.data.train_examples,
        "valid_examples": world.data.valid_examples,
        "batch_size": 2,
    },
    "ImageDataLoaders.from_csv": lambda world: {
        "file": world.table,
        "valid_fraction": 0.5,
        "batch_size": 2,
    },
    "ImageDataLoaders.from_dataset": lambda world: {
        "train": [(image, number % 2) for number, image in enumerate(world.pictures())],
        "classes": ["a", "b"],
        **_SMALL,
    },
    "ImageDataLoaders.from_folder": lambda world: {"folder": world.photos, **_SMALL},
    "ImageDataLoaders.from_lists": _lists,
    "ImageDataLoaders.from_name": lambda world: {
        "files": world.photos,
        "pattern": lambda path: path.parent.name,
        **_SMALL,
    },
    "ImageDataLoaders.from_parquet": lambda world: {"train": world.parquet, **_SMALL},
    "ImageDataLoaders.from_shards": lambda world: {"train": world.shard, **_SMALL},
    "ImageDataLoaders.from_table": lambda world: {
        "table": {"image": world.pictures(), "label": ["a", "b"] * 4},
        **_SMALL,
    },
    "ImageDataLoaders.test_loader": lambda world: {"items": [world.image]},
    "LayerDecay": lambda world: {"value": 1e-3, "factor": 0.5},
    "LayerGroups": _members,
    "LayerGroups.freeze_to": lambda world: {"count": 1},
    "LayerGroups.from_model": lambda world: {"model": tiny_model(), "split": [1]},
    "LayerGroups.set": lambda world: {"name": "weight_decay", "values": 1e-3},
    "LayerGroups.spread": lambda world: {"lr": 1e-3},
    "Learner": lambda world: {
        "data": tiny_data(8),
        "model": tiny_model(),
        "loss": nn.functional.cross_entropy,
        "progress": False,
        "device": "cpu",
    },
    "Learner.activation_map": lambda world: {"item": world.image},
    "Learner.adjust_priors": lambda world: {"priors": "uniform"},
    "Learner.clean": lambda world: {"file": world.folder / "corrections.csv"},
    "Learner.cleaning_session": lambda world: {"file": world.folder / "corrections.csv"},
    "Learner.export": lambda world: {"folder": world.folder / "model", "overwrite": True},
    "Learner.push_to_hub": lambda world: {"repository": "user/name", "token": TOKEN},
    "Learner.fine_tune": _fit(epochs=1),
    "Learner.fit": _fit(epochs=1),
    "Learner.fit_flat_cos": _fit(epochs=1),
    "Learner.fit_one_cycle": _fit(epochs=1),
    "Learner.fit_plan": lambda world: {"plan": (world.phase,), "callbacks": [StopAt(1)]},
    "Learner.fit_sgdr": _fit(cycles=1, cycle_epochs=1),
    "Learner.freeze_to": lambda world: {"count": 1},
    "Learner.gradual_unfreeze": _fit(),
    "Learner.load": lambda world: {"path": _saved(world)},
    "Learner.lr_find": lambda world: {"steps": 20},
    "Learner.probe": lambda world: {"views": 1, "folds": 2},
    "Learner.predict": lambda world: {"item": world.image},
    "Learner.predict_together": lambda world: {"items": [world.image]},
    "Learner.predict_folder": lambda world: {"files": [world.image]},
    "Learner.resume": lambda world: {"callbacks": [StopAt(1)]},
    "Learner.save": lambda world: {"path": world.folder / "saved.ckpt"},
    "Learner.soup": lambda world: {"models": [_saved(world)]},
    "Learner.tta": lambda world: {"views": 1},
    "MLflow": lambda world: {},
    "Wandb": lambda world: {},
    "Matrices": lambda world: {"matrices": adamw},
    "Phase": lambda world: {"name": "a", "epochs": 1, "frozen": 0, "peaks": {"lr": (1e-3, 1e-3)}},
    "PostProcessing.thresholds_of": lambda world: {"classes": ["a"]},
    "Predictor": lambda world: {
        "model": tiny_model(),
        "classes": ["a", "b"],
        "pipeline": tiny_data(8),
    },
    "Predictor.activation_map": lambda world: {"item": world.image},
    "Predictor.familiarity": lambda world: {"train": world.data.train},
    "Predictor.predict": lambda world: {"item": [world.image]},
    "Predictor.predict_together": lambda world: {"items": [world.image]},
    "Predictor.predict_folder": lambda world: {"files": [world.image]},
    "Predictor.probabilities": lambda world: {"items": [world.image]},
    "Predictor.tta": lambda world: {"views": 1},
    "Predictor.with_priors": lambda world: {"priors": "uniform"},
    "Predictor.with_post_processing": lambda world: {"post_processing": PostProcessing()},
    "Predictions.adjusted": lambda world: {
        "scores": world.predictions.scores,
        "temperature": 2.0,
    },
    "Predictions.coverage": lambda world: {"requested": [0.5]},
    "Predictions.at_temperature": lambda world: {"temperature": 2.0},
    "Predictions.to_csv": lambda world: {"path": world.folder / "predictions.csv"},
    "Predictions.to_jsonl": lambda world: {"path": world.folder / "predictions.jsonl"},
    "Runtime": lambda world: {"device": torch.device("cpu")},
    "Save": lambda world: {"path": Path("a.ckpt")},
    "SaveBest": lambda world: {"path": "best.ckpt"},
    "ScaledUpdates": lambda world: {
        "params": [nn.Parameter(torch.ones(1))],
        "optimizer": torch.optim.SGD,
    },
    "Stop": lambda world: {"reason": "enough"},
    "TensorBoard": lambda world: {"folder": world.folder / "board"},
    "cross_validate": lambda world: {
        "data": world.data,
        "backbone": lambda data: vision_learner(
            data, BACKBONE, weights=None, device="cpu", precision="fp32", progress=False
        ),
        "folds": 2,
        "fit": lambda learner: None,
    },
    "compare": lambda world: {
        "data": world.data,
        "backbones": [BACKBONE],
        "weights": None,
        "together": False,
        "progress": False,
    },
    "delayed": lambda world: {"start": 0.5, "schedule": float},
    "load_learner": lambda world: {"folder": world.exported},
    "vision_learner": lambda world: {
        "data": world.data,
        "backbone": BACKBONE,
        "weights": None,
        "progress": False,
        "device": "cpu",
    },
    "write_csv": lambda world: {
        "rows": [FilePrediction("a.jpg", error="none")],
        "target": world.folder / "rows.csv",
    },
    "write_jsonl": lambda world: {
        "rows": [FilePrediction("a.jpg", error="none")],
        "target": world.folder / "rows.jsonl",
    },
}

_FROM_THE_LOOP = "called by the training loop or the package, with values that it made itself"
_RESULT = "a result or an error, made by the package"
_TENSORS = "the inner interface of a model's step, with tensors and torch's objects"
_STORED = "reads what the package wrote; files are checked where they are read"
_EVENT_METHODS = re.compile(r"\.(on_\w+|state_dict|load_state_dict)$")

NOT_WALKED = {
    "Runtime.*": _FROM_THE_LOOP,
    "Phase.*": _FROM_THE_LOOP,
    "GroupOptimizer.*": _FROM_THE_LOOP,
    "Batch": "made by loaders, in every step",
    "Callback": "has no arguments",
    "CheckpointError": _RESULT,
    "CrossValidation": _RESULT,
    "DivergenceError": _RESULT,
    "FilePrediction": _RESULT,
    "ImageError": _RESULT,
    "LabelsPrediction": _RESULT,
    "Prediction": _RESULT,
    "ValuesPrediction": _RESULT,
    "WeightsError": _RESULT,
    "DataLoaders.displayable": _FROM_THE_LOOP,
    "DataLoaders.inputs": _FROM_THE_LOOP,
    "DataLoaders.prepare": _FROM_THE_LOOP,
    "ImageDataLoaders.displayable": _FROM_THE_LOOP,
    "ImageDataLoaders.for_backbone": _FROM_THE_LOOP,
    "ImageDataLoaders.inputs": _FROM_THE_LOOP,
    "ImageDataLoaders.prepare": _FROM_THE_LOOP,
    "LayerGroup": "made by LayerGroups",
    "LayerDecay.spread": _FROM_THE_LOOP,
    "LayerGroups.add_loss": "called by Learner",
    "LayerGroups.begin_phase": _FROM_THE_LOOP,
    "LayerGroups.per_group": "takes values of any kind",
    "LayerGroups.set_values": _FROM_THE_LOOP,
    "LayerGroups.values_of": _FROM_THE_LOOP,
    "LivePlot": "only in a notebook; see tests/callbacks/test_notebook.py",
    "PostProcessing.from_dict": _STORED,
    "PostProcessing.shifted": _TENSORS,
    "Predictions.cells": _FROM_THE_LOOP,
    "Predictions.csv_values": _FROM_THE_LOOP,
    "Predictions.fold_of": _FROM_THE_LOOP,
    "Predictions.images": _FROM_THE_LOOP,
    "Predictions.in_folds": "called by cross_validate",
    "Predictions.sections": _FROM_THE_LOOP,
    "Predictions.worst": "see top_losses",
    "Predictions.worst_section": _FROM_THE_LOOP,
    "Predictor.suspicious_training_labels": "called by Learner.suspicious_labels",
    "ScaledUpdates.step": "torch's interface",
    "Comparison": "made by compare",
    "adamw": "torch's own class",
    "muon": "called by GroupOptimizer",
}

# options that several functions share: each is tried at one of them
OPTIONS = {
    ImageSettings: "ImageDataLoaders.from_lists",
    LearnerSettings: "Learner",
    FitSettings: "Learner.fit",
}

# right values, with which a call would take for ever
ENDLESS = {("cycles", "10**400"), ("views", "10**400"), ("steps", "10**400")}

# what an annotation can't say
ALSO_RIGHT = {("stop_factor", "inf")}

# what a message may call an argument instead of its name
ALSO_CALLED = {
    "item": ("image", "images"),
    "items": ("image", "images"),
    "values": ("lr", "weight_decays?"),
    "lr": ("learning rates?",),
    "factors": ("learning rates?",),
    "factory": ("optimizers?",),
    "folder": ("exported model",),
    "metrics": ("metric",),
    "optimizer": ("optimizers",),
    "path": ("checkpoint",),
    "train": ("shard", "Parquet file"),
    "valid": ("shard", "Parquet file"),
    "source": ("folder",),
    "weight_decay": ("weight decays",),
    "members": ("group",),
    "name": ("hyper-parameter",),
    "files": ("folder", "images"),
    "image_column": ("column",),
    "label_column": ("column",),
    "valid_column": ("column",),
}


def public_functions() -> dict[str, Callable[..., Any]]:
    """Name -> constructor, function or method (not bound), of all that the package exports."""
    functions: dict[str, Callable[..., Any]] = {}
    exported = [getattr(finetune, name) for name in finetune.__all__]
    exported = dict(zip(finetune.__all__, exported, strict=True))
    for name, value in {**exported, "Predictions": Predictions}.items():
        if name == "Task" or not callable(value):
            continue
        if name != "Predictions":
            functions[name] = value
        if not inspect.isclass(value):
            continue
        for method_name, method in inspect.getmembers(value, callable):
            is_ours = str(getattr(method, "__module__", "")).startswith("finetune")
            if is_ours and not method_name.startswith("_"):
                functions[f"{name}.{method_name}"] = method
    return functions


FUNCTIONS = public_functions()


def parameters_of(name: str) -> dict[str, Any]:
    """Parameter -> its annotation, of those that a caller passes."""
    class_name, _, method_name = name.partition(".")
    left_out = {name, class_name}
    if method_name:
        left_out.add(f"{class_name}.*")
    if not left_out.isdisjoint(NOT_WALKED) or _EVENT_METHODS.search(name):
        return {}
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    shared: set[str] = set()
    for settings, tried_at in OPTIONS.items():
        options = {field.name for field in dataclasses.fields(settings)}
        if name != tried_at and options <= parameters.keys():
            shared |= options
    hints = {}
    for parameter in parameters.values():
        # options that are handed on are tried where they go
        is_handed_on = parameter.kind is inspect.Parameter.VAR_KEYWORD
        if parameter.name not in ("self", "cls", *shared) and not is_handed_on:
            hints[parameter.name] = parameter.annotation
    return hints


WALKED = [name for name in FUNCTIONS if parameters_of(name)]

_NAMES_IN_ANNOTATIONS = {
    **vars(typing),
    "Path": Path,
    "Image": Image,
    "np": np,
    "re": re,
    "Tensor": torch.Tensor,
    "TaskName": str,
    "Task": finetune.Task,
    "AugmentName": Literal["none", "light", "standard", "strong"],
    "Augmentation": finetune.Augmentation,
    "Transform": Callable,
    "Weights": str | Path | typing.Mapping[str, torch.Tensor] | None,
}


def accepts(annotation: Any, value: Any) -> bool:
    """Whether an annotation says that the value is of a right kind."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        annotation = eval(annotation, dict(_NAMES_IN_ANNOTATIONS))
    origin = get_origin(annotation)
    if annotation is Any or isinstance(annotation, typing.TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(accepts(part, value) for part in get_args(annotation))
    if origin is Literal:
        return isinstance(value, str) and value in get_args(annotation)
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return isinstance(value, int) or math.isfinite(value)
    if annotation is Path or origin is os.PathLike:
        return isinstance(value, str | os.PathLike)
    if origin is not None:
        return isinstance(value, origin) and not isinstance(value, str)
    if getattr(annotation, "_is_protocol", False):
        return False
    return isinstance(value, annotation)


class Outcome(NamedTuple):
    parameter: str
    value: str
    kind: str
    """clear, taken, somebody else's, not at all"""
    message: str = ""


def outcomes(world: World, name: str) -> Iterator[Outcome]:
    """What happens for each parameter and each wrong value."""
    for parameter, annotation in parameters_of(name).items():
        for value_name, value in WRONG.items():
            if (parameter, value_name) in ENDLESS:
                continue
            error = _call(world, name, {parameter: value})
            if error is None:
                is_right = (parameter, value_name) in ALSO_RIGHT or accepts(annotation, value)
                kind = "taken" if is_right else "not at all"
                yield Outcome(parameter, value_name, kind)
            elif _is_clear(error, parameter):
                yield Outcome(parameter, value_name, "clear")
            else:
                message = f"{type(error).__name__}: {error}"
                yield Outcome(parameter, value_name, "somebody else's", message)


def _call(world: World, name: str, wrong: dict[str, Any]) -> BaseException | None:
    """Makes a right call but for what is wrong; returns what it raised."""
    arguments = RIGHT_CALLS.get(name, lambda world: {})(world)
    function = FUNCTIONS[name]
    class_name, _, method_name = name.partition(".")
    if method_name and not inspect.ismethod(function):  # a class method is bound to its class
        make = INSTANCES[class_name]
        instance = world.vision if name in _OF_VISION else make(world)
        if name == "Learner.resume":
            instance.fit(1, callbacks=[StopAt(1)])
        function = getattr(instance, method_name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function(**{**arguments, **wrong})
            if isinstance(result, Iterator):
                list(result)
    except Exception as error:
        return error
    return None


def _is_clear(error: BaseException, parameter: str) -> bool:
    """Whether the package itself raised it, and named the argument."""
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    package = str(Path(finetune.__file__).parent)
    names = (parameter, *ALSO_CALLED.get(parameter, ()))
    names_it = any(re.search(rf"\b{name}\b", str(error)) for name in names)
    return place.startswith(package) and names_it


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"))
    with hub_server() as hub, pytest.MonkeyPatch.context() as patch:
        use_hub(patch, hub.address, world.folder / "cache", token=None)
        yield world


def _saved(world: World) -> Path:
    path = world.folder / "points.ckpt"
    if not path.exists():
        world.points.save(path)
    return path


@pytest.mark.parametrize("name", WALKED)
def test_a_right_call_works(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # or else all wrong ones would seem to be refused
    monkeypatch.chdir(tmp_path)
    assert _call(world, name, {}) is None


@pytest.mark.parametrize("name", WALKED)
def test_a_wrong_value_is_refused_by_name(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # a text may become a file here
    faults = [
        outcome
        for outcome in outcomes(world, name)
        if outcome.kind in ("not at all", "somebody else's")
    ]
    assert not faults, "\n".join(map(str, faults))
