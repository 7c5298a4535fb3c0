"""A model in evaluation, apart from whoever trains it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny_learner, tiny_model
from torch import Tensor, nn

from finetune import Callback, ImageDataLoaders, Learner, Prediction, load_learner, vision_learner
from finetune.models.evaluation_view import evaluation_view
from finetune.training.events import StepEnd


def test_weights_are_shared_and_modes_are_not() -> None:
    model = tiny_model(2).train()
    view = evaluation_view(model)
    assert [p.data_ptr() for p in view.parameters()] == [p.data_ptr() for p in model.parameters()]
    assert [b.data_ptr() for b in view.buffers()] == [b.data_ptr() for b in model.buffers()]
    assert not any(module.training for module in view.modules())
    assert all(module.training for module in model.modules())
    view.train()
    assert all(module.training for module in model.modules())


def test_hooks_that_are_there_are_called_and_later_ones_stay_apart() -> None:
    model, calls = tiny_model(2), []
    model[0].register_forward_hook(lambda module, args, output: calls.append("first"))
    view = evaluation_view(model)
    view[0].register_forward_hook(lambda module, args, output: calls.append("second"))
    model.eval()
    model(torch.zeros(2, 4))
    assert calls == ["first"]
    view(torch.zeros(2, 4))
    assert calls == ["first", "first", "second"]


class Remembering(nn.Module):
    """Keeps its last output, which can't be copied while it has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.last: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        self.last = self.layer(inputs)
        return self.last


def test_a_module_that_keeps_what_it_computed_has_a_view_too() -> None:
    model = Remembering()
    model(torch.zeros(2, 4))
    view = evaluation_view(model)
    assert torch.equal(view(torch.ones(2, 4)), model(torch.ones(2, 4)))


class PredictsAfterEveryStep(Callback):
    """As a callback may, in the middle of an epoch."""

    def __init__(self) -> None:
        self.learner: Learner | None = None
        self.modes: set[bool] = set()

    def on_step_end(self, event: StepEnd) -> None:
        assert self.learner is not None
        before = [module.training for module in self.learner.model.modules()]
        self.learner.predict(torch.zeros(4))
        self.learner.predictions()
        after = [module.training for module in self.learner.model.modules()]
        assert before == after
        self.modes.update(after)


def test_predictions_in_the_middle_of_a_fit_change_no_number() -> None:
    alone = tiny_learner(3)
    alone.fine_tune(2)
    looking = PredictsAfterEveryStep()
    watched = tiny_learner(3, callbacks=[looking])
    looking.learner = watched
    watched.fine_tune(2)
    assert True in looking.modes
    for expected, weight in zip(alone.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(expected, weight)


@pytest.mark.parametrize("fold", [True, False])
def test_many_threads_get_what_one_gets(photos: Path, fold: bool) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_resnet", weights=None, progress=False, precision="fp32")
    runtime = learner.runtime
    assert runtime.fold
    predictor = learner.predictor()
    if not fold:
        predictor.runtime = type(runtime)("cpu")
    item = photos / "red" / "000.jpg"
    expected_answer = predictor.predict(item)
    expected_table = predictor.predictions(data.train)
    generator_state = torch.get_rng_state()

    def work(number: int) -> bool:
        answer = predictor.predict(item)
        table = predictor.predictions(data.train)
        same_table = np.array_equal(table.probabilities, expected_table.probabilities)
        return answer == expected_answer and same_table

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(12)))
    assert torch.equal(torch.get_rng_state(), generator_state)


def test_a_loaded_model_can_do_all_that_a_learner_can(
    trained: Learner, photos: Path, tmp_path: Path
) -> None:
    trained.export(tmp_path / "model")
    loaded = load_learner(tmp_path / "model")
    assert isinstance(trained.data, ImageDataLoaders)
    item = photos / "red" / "000.jpg"
    answer = loaded.predict(item)
    assert isinstance(answer, Prediction)
    assert [row.path for row in loaded.predict_folder([item])] == [str(item)]
    own = trained.predictions()
    valid = trained.data.valid_examples
    for source in (valid, trained.data.valid):
        table = loaded.predictions(source)
        assert table.items == own.items
        assert table.probabilities == pytest.approx(own.probabilities, abs=2e-2)
    whole = loaded.predictions(photos)
    assert len(whole) == 24
    names = ["accuracy", "auroc"]
    results = loaded.evaluate(valid, metrics=names)
    assert results == pytest.approx(loaded.evaluate(loaded.outputs(valid), metrics=names))
    report = loaded.predictions(valid).report()
    assert results["accuracy"] == pytest.approx(report.accuracy)
    assert len(loaded.features(photos)) == 24
    assert loaded.activation_map(item).target == answer.label
    assert len(loaded.suspicious_labels(photos, count=5)) <= 5
    with pytest.raises(ValueError, match="no augmentation"):
        loaded.tta(2, photos)
    with pytest.raises(ValueError, match="there is no validation data; pass a loader"):
        loaded.predictions()


def test_a_folder_with_an_unknown_class_is_named(
    trained: Learner, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "violet").mkdir()
    with pytest.raises(ValueError, match=r"classes that the model does not know: 'violet'; it kno"):
        trained.predictor().predictions(tmp_path)
