"""A model goes to the hub in one commit and comes back the same; failures say what to do."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from hub_server import TOKEN, Hub, Repository, hub_server, use_hub
from safetensors.torch import save_file

from finetune import ImageDataLoaders, Learner, load_learner, vision_learner
from finetune.cli import main
from finetune.export import hub as our_hub

NAME = "user/photos"
# the client's own, where it uploads by Git LFS
pytestmark = pytest.mark.filterwarnings("default:Use 'content=<...>'")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, to which the user is logged in."""
    with hub_server() as server:
        use_hub(monkeypatch, server.address, tmp_path / "cache", TOKEN)
        yield server


@pytest.fixture(scope="module")
def linear(photos: Path) -> Learner:
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    learner = vision_learner(data, "test_resnet", weights=None, head="linear", progress=False)
    learner.fine_tune(1)
    return learner


@pytest.fixture
def files(photos: Path) -> list[Path]:
    return sorted(photos.glob("*/*"))[::5]


def logged_out(patch: pytest.MonkeyPatch) -> None:
    patch.delenv("HF_TOKEN")


def test_a_model_comes_back_with_equal_probabilities(
    hub: Hub, trained: Learner, files: list[Path]
) -> None:
    assert trained.push_to_hub(NAME, message="First model") == f"{hub.address}/{NAME}"
    repository = hub.repositories[NAME]
    assert repository.messages == ["initial commit", "First model"]
    loaded = load_learner(f"hf-hub:{NAME}")
    expected = trained.predictor().probabilities(files).numpy()
    np.testing.assert_allclose(loaded.probabilities(files), expected, atol=1e-6)


def test_another_learner_begins_with_its_weights(hub: Hub, linear: Learner) -> None:
    linear.push_to_hub(NAME)
    backbone = linear.model.get_submodule("backbone").state_dict()
    weights = f"hf-hub:{NAME}"
    learner = vision_learner(linear.data, "test_resnet", weights=weights, progress=False)
    begins_with = learner.model.get_submodule("backbone").state_dict()
    for tensor, expected in zip(begins_with.values(), backbone.values(), strict=True):
        assert torch.equal(tensor, expected)


def test_it_is_an_ingredient_of_a_soup_under_its_name(hub: Hub, linear: Learner) -> None:
    linear.push_to_hub(NAME)
    learner = vision_learner(linear.data, "test_resnet", weights=None, progress=False)
    soup = learner.soup([f"hf-hub:{NAME}", linear])
    assert set(soup.results) == {f"hf-hub:{NAME}", "models[1]"}


def test_the_files_are_those_of_an_export(hub: Hub, trained: Learner, tmp_path: Path) -> None:
    trained.export(tmp_path / "model", ["safetensors", "torch_export"])
    trained.push_to_hub(NAME, ["safetensors", "torch_export"])
    uploaded = hub.repositories[NAME].files
    exported = {file.name for file in (tmp_path / "model").iterdir()}
    assert uploaded.keys() == exported | {".gitattributes"}
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert uploaded["model.safetensors"] == weights


def test_what_is_no_weights_is_not_downloaded(hub: Hub, trained: Learner) -> None:
    trained.push_to_hub(NAME, ["safetensors", "torch_export"])
    hub.repositories[NAME].files["pytorch_model.bin"] = b"a pickle"
    load_learner(f"hf-hub:{NAME}")
    names = {Path(download).name for download in hub.downloads}
    assert names == {"model.json", "model.safetensors"}


def test_without_a_network_the_last_download_is_used(
    hub: Hub, trained: Learner, files: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained.push_to_hub(NAME)
    expected = load_learner(f"hf-hub:{NAME}").probabilities(files)
    use_hub(monkeypatch, unreachable_address(), tmp_path / "cache", None)
    found = load_learner(f"hf-hub:{NAME}").probabilities(files)
    np.testing.assert_array_equal(found, expected)


def test_a_later_push_replaces_what_it_wrote_and_nothing_else(hub: Hub, trained: Learner) -> None:
    trained.push_to_hub(NAME, ["safetensors", "torch_export"])
    repository = hub.repositories[NAME]
    repository.files["LICENSE"] = b"mine"
    trained.push_to_hub(NAME)
    names = {
        ".gitattributes",
        "LICENSE",
        "README.md",
        "config.json",
        "model.json",
        "model.safetensors",
    }
    assert repository.files.keys() == names
    assert len(repository.commits) == 3


def test_an_older_state_is_loaded_by_its_commit(
    hub: Hub, trained: Learner, linear: Learner, files: list[Path]
) -> None:
    trained.push_to_hub(NAME)
    first = our_hub.download(f"hf-hub:{NAME}").name
    linear.push_to_hub(NAME)
    found = load_learner(f"hf-hub:{NAME}@{first}").probabilities(files)
    np.testing.assert_allclose(found, trained.predictor().probabilities(files), atol=1e-6)


def test_the_card_shows_how_to_load_it_from_there(hub: Hub, linear: Learner) -> None:
    linear.push_to_hub(NAME, license="mit")
    card = hub.repositories[NAME].files["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "mit"
    assert front["library_name"] == "timm"
    assert f'load_learner("hf-hub:{NAME}")' in card
    assert f'timm.create_model("hf-hub:{NAME}", pretrained=True)' in card
    assert f'pipeline("image-classification", model="{NAME}")' in card


def test_timm_loads_a_linear_head_from_there(hub: Hub, linear: Learner, files: list[Path]) -> None:
    linear.push_to_hub(NAME)
    model = timm.create_model(f"hf-hub:{NAME}", pretrained=True).eval()
    with torch.no_grad():
        logits = model(linear.data.inputs(files, torch.device("cpu")))
    expected = linear.predictor().probabilities(files)
    np.testing.assert_allclose(logits.softmax(dim=1), expected, atol=1e-5)


def test_the_card_names_the_weights_that_it_began_with(
    hub: Hub, photos: Path, tmp_path: Path
) -> None:
    pretrained = tmp_path / "model.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), pretrained)
    base = "timm/test_resnet.r160_in1k"
    hub.repositories[base] = Repository(commits=[{pretrained.name: pretrained.read_bytes()}])
    data = ImageDataLoaders.from_folder(photos, image_size=32, batch_size=8)
    vision_learner(data, "test_resnet", progress=False).push_to_hub(NAME)
    card = hub.repositories[NAME].files["README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == [base]


def test_private_is_private(hub: Hub, trained: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.push_to_hub(NAME, private=True)
    assert hub.repositories[NAME].private
    logged_out(monkeypatch)
    with pytest.raises(FileNotFoundError, match=f"no repository '{NAME}', or it is private"):
        load_learner(f"hf-hub:{NAME}")
    assert load_learner(f"hf-hub:{NAME}", token=TOKEN).classes == ("blue", "green", "red")


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, trained: Learner) -> None:
    trained.push_to_hub(NAME)
    commits = len(hub.repositories[NAME].commits)
    with pytest.raises(ValueError, match=r"is public already, and private=True does not change"):
        trained.push_to_hub(NAME, private=True)
    assert len(hub.repositories[NAME].commits) == commits


def test_a_model_of_another_kind_stays(hub: Hub, trained: Learner) -> None:
    hub.repositories[NAME] = Repository(commits=[{"model.safetensors": b"theirs"}])
    with pytest.raises(FileExistsError, match=r"another kind and stays: model\.safetensors"):
        trained.push_to_hub(NAME)
    assert hub.repositories[NAME].files == {"model.safetensors": b"theirs"}


def test_without_a_token_nothing_is_exported(
    hub: Hub, trained: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged_out(monkeypatch)
    with pytest.raises(PermissionError, match=r"nobody is logged in .*`hf auth login`.*token="):
        trained.push_to_hub(NAME)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("name", "token", "reason"),
    [
        (NAME, "hf_wrong", "Invalid username or password"),
        ("stranger/photos", TOKEN, "don't have the rights to stranger"),
    ],
)
def test_the_hub_may_refuse(hub: Hub, trained: Learner, name: str, token: str, reason: str) -> None:
    with pytest.raises(PermissionError, match=rf"the model hub refuses .*{reason}.*hf auth login"):
        trained.push_to_hub(name, token=token)
    assert hub.repositories == {}


@pytest.mark.parametrize("name", ["photos", "hf-hub:user/photos", "user/", "/photos"])
def test_a_name_has_an_owner(trained: Learner, name: str) -> None:
    with pytest.raises(ValueError, match=f"repository must be like 'user/name', got '{name}'"):
        trained.push_to_hub(name, token=TOKEN)


@pytest.mark.parametrize("name", ["a/b/c", "user/two words"])
def test_a_name_has_the_form_of_one(hub: Hub, trained: Learner, name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is no name of a repository"):
        load_learner(f"hf-hub:{name}")
    with pytest.raises(ValueError, match=f"'{name}' is no name of a repository"):
        trained.push_to_hub(name)


def test_what_the_hub_says_of_a_card_is_passed_on(hub: Hub, trained: Learner) -> None:
    with pytest.raises(ValueError, match=r'Invalid metadata[\s\S]*"license" must be one of'):
        trained.push_to_hub(NAME, license="mine")
    assert len(hub.repositories[NAME].commits) == 1


def unreachable_address() -> str:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def test_without_a_network(
    trained: Learner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_hub(monkeypatch, unreachable_address(), tmp_path / "cache", TOKEN)
    with pytest.raises(ConnectionError, match=r"upload the model: the model hub can't be reached"):
        trained.push_to_hub(NAME)
    with pytest.raises(ConnectionError, match=f"load 'hf-hub:{NAME}': the model hub can't be"):
        load_learner(f"hf-hub:{NAME}")


def test_an_unknown_repository_or_revision(hub: Hub, trained: Learner) -> None:
    with pytest.raises(FileNotFoundError, match=r"no repository 'user/none', or it is private"):
        load_learner("hf-hub:user/none")
    trained.push_to_hub(NAME)
    with pytest.raises(FileNotFoundError, match=f"'{NAME}' has no such branch, tag or commit"):
        load_learner(f"hf-hub:{NAME}@v2")


def test_a_repository_without_a_model_of_ours(hub: Hub) -> None:
    other = {"config.json": b"{}", "model.safetensors": b"", "pytorch_model.bin": b""}
    hub.repositories[NAME] = Repository(commits=[other])
    with pytest.raises(FileNotFoundError, match=r"no model of finetune: it has no model\.json;"):
        load_learner(f"hf-hub:{NAME}")
    assert "pytorch_model.bin" not in "".join(hub.downloads)


def test_a_repository_with_graphs_alone(hub: Hub, trained: Learner) -> None:
    trained.push_to_hub(NAME, "torch_export")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors; .*'safetensors' among"):
        load_learner(f"hf-hub:{NAME}")


def test_damaged_weights_are_not_loaded(hub: Hub, trained: Learner) -> None:
    trained.push_to_hub(NAME)
    files = hub.repositories[NAME].files
    files["model.safetensors"] = files["model.safetensors"][:-4] + b"\1\2\3\4"
    with pytest.raises(ValueError, match="can't be loaded"):
        load_learner(f"hf-hub:{NAME}")


def test_the_commands(
    hub: Hub,
    trained: Learner,
    files: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained.export(tmp_path / "model")
    folder, image = str(tmp_path / "model"), str(files[0])
    assert main(["push", folder, NAME, "--private", "--license", "mit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"address": f"{hub.address}/{NAME}"}
    assert hub.repositories[NAME].private
    assert json.loads(hub.repositories[NAME].files["model.json"])["license"] == "mit"
    assert main(["predict", f"hf-hub:{NAME}", image]) == 0
    assert trained.predict(files[0]).label in capsys.readouterr().out
    assert main(["inspect", f"hf-hub:{NAME}"]) == 0
    assert "blue, green, red" in capsys.readouterr().out


def test_the_commands_say_what_is_wrong(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "hf-hub:user/none", "a.jpg"]) == 1
    assert "finetune predict: error: can't load 'hf-hub:user/none'" in capsys.readouterr().err
