"""What people write who come from elsewhere is answered with our word, and our words exist."""

import copy
import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from support import tiny_learner

import finetune
from finetune import ImageDataLoaders, Learner, Predictor, load_learner, vision_learner
from finetune.dictionary import ATTRIBUTES, NAMES, OPTIONS, Word
from finetune.interpret.predictions import Predictions

PLACES: dict[str, list[Any]] = {
    "ImageDataLoaders": [
        ImageDataLoaders.from_folder,
        ImageDataLoaders.from_csv,
        ImageDataLoaders.from_lists,
    ],
    "vision_learner": [vision_learner],
    "fine_tune": [Learner.fine_tune],
    "fit_one_cycle": [Learner.fit_one_cycle],
    "lr_find": [Learner.lr_find],
    "show_batch": [ImageDataLoaders.show_batch, Learner.show_results],
    "most_confused": [Predictions.most_confused],
}
CLASSES = {"ImageDataLoaders": ImageDataLoaders, "Learner": Learner, "Predictor": Predictor}


def name_of(word: Word) -> str:
    return f"{word.name} of {word.place}"


@pytest.mark.parametrize("word", OPTIONS, ids=name_of)
def test_what_an_option_is_here_is_an_option_here(word: Word) -> None:
    names: set[str] = set()
    for function in PLACES[word.place]:
        names |= inspect.signature(function).parameters.keys()
    assert word.name not in names
    named = re.findall(r"(\w+)=", word.here)
    assert set(named) <= names


@pytest.mark.parametrize("word", ATTRIBUTES, ids=name_of)
def test_what_an_attribute_is_here_is_an_attribute_here(word: Word, trained: Learner) -> None:
    owner = CLASSES[word.place]
    assert word.name not in dir(owner)
    instances = {
        "ImageDataLoaders": trained.data,
        "Learner": trained,
        "Predictor": trained.predictor(),
    }
    attribute = re.match(r"\.?(\w+)", word.here)
    if word.here.startswith((".", "from_")):
        assert attribute is not None
        assert hasattr(instances[word.place], attribute[1])


@pytest.mark.parametrize("word", NAMES, ids=name_of)
def test_what_is_imported_elsewhere_is_there_under_our_name(word: Word) -> None:
    assert word.name not in finetune.__all__
    ours = re.match(r"(\w+)\.?(\w*)", word.here)
    assert ours is not None
    owner, method = ours.groups()
    assert owner in finetune.__all__
    assert method == "" or hasattr(getattr(finetune, owner), method)
    options: set[str] = set()
    for functions in PLACES.values():
        for function in functions:
            options |= inspect.signature(function).parameters.keys()
    assert set(re.findall(r"(\w+)=", word.here)) <= options
    with pytest.raises(ImportError, match=f"what {word.library} calls {word.name} is {owner}"):
        exec(f"from finetune import {word.name}")


def test_any_other_name_is_missing_as_usual() -> None:
    with pytest.raises(ImportError, match="cannot import name 'nonsense' from 'finetune'"):
        exec("from finetune import nonsense")
    assert not hasattr(finetune, "nonsense")


def test_no_word_is_there_twice() -> None:
    for table in (OPTIONS, ATTRIBUTES, NAMES):
        keys = [(word.name, word.place) for word in table]
        assert len(keys) == len(set(keys))


def test_options_of_fastai_are_answered(photos: Path, trained: Learner) -> None:
    data = trained.data
    with pytest.raises(TypeError, match=r"no option 'valid_pct'; .*fastai.* is valid_fraction=$"):
        ImageDataLoaders.from_folder(photos, valid_pct=0.2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"from_folder\(\) has no option 'bs'; .* batch_size=$"):
        ImageDataLoaders.from_folder(photos, bs=8)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"batch_size= \(an option of ImageDataLoaders\)"):
        vision_learner(data, "resnet18", bs=8)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"no option 'cbs'; .* is callbacks="):
        trained.fine_tune(1, cbs=[])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"no option 'splitter'; .* is split="):
        vision_learner(data, "resnet18", splitter=len)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"no option 'splitter'; .* valid_column="):
        ImageDataLoaders.from_folder(photos, splitter=len)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"no option 'num_it'; .* is steps=$"):
        trained.lr_find(num_it=10)  # type: ignore[call-arg]


def test_how_many_images_to_show_is_answered(trained: Learner) -> None:
    for show in (trained.data.show_batch, trained.show_results):  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match=r"no option 'max_n'; .* is count=$"):
            show(max_n=4)
    with pytest.raises(TypeError, match=r"no option 'min_val'; .* is min_count=$"):
        trained.predictions().most_confused(min_val=2)  # type: ignore[attr-defined]


def test_the_old_name_of_num_workers_is_answered(photos: Path) -> None:
    with pytest.raises(TypeError, match=r"no option 'workers'; .* is num_workers=$"):
        ImageDataLoaders.from_folder(photos, workers=2)  # type: ignore[call-arg]


def test_the_columns_of_a_table_are_found_by_other_names(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"no option 'path_column'; .* is image_column=$"):
        ImageDataLoaders.from_csv(tmp_path, path_column="file")  # type: ignore[call-arg]


def test_attributes_of_fastai_are_answered(trained: Learner) -> None:
    with pytest.raises(AttributeError, match=r"Learner has no 'dls'; .* is \.data$"):
        trained.dls  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match=r"Learner has no 'get_preds'; .*\.predictions\(\)"):
        trained.get_preds()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"ImageDataLoaders has no 'vocab'; .* \.classes$"):
        trained.data.vocab  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match=r"no 'from_name_func'; .* from_name\("):
        ImageDataLoaders.from_name_func("photos", [], len)  # type: ignore[attr-defined]


def test_a_loaded_model_answers_for_itself(trained: Learner, tmp_path: Path) -> None:
    trained.export(tmp_path / "model")
    predictor = load_learner(tmp_path / "model")
    with pytest.raises(AttributeError, match=r"Predictor has no 'get_preds'; .*predictions"):
        predictor.get_preds()  # type: ignore[attr-defined]


def test_any_other_attribute_is_missing_as_usual(trained: Learner) -> None:
    assert not hasattr(trained, "nonsense")
    with pytest.raises(AttributeError, match="'Learner' object has no attribute 'nonsense'"):
        trained.nonsense  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="'ImageDataLoaders' has no attribute 'nonsense'"):
        ImageDataLoaders.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_the_error_inside_of_a_property_stays_its_own() -> None:
    class Broken(Learner):
        @property
        def half(self) -> int:
            return self.model.missing_part  # type: ignore[return-value]

    learner = tiny_learner()
    learner.__class__ = Broken
    with pytest.raises(AttributeError, match="missing_part"):
        learner.half  # type: ignore[attr-defined]  # noqa: B018


def test_copies_and_pickles_are_as_before(trained: Learner) -> None:
    data = trained.data
    assert isinstance(data, ImageDataLoaders)
    assert copy.copy(data).classes == data.classes
    assert pickle.loads(pickle.dumps(ImageDataLoaders)) is ImageDataLoaders
