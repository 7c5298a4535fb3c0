"""The files around the package agree with it and with each other."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import finetune

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
ISSUE_FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
TOP_LEVEL = {"LICENSE", "README.md", "configs", "examples", "finetune", "pyproject.toml", "tests"}


def read_yaml(path: Path) -> Any:
    """Scalars stay text, so that the key `on` of a workflow is no boolean."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def checks_of_ci() -> list[str]:
    """The commands of .ci/run after the tests: lint, format, types."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    _, installed, checks = script.partition("pip install --quiet -e '.[dev]'\n")
    assert installed
    return checks.splitlines()


def test_the_installed_version_is_that_of_the_package():
    assert version("finetune-vision") == finetune.__version__


def test_the_changelog_has_an_entry_for_this_version():
    changelog = (GITHUB / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\] - (?:Unreleased|\d{4}-\d\d-\d\d)$", changelog, re.M)
    assert finetune.__version__ in versions


def test_the_workflow_runs_the_same_script_as_everybody():
    workflow = read_yaml(GITHUB / "workflows" / "tests.yml")
    assert {"push", "pull_request"} <= workflow["on"].keys()
    commands = [step["run"] for step in workflow["jobs"]["tests"]["steps"] if "run" in step]
    assert commands == [".ci/run"]


def test_pre_commit_checks_what_ci_checks():
    (local,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == checks_of_ci()


def test_pre_commit_runs_what_the_dev_extra_installed():
    (local,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert {hook["language"] for hook in local["hooks"]} == {"system"}


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


@pytest.mark.parametrize("name", ["README.md", ".github/CONTRIBUTING.md", ".github/CHANGELOG.md"])
def test_a_link_to_a_file_leads_to_one(name: str):
    """Links between the pages of the site are checked when it is built."""
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    links = ["".join(target).partition("#")[0] for target in targets]
    to_files = [link for link in links if link and not link.startswith("https://")]
    assert [link for link in to_files if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("path", ISSUE_FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_one_that_github_shows(path: Path):
    form = read_yaml(path)
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names) > 0
    for field in fields:
        assert field["type"] in {"checkboxes", "dropdown", "input", "textarea"}
        assert field["attributes"]["label"]


def test_a_bug_report_needs_version_script_and_error():
    fields = read_yaml(GITHUB / "ISSUE_TEMPLATE" / "bug_report.yml")["body"]
    required = {field["id"] for field in fields if field["validations"]["required"] == "true"}
    assert required == {"version", "script", "error"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_top_level_of_the_repository_stays_small():
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    top_level = {path.split("/")[0] for path in listing.stdout.splitlines()}
    visible = {name for name in top_level if not name.startswith(".")}
    assert visible == TOP_LEVEL
