"""Celery: its canvas, a chain of groups, one for each level; RabbitMQ, and results in Redis.

A task stands between two groups: it waits for the one and starts the other (a chord). If a group
follows a group directly, some of its tasks are done twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import Celery, chain, group

from benchmarks.peers.celery_worker import configure, running_worker
from benchmarks.peers.common import levels, read, say, work

CASE = read()
APP = Celery("with_celery", broker=CASE.broker, backend=CASE.results)
configure(APP, CASE)


def do_node(node: str) -> None:
    """Do the work of a node."""
    work(CASE, node)


def end_level() -> None:
    """What comes after a level."""


TASK = APP.task(name="do_node")(do_node)
END = APP.task(name="end_level")(end_level)


def make_canvas() -> Any:
    """The graph, as groups that follow each other."""
    parts: list[Any] = []
    for level in levels(CASE.requires):
        if len(level) == 1:
            parts.append(TASK.si(level[0]))
        else:
            parts += [group(TASK.si(node) for node in level), END.si()]
    return chain(*parts)


def main() -> None:
    file = Path(CASE.folder, "result")
    with running_worker(APP, "with_celery"):
        if CASE.resume:
            result = APP.AsyncResult(file.read_text())
        else:
            say("started")
            result = make_canvas().apply_async()
            file.write_text(result.id)
        result.get(timeout=3600, disable_sync_subtasks=False)
        say("ended")


if __name__ == "__main__":
    main()
