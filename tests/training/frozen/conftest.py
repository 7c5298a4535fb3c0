"""The tests of this folder are about features that are computed; see test_kept_features.py."""

import pytest

from finetune.data.kept import KeptBatches


@pytest.fixture(autouse=True)
def nothing_is_kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on the same images share nothing, as if each had images of its own."""
    if not request.module.__name__.endswith("test_kept_features"):
        monkeypatch.setattr(KeptBatches, "get", lambda self, key: None)
