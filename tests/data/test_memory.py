import threading

import pytest

from finetune.data import memory
from finetune.data.memory import MEMORY_FRACTION, memory_bytes, reserve


class Owner:
    pass


@pytest.fixture(autouse=True)
def hundred_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of 100 bytes that nobody else has a part of."""
    monkeypatch.setattr(memory, "memory_bytes", lambda: int(100 / MEMORY_FRACTION))
    monkeypatch.setattr(memory, "_reservations", [])


def test_budget_is_shared_by_all_owners() -> None:
    one, other = Owner(), Owner()
    assert reserve(one, 60)
    assert not reserve(other, 41)
    assert reserve(other, 40)


def test_refused_reservation_takes_nothing() -> None:
    one = Owner()
    assert not reserve(one, 101)
    assert reserve(one, 100)


def test_reservations_of_an_owner_add_up() -> None:
    one = Owner()
    assert reserve(one, 60)
    assert not reserve(one, 60)


def test_reservation_ends_with_its_owner() -> None:
    one, other = Owner(), Owner()
    assert reserve(one, 60)
    del one
    assert reserve(other, 100)


def test_reservations_of_one_owner_add_up_and_end_with_it() -> None:
    one, other = Owner(), Owner()
    for owner in (one, one, other):
        assert reserve(owner, 30)
    del one, owner
    assert not reserve(other, 71)
    assert reserve(other, 70)


def test_threads_never_get_more_than_the_budget() -> None:
    owners = [Owner() for _ in range(8)]
    granted: list[bool] = []

    def ask(owner: Owner) -> None:
        granted.extend(reserve(owner, 1) for _ in range(50))

    threads = [threading.Thread(target=ask, args=(owner,)) for owner in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 100


def test_memory_of_the_machine_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert memory.memory_bytes() > 100 << 20


def test_processes_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory_bytes()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_bytes() == whole // 4
