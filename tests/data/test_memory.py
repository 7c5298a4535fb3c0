import threading
from pathlib import Path

import pytest

from finetune.data import memory
from finetune.data.memory import MEMORY_FRACTION, cgroup_limits, memory_bytes, reserve


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


# --- limits of control groups


def limits_of(folder: Path, membership: str, files: dict[str, str]) -> list[int]:
    """The limits of a process in these groups, sorted, with the files of a mounted tree."""
    (folder / "self").write_text(membership)
    for name, text in files.items():
        file = folder / "mount" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return sorted(cgroup_limits(folder / "self", folder / "mount"))


def test_the_limits_of_all_groups_above_count(tmp_path: Path) -> None:
    """As systemd sets them: `systemd-run --scope -p MemoryMax=...`."""
    files = {
        "user.slice/memory.max": "9000\n",
        "user.slice/run-1.scope/memory.max": "max\n",
        "user.slice/run-1.scope/job/memory.max": "5000\n",
        "other.slice/memory.max": "7\n",
    }
    assert limits_of(tmp_path, "0::/user.slice/run-1.scope/job\n", files) == [5000, 9000]


def test_limits_of_the_first_version_are_those_of_its_memory_controller(tmp_path: Path) -> None:
    """As SLURM sets them on older systems."""
    membership = "9:name=systemd:/a\n4:cpu,memory:/slurm/job_1/step_0\n0::/\n"
    files = {
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/slurm/job_1/memory.limit_in_bytes": "3000\n",
        "memory/slurm/job_1/step_0/memory.limit_in_bytes": "4000\n",
    }
    assert limits_of(tmp_path, membership, files) == [3000, 4000, 9223372036854771712]


def test_a_container_is_limited_by_the_group_that_it_sees_as_the_topmost(tmp_path: Path) -> None:
    files = {"memory.max": "8000\n"}
    assert limits_of(tmp_path, "0::/docker/0123\n", files) == [8000]


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path / "missing", tmp_path) == []
