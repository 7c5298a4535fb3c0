"""What torchrun says of this process: variables of the environment, there before torch is."""

import os


def rank() -> int:
    """The number of this process among those that were launched together, from 0."""
    return _number("RANK", 0) if world_size() > 1 else 0


def world_size() -> int:
    """The number of processes that were launched together; 1 without a launcher."""
    # some schedulers set the one variable without the other for programs of one process
    if "RANK" not in os.environ:
        return 1
    return max(_number("WORLD_SIZE", 1), 1)


def local_rank() -> int | None:
    """The number of this process on its machine, from 0; None without a launcher."""
    if "LOCAL_RANK" not in os.environ:
        return None
    return _number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """The number of processes that were launched together on this machine."""
    return max(_number("LOCAL_WORLD_SIZE", 1), 1)


def attempt() -> int:
    """How often the launcher has started the processes anew, after it lost one."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0)


def keeps_store() -> bool:
    """Whether the launcher has the store by which processes find each other, as torchrun does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"the environment has {name}={text!r}, which is no number") from None
