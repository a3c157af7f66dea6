"""A worker of Celery, as both of its programs start it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import Celery

from benchmarks.peers.common import WORKERS, Case


def configure(app: Celery, case: Case) -> None:
    """The settings under which nothing is lost when a worker dies."""
    app.conf.update(
        # acknowledged when it is done, and delivered again if its worker dies
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=4,
        broker_connection_retry_on_startup=True,
        task_default_queue=f"peers-{Path(case.folder).name}",
        result_expires=3600,
    )


@contextmanager
def running_worker(app: Celery, module: str) -> Iterator[None]:
    """A worker with its processes; its queue is deleted in the end."""
    name = f"benchmarks.peers.{module}"
    command = [sys.executable, "-m", "celery", "-A", name, "worker", "--loglevel", "ERROR"]
    command += ["--concurrency", str(WORKERS), "--without-mingle", "--without-gossip"]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not app.control.ping(timeout=0.5):
            if worker.poll() is not None:
                raise RuntimeError("the worker has ended")
        yield
    finally:
        worker.terminate()
        worker.wait()
        with app.connection_for_write() as connection, connection.channel() as channel:
            channel.queue_delete(app.conf.task_default_queue)
