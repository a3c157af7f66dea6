"""Several engines as processes on one database, and what is left when they are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import converge

WAIT = 60.0


def pipeline(log: Path, layers: int, width: int, seconds: float) -> converge.Template:
    """Layers of commands that each say in a file outside of the database that they ran."""
    resources = {}
    for layer in range(layers):
        for number in range(width):
            resources[f"r{layer}_{number}"] = {
                "type": "command",
                "properties": {
                    "create": f"sleep {seconds}; echo $CONVERGE_RESOURCE >> {log}",
                    "delete": f"echo gone $CONVERGE_RESOURCE >> {log}",
                },
                "depends_on": [f"r{layer - 1}_{other}" for other in range(width)] if layer else [],
            }
    return converge.Template.from_dict({"resources": resources})


def engine(url: str, *options: str) -> subprocess.Popen[bytes]:
    """An engine in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "converge", "--db", url, "engine", "--workers", "2", *options],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def lines(log: Path) -> Counter[str]:
    return Counter(log.read_text().split("\n")[:-1]) if log.exists() else Counter()


def test_three_processes_do_each_node_once(database_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with converge.connect(database_url) as store:
        stack = store.create_stack("s", pipeline(log, 3, 10, 0))
        processes = [engine(database_url, "--until-idle") for _ in range(3)]
        assert [process.wait(WAIT) for process in processes] == [0, 0, 0]
        assert stack.refresh().status == "COMPLETE"
        assert lines(log) == {f"r{layer}_{n}": 1 for layer in range(3) for n in range(10)}


def test_after_a_kill_another_goes_on_and_redoes_nothing(database_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with converge.connect(database_url) as store:
        stack = store.create_stack("s", pipeline(log, 3, 4, 0.2))
        first = engine(database_url)
        end = time.monotonic() + WAIT
        while store.progress("s")["done"] < 4:
            assert time.monotonic() < end
            store.wait_for_end(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait(WAIT)
        done = {
            name
            for name, one in store.show("s")["resources"].items()
            if one["status"] == "COMPLETE"
        }
        # on the same host nobody waits for the lease of a process that is gone
        assert engine(database_url, "--until-idle").wait(WAIT) == 0
        assert stack.refresh().status == "COMPLETE"
    counted = lines(log)
    assert len(done) >= 4
    assert {counted[name] for name in done} == {1}
    assert set(counted) == {f"r{layer}_{n}" for layer in range(3) for n in range(4)}
    # at most what its two workers had begun was begun again
    assert sum(counted.values()) <= 12 + 2
