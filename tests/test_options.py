"""Options that are named once: in data classes, for editors, for help(), and in errors."""

import dataclasses
import inspect
import pydoc
from collections.abc import Callable
from typing import Any

import pytest
from support import tiny_learner

from finetune import ImageDataLoaders, Learner, vision_learner
from finetune.data.image_options import ImageOptions, ImageSettings
from finetune.learner_options import FitOptions, FitSettings, LearnerOptions, LearnerSettings

CONSTRUCTORS = [
    ImageDataLoaders.from_folder,
    ImageDataLoaders.from_csv,
    ImageDataLoaders.from_table,
    ImageDataLoaders.from_lists,
    ImageDataLoaders.from_name,
    ImageDataLoaders.from_dataset,
    ImageDataLoaders.from_shards,
    ImageDataLoaders.from_parquet,
]
FITS = [
    Learner.fine_tune,
    Learner.fit_one_cycle,
    Learner.fit_flat_cos,
    Learner.fit_sgdr,
    Learner.fit,
    Learner.gradual_unfreeze,
    Learner.fit_plan,
    Learner.resume,
]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (ImageOptions, ImageSettings),
        (LearnerOptions, LearnerSettings),
        (FitOptions, FitSettings),
    ],
)
def test_what_editors_see_is_what_there_is(options: Any, settings: Any) -> None:
    names = [field.name for field in dataclasses.fields(settings)]
    assert list(options.__annotations__) == names
    for field in dataclasses.fields(settings):
        hint = options.__annotations__[field.name]
        # an alias that is a string until it is evaluated
        assert getattr(hint, "__forward_arg__", hint) == field.type
        assert field.name in (settings.__doc__ or "")


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        *((constructor, ImageSettings) for constructor in CONSTRUCTORS),
        *((fit, FitSettings) for fit in FITS),
        (Learner, LearnerSettings),
        (vision_learner, LearnerSettings),
    ],
)
def test_help_shows_every_option_with_its_default(
    function: Callable[..., Any], settings: Any
) -> None:
    parameters = inspect.signature(function).parameters
    text = pydoc.render_doc(function, renderer=pydoc.plaintext)
    for field in dataclasses.fields(settings):
        assert parameters[field.name].default == field.default
        assert field.name in text
    assert "options" not in parameters


def test_a_wrong_name_is_an_error_with_the_nearest_right_one() -> None:
    with pytest.raises(TypeError, match=r"from_folder\(\) has no option 'batchsize'; did you mean"):
        ImageDataLoaders.from_folder("photos", batchsize=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"no option 'checkpont'; did you mean 'checkpoint'"):
        tiny_learner().fine_tune(1, checkpont="a.ckpt")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"no option 'clipnorm'; did you mean 'clip_norm'"):
        tiny_learner(clipnorm=1.0)
    with pytest.raises(
        TypeError, match=r"no option 'validfraction'; did you mean 'valid_fraction'"
    ):
        ImageDataLoaders.from_lists(["a"], ["b"], validfraction=0.1)  # type: ignore[call-arg]
