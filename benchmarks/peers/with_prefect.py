"""Prefect: a flow that submits a task for each node and waits for those that it requires.

Its server is the temporary one that a flow starts for itself. A flow that is run again finds the
results of earlier tasks in its cache.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.peers.common import WORKERS, levels, read, say, work

CASE = read()
os.environ.update(
    PREFECT_HOME=str(Path(CASE.folder, "prefect")),
    PREFECT_LOGGING_LEVEL="ERROR",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_API_DATABASE_CONNECTION_URL=CASE.database.replace(
        "postgresql://", "postgresql+asyncpg://"
    ),
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
)

# the settings above are read when it is imported
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.task_runners import ThreadPoolTaskRunner


def do_node(node: str) -> str:
    """Do the work of a node."""
    work(CASE, node)
    return "x"


TASK: Any = task(do_node, persist_result=True, cache_policy=INPUTS)


def do_graph() -> None:
    """Submit all nodes, those that others require before these."""
    if not CASE.resume:
        say("started")
    futures: dict[str, Any] = {}
    for level in levels(CASE.requires):
        for node in level:
            before = [futures[one] for one in CASE.requires[node]]
            futures[node] = TASK.submit(node, wait_for=before)
    for future in futures.values():
        future.result()
    say("ended")


if __name__ == "__main__":
    flow(do_graph, task_runner=ThreadPoolTaskRunner(max_workers=WORKERS))()
