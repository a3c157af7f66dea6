"""Celery with a table of our own that counts what a node waits for; RabbitMQ, no results."""

from __future__ import annotations

import time
from typing import Any

import psycopg
from celery import Celery

from benchmarks.peers.celery_worker import configure, running_worker
from benchmarks.peers.common import read, say, work
from benchmarks.peers.counting import AGAIN, COPY, FINISH, LEFT, LOCK, SCHEMA, leaves, rows

CASE = read()
APP = Celery("with_celery_count", broker=CASE.broker)
configure(APP, CASE)
APP.conf.update(task_ignore_result=True)


class Connection:
    """Each process of the worker has one."""

    opened: psycopg.Connection[Any] | None = None

    @classmethod
    def get(cls) -> psycopg.Connection[Any]:
        """Connected."""
        if cls.opened is None:
            cls.opened = psycopg.connect(CASE.database)
        return cls.opened


def do_node(task: Any, node: str) -> None:
    """Do the work of a node, and send those that were waiting for it only."""
    work(CASE, node)
    connection = Connection.get()
    given = {"node": node}
    connection.execute(LOCK, given)
    found = connection.execute(FINISH, given).fetchall()
    if task.request.delivery_info.get("redelivered"):
        # what was committed before may not have been sent
        found = connection.execute(AGAIN, given).fetchall()
    connection.commit()
    for (name,) in found:
        TASK.delay(name)


TASK = APP.task(name="do_node", bind=True)(do_node)


def main() -> None:
    with running_worker(APP, "with_celery_count"), psycopg.connect(CASE.database) as connection:
        if not CASE.resume:
            say("started")
            connection.execute(SCHEMA)
            with connection.cursor().copy(COPY) as copy:
                for row in rows(CASE.requires):
                    copy.write_row(row)
            connection.commit()
            for node in leaves(CASE.requires):
                TASK.delay(node)
        while True:
            left = connection.execute(LEFT).fetchone()
            connection.commit()
            if left == (0,):
                break
            time.sleep(0.05)
        say("ended")


if __name__ == "__main__":
    main()
