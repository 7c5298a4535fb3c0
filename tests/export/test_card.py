"""The model card holds facts, and nothing that is not known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune import ImageDataLoaders, Learner, export, vision_learner
from finetune.export import ModelDescription
from finetune.export.card import MOST_CLASSES, model_card
from finetune.interpret.standard_error import share_text
from finetune.tasks import Regression

SOURCE = "import timm\nfrom torch import nn\n\nbackbone = nn.Identity()\nhead = nn.Identity()"


@pytest.fixture(scope="module")
def trained(photos: Path) -> Learner:
    """With a head that timm has none of."""
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_efficientnet", weights=None, head="mlp", progress=False)
    learner.fine_tune(2)
    return learner


@pytest.fixture(scope="module")
def description(trained: Learner, tmp_path_factory: pytest.TempPathFactory) -> ModelDescription:
    folder = tmp_path_factory.mktemp("card") / "model"
    trained.export(folder)
    return export.read_description(folder)


def section(card: str, name: str) -> str:
    return card.partition(f"## {name}\n")[2].partition("\n## ")[0]


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_lies_in_the_folder(trained: Learner, tmp_path: Path) -> None:
    trained.export(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: finetune\npipeline_tag: image-classification\n")
    assert 'backbone = timm.create_model("test_efficientnet", num_classes=0)' in card
    assert "onnx" not in card


def test_timm_alone_loads_a_linear_head_in_one_line(description: ModelDescription) -> None:
    architecture = replace(description.architecture, head="linear")
    use = section(model_card(replace(description, architecture=architecture), SOURCE), "Use")
    assert "`model.safetensors` and `config.json`, with timm alone, in one line." in use
    line = 'timm.create_model("local-dir:.", pretrained=True)'
    assert f"\nmodel = {line}.eval()\n" in use
    assert "backbone" not in use


def test_another_head_is_made_of_torchs_layers(description: ModelDescription) -> None:
    use = section(model_card(description, SOURCE), "Use")
    assert "own library makes the backbone, torch the head" in use
    assert "timm alone" not in use


def test_it_counts_the_images_of_each_class(description: ModelDescription) -> None:
    data = section(model_card(description, SOURCE), "Data")
    assert "19 training images and 5 validation images." in data
    header = "| class | training images | validation images |\n|---|---:|---:|\n"
    assert f"{header}| blue | 7 | 1 |\n| green | 6 | 2 |\n" in data


def test_it_has_the_last_validation(description: ModelDescription, trained: Learner) -> None:
    card = model_card(description, SOURCE)
    accuracy = trained.history.epochs[-1].valid["accuracy"]
    shown = share_text(accuracy, 5)
    assert f"| accuracy | {shown} |" in section(card, "Validation")
    assert front_matter(card)["metrics"] == ["accuracy"]


def test_it_says_no_license_that_nobody_gave(description: ModelDescription) -> None:
    assert "license" not in front_matter(model_card(description, SOURCE))
    licensed = replace(description, license="mit")
    assert front_matter(model_card(licensed, SOURCE))["license"] == "mit"


def test_a_regression_is_no_classification(description: ModelDescription) -> None:
    architecture = replace(description.architecture, scaled=True)
    values = replace(description, architecture=architecture, task=Regression())
    front = front_matter(model_card(values, SOURCE))
    assert "pipeline_tag" not in front
    assert front["tags"] == ["timm", "finetune"]


def test_it_claims_no_result_that_is_not_known(description: ModelDescription) -> None:
    card = model_card(replace(description, validation={}), SOURCE)
    assert "were not validated" in section(card, "Validation")
    assert "figures" not in section(card, "Limits")
    assert "metrics" not in front_matter(card)


def test_its_limits_have_the_numbers(description: ModelDescription) -> None:
    valid = description.data["valid"]
    valid = replace(valid, classes={**valid.classes, "green": 1})
    description = replace(description, data={**description.data, "valid": valid})
    limits = section(model_card(description, SOURCE), "Limits")
    assert "19 training images and 5 for validation, of which 1 of the rarest class" in limits
    assert "The figures above are of its validation images" in limits


def test_it_tells_what_was_trained_and_how(description: ModelDescription) -> None:
    training = section(model_card(description, SOURCE), "Training")
    assert "| frozen | 4 | body_1, body_2 | head 0.00194 |" in training
    assert "| body_2 and above | 2 | body_1 | body_2 " in training
    assert "| AdamW | 0.01 |" in training


def test_it_tells_which_weights_between_two_ends_were_taken(description: ModelDescription) -> None:
    assert description.training is not None
    *others, last = description.training.phases
    phases = (*others, replace(last, fraction=0.75))
    training = replace(description.training, phases=phases)
    card = model_card(replace(description, training=training), SOURCE)
    between = (
        "the phase body_2 and above, the best on the validation images were taken, 0.75 of the"
    )
    assert between in card


def test_it_tells_that_a_head_began_as_a_probe(photos: Path, tmp_path: Path) -> None:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_efficientnet", weights=None, progress=False)
    learner.fine_tune(1)
    learner.export(tmp_path / "model")
    training = section((tmp_path / "model" / "README.md").read_text(), "Training")
    assert "| probe | 1 | body_1, body_2 | no steps: the best linear head" in training
    assert training.index("| probe |") < training.index("| body_2 and above |")


def test_an_untrained_model_is_called_so(description: ModelDescription) -> None:
    assert description.training is not None
    for training in (replace(description.training, phases=[]), None):
        card = model_card(replace(description, training=training), SOURCE)
        assert "without any training" in section(card, "Training")


def with_classes(description: ModelDescription, classes: tuple[str, ...]) -> ModelDescription:
    architecture = replace(description.architecture, classes=len(classes))
    return replace(description, classes=classes, architecture=architecture)


def test_many_classes_are_cut_short(description: ModelDescription) -> None:
    classes = tuple(f"class {i}" for i in range(MOST_CLASSES + 7))
    data = section(model_card(with_classes(description, classes), SOURCE), "Data")
    assert "and 7 more, in `model.json`." in data
    assert f"| class {MOST_CLASSES - 1} |" in data
    assert f"| class {MOST_CLASSES} |" not in data


def test_names_do_not_break_tables(description: ModelDescription) -> None:
    named = with_classes(description, ("a|b", "c\nd"))
    data = section(model_card(named, SOURCE), "Data")
    assert "| a\\|b | 0 | 0 |\n| c d | 0 | 0 |" in data


def test_a_torchvision_model_names_its_library(description: ModelDescription) -> None:
    architecture = replace(description.architecture, backbone="torchvision/resnet18")
    card = model_card(replace(description, architecture=architecture), SOURCE)
    assert front_matter(card)["tags"] == ["image-classification", "torchvision", "finetune"]


def test_the_hub_is_told_which_library_loads_the_folder(description: ModelDescription) -> None:
    assert front_matter(model_card(description, SOURCE))["library_name"] == "finetune"
    linear = replace(description.architecture, head="linear")
    card = model_card(replace(description, architecture=linear), SOURCE)
    assert front_matter(card)["library_name"] == "timm"


def test_a_temperature_is_in_the_code(description: ModelDescription) -> None:
    fitted = replace(description.post_processing, temperature=1.5)
    card = model_card(replace(description, post_processing=fitted), SOURCE)
    assert "(logits / 1.5).softmax(dim=1)" in card
