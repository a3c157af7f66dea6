"""The command line's engines as processes on one database: killed, ended, cut off from it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select

import converge
from converge.sql import schema
from tests.acceptance.fleet import LIMIT, ON_SERVERS, Cutter, wait_for
from tests.acceptance.shell import Shell
from tests.templates import template


class Commands(Shell):
    """Commands on one database, and what handlers wrote to files outside of it."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(folder)
        self.environment["CONVERGE_DB"] = url

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start a command."""
        with open(self.folder / "output", "ab") as output:
            return self.start(*words, stdout=output, stderr=output)

    @property
    def output(self) -> str:
        """What all commands have written."""
        return self.read("output")

    def lines(self, name: str) -> list[str]:
        """The lines of a file, none if it is not there."""
        return self.read(name).splitlines() if name in self.names() else []

    def wait(self, name: str, process: subprocess.Popen[str]) -> None:
        """Wait until there is a file with something in it, which a process is to write."""
        wait_for(lambda: self.lines(name) or process.poll() is not None, f"file {name}")
        assert self.lines(name), self.output

    def close_gate(self) -> None:
        """Let handlers wait at the fifo "gate"."""
        os.mkfifo(self.folder / "gate")

    def open_gate(self) -> None:
        """Let those go on that wait at the gate now."""
        # it fails if there is nobody
        with contextlib.suppress(OSError):
            os.close(os.open(self.folder / "gate", os.O_WRONLY | os.O_NONBLOCK))

    def finish(self, process: subprocess.Popen[str]) -> int:
        """Let handlers through the gate until a process ends; its exit status."""

        def is_over() -> bool:
            self.open_gate()
            return process.poll() is not None

        wait_for(is_over, "the end of a process")
        return process.wait()

    def remove_gate(self) -> None:
        """Let all pass from now on."""
        self.write("no gate", "").rename(self.folder / "gate")

    def end(self) -> None:
        super().end()
        # whoever still waits there belongs to nobody any more
        self.open_gate()


@pytest.fixture
def commands(database_url: str, tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(database_url, tmp_path)
    yield commands
    commands.end()


def pipeline(layers: int, width: int, seconds: float) -> converge.Template:
    """Layers of commands that each say in the file "log" that they ran."""
    resources = {}
    for layer in range(layers):
        for number in range(width):
            resources[f"r{layer}_{number}"] = {
                "type": "command",
                "properties": {
                    "create": f"sleep {seconds}; echo $CONVERGE_RESOURCE >> log",
                    "delete": "echo gone $CONVERGE_RESOURCE >> log",
                },
                "depends_on": [f"r{layer - 1}_{other}" for other in range(width)] if layer else [],
            }
    return template(resources)


#: It says that it has begun, goes on when something comes through the fifo "gate", and says
#: that it is done; or that it was told to stop.
GATED = (
    "trap 'echo $CONVERGE_RESOURCE >> told; exit 1' TERM; echo $CONVERGE_RESOURCE >> begun;"
    " cat gate; echo $CONVERGE_RESOURCE >> log"
)


def gated(width: int) -> dict[str, Any]:
    """Commands that wait at the gate."""
    one = {"type": "command", "properties": {"create": GATED, "delete": "true"}}
    return {"resources": {f"r{number}": one for number in range(width)}}


def nodes(store: converge.Store) -> Counter[tuple[str, bool]]:
    """How many nodes there are in each state, and whether engines hold them."""
    with store.transaction() as tx:
        node = schema.sync_point.c
        query = select(node.state, node.engine_id).where(node.kind != "stack")
        return Counter((row.state, row.engine_id is not None) for row in tx.execute(query))


def engine_states(store: converge.Store) -> list[str]:
    with store.transaction() as tx:
        query = select(schema.engine.c.state).order_by(schema.engine.c.id)
        return list(tx.execute(query).scalars())


# Several of them


def test_three_processes_do_each_node_once(database_url: str, commands: Commands) -> None:
    with converge.connect(database_url) as store:
        stack = store.create_stack("s", pipeline(3, 10, 0))
        processes = [commands.begin("engine", "--workers", "2", "--until-idle") for _ in range(3)]
        assert [process.wait(LIMIT) for process in processes] == [0, 0, 0], commands.output
        assert stack.refresh().status == "COMPLETE"
        assert Counter(commands.lines("log")) == {
            f"r{layer}_{n}": 1 for layer in range(3) for n in range(10)
        }


def test_after_a_kill_another_goes_on_and_redoes_nothing(
    database_url: str, commands: Commands
) -> None:
    with converge.connect(database_url) as store:
        stack = store.create_stack("s", pipeline(3, 4, 0.2))
        first = commands.begin("engine", "--workers", "2")
        wait_for(
            lambda: store.progress("s")["done"] >= 4 or first.poll() is not None, "four nodes done"
        )
        first.kill()
        first.wait(LIMIT)
        done = {
            name
            for name, one in store.show("s")["resources"].items()
            if one["status"] == "COMPLETE"
        }
        # on the same host nobody waits for the lease of a process that is gone
        assert commands.begin("engine", "--workers", "2", "--until-idle").wait(LIMIT) == 0, (
            commands.output
        )
        assert stack.refresh().status == "COMPLETE"
    counted = Counter(commands.lines("log"))
    assert len(done) >= 4
    assert {counted[name] for name in done} == {1}
    assert set(counted) == {f"r{layer}_{n}" for layer in range(3) for n in range(4)}
    # at most what its two workers had begun was begun again
    assert sum(counted.values()) <= 12 + 2


# Ended in order


def test_an_engine_that_is_told_to_end_finishes_what_it_has_begun_and_leaves_the_rest_at_once(
    database_url: str, commands: Commands
) -> None:
    with converge.connect(database_url) as store:
        # handlers that take no time, so that it claims ahead
        quick = {"type": "value", "properties": {"value": 1}}
        many = template({f"v{n}": quick for n in range(60)})
        warm = store.create_stack("warm", many)
        process = commands.begin("engine", "--workers", "1")
        wait_for(lambda: warm.refresh().status == "COMPLETE", "a warm engine")

        commands.close_gate()
        stack = store.create_stack("s", converge.Template.from_dict(gated(10)))
        commands.wait("begun", process)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping" in commands.output, "that it stops")
        assert commands.finish(process) == 143, commands.output
        assert len(commands.lines("begun")) == 1
        assert commands.lines("log") == commands.lines("begun")
        assert engine_states(store) == ["STOPPED"]
        assert nodes(store) == {("DONE", False): 1, ("READY", False): 9}

        commands.remove_gate()
        assert commands.begin("engine", "--until-idle").wait(LIMIT) == 0, commands.output
        assert stack.refresh().status == "COMPLETE"
        assert Counter(commands.lines("log")) == {f"r{number}": 1 for number in range(10)}


def test_after_the_grace_a_handler_is_told_and_its_node_is_anybodys_at_once(
    database_url: str, commands: Commands
) -> None:
    with converge.connect(database_url) as store:
        commands.close_gate()
        stack = store.create_stack("s", converge.Template.from_dict(gated(2)))
        process = commands.begin("engine", "--workers", "1", "--grace", "0.1")
        commands.wait("begun", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 143, commands.output
        assert commands.lines("told") == commands.lines("begun")
        assert commands.lines("log") == []
        assert engine_states(store) == ["STOPPED"]
        assert nodes(store) == {("READY", False): 2}

        commands.remove_gate()
        assert commands.begin("engine", "--until-idle").wait(LIMIT) == 0, commands.output
        assert stack.refresh().status == "COMPLETE"
        assert Counter(commands.lines("log")) == {"r0": 1, "r1": 1}


# Cut off


@ON_SERVERS
def test_an_idle_engine_does_not_mind_that_its_connections_are_cut(
    database_url: str, commands: Commands
) -> None:
    cutter = Cutter(database_url)
    with converge.connect(database_url) as store:
        process = commands.begin("engine")
        wait_for(lambda: engine_states(store) == ["ALIVE"], "an engine")
        store.close()
        for _ in range(3):
            # it has connected again
            wait_for(cutter.cut, "connections to cut")
        stack = store.create_stack("s", pipeline(2, 2, 0))
        wait_for(lambda: stack.refresh().status == "COMPLETE", "work after the cut")
        assert engine_states(store) == ["ALIVE"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 143, commands.output
        assert engine_states(store) == ["STOPPED"]
    assert "Traceback" not in commands.output


@ON_SERVERS
def test_up_does_not_mind_that_its_connections_are_cut(
    database_url: str, commands: Commands
) -> None:
    cutter = Cutter(database_url)
    commands.write("cut.yaml", yaml.safe_dump(gated(2)))
    commands.close_gate()
    process = commands.begin("up", "cut.yaml")
    commands.wait("begun", process)
    for _ in range(3):
        wait_for(cutter.cut, "connections to cut")
    wait_for(lambda: len(commands.lines("begun")) == 2, "both of them begun")
    assert commands.finish(process) == 0, commands.output
    assert "CREATE COMPLETE" in commands.output
    assert "Traceback" not in commands.output
    assert Counter(commands.lines("log")) == {"r0": 1, "r1": 1}
