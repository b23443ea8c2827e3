"""Ranks of a distributed job, by what torchrun calls, as forks of a process that has imported everything."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def run_ranks(ranks: int, work: Callable[..., None], *arguments: Any) -> str:
    """Run `work` with the arguments as each of `ranks` ranks; what ended the job is returned, empty where nothing did.

    torchrun --standalone does the same with commands, each of which imports everything again.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
    )
    try:
        elastic_launch(config, _rank)(work, *arguments)
    except ChildFailedError as error:
        return str(error)
    return ""


def _rank(work: Callable[..., None], *arguments: Any) -> None:
    """A signal ends it, as it ends a command: the handlers that it inherits are the launcher's."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    work(*arguments)
