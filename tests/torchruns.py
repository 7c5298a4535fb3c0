"""Scripts under torchrun itself: each process takes seconds to import torch."""

import subprocess
import sys
from collections.abc import Mapping


def torchrun(
    *words: object,
    processes: int = 2,
    restarts: int = 0,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """What a script, or "-m", a module and its arguments, print, and how torchrun ends."""
    command = [sys.executable, "-m", "torch.distributed.run"]
    command += [f"--nproc_per_node={processes}", f"--max-restarts={restarts}"]
    return subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment,
    )
