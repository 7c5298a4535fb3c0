"""The allocator's settings: made when asked for, never at import, and one can opt out."""

import platform

import pytest

from finetune.training.runtime.allocator import OPT_OUT, keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept_on_glibc(monkeypatch):
    monkeypatch.delenv(OPT_OUT, raising=False)
    assert keep_freed_memory()


def test_one_can_opt_out(monkeypatch):
    monkeypatch.setenv(OPT_OUT, "1")
    assert not keep_freed_memory()


def test_another_libc_is_left_alone(monkeypatch):
    monkeypatch.delenv(OPT_OUT, raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not keep_freed_memory()
