"""The command line while its database is away, or is another one: it says so once, and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

import converge
from tests import servers
from tests.trouble.proxy import Mode
from tests.trouble.troubled import Troubled

#: Seconds after which a process that should have ended is a failure.
LIMIT = 60

TEMPLATE = """\
resources:
  first:
    type: command
    properties:
      create: "until test -e go; do sleep 0.1; done; echo first >> log"
      delete: "true"
  second:
    type: command
    depends_on: first
    properties: {create: "echo second >> log", delete: "true"}
"""


class Command:
    """A command in a folder, of which each line is read when it comes."""

    def __init__(self, folder: Path, url: str, *words: str) -> None:
        root = str(Path(converge.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "converge", "--db", url, *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": root},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._come = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=pair)
            for pair in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            with self._come:
                lines.append(line.rstrip("\n"))
                self._come.notify_all()

    def wait_for(self, lines: list[str], words: str) -> None:
        with self._come:
            found = self._come.wait_for(lambda: any(words in line for line in lines), LIMIT)
        assert found, (words, self.out, self.err)

    def end(self) -> int:
        try:
            return self.process.wait(LIMIT)
        finally:
            self.process.kill()
            for reader in self._readers:
                reader.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(TEMPLATE, encoding="utf-8")
    return tmp_path


def test_what_follows_a_stack_outlives_an_outage(troubled: Troubled, folder: Path) -> None:
    url = troubled.proxy.url().render_as_string(hide_password=False)
    up = Command(folder, url, "up", "s.yaml")
    up.wait_for(up.out, "(stack) CREATE IN_PROGRESS")
    follow = Command(folder, url, "events", "s", "--follow")
    follow.wait_for(follow.out, "(stack) CREATE IN_PROGRESS")
    with troubled.proxy.being(Mode.REFUSE):
        for command in (up, follow):
            command.wait_for(command.err, "; trying again")
    (folder / "go").touch()
    assert [up.end(), follow.end()] == [0, 0]
    for command in (up, follow):
        assert len([line for line in command.err if "trying again" in line]) == 1, command.err
        assert "Traceback" not in "\n".join(command.err)
        assert any(line.endswith("(stack) CREATE COMPLETE") for line in command.out)
    # what ran while the lease was lost, if it was, is done again
    done = (folder / "log").read_text(encoding="utf-8").split()
    assert (set(done), done[-1]) == ({"first", "second"}, "second")


# -- engines that were started first


@pytest.fixture(
    params=[
        pytest.param(one, marks=[pytest.mark.database, getattr(pytest.mark, one.replace("-", "_"))])
        for one in ("own-postgresql", "own-mariadb")
    ]
)
def own(request: pytest.FixtureRequest, _databases: dict[str, Any]) -> servers.OwnServer:
    """Each server that can be stopped."""
    server: servers.OwnServer = _databases[request.param]
    return server


def said(command: Command, words: str) -> int:
    """In how many lines of stderr the words are."""
    assert "Traceback" not in "\n".join(command.err)
    return sum(words in line for line in command.err)


@contextmanager
def ended(engine: Command) -> Iterator[Command]:
    """Tell the engine to end when the block does; it does so in order."""
    try:
        yield engine
    finally:
        engine.process.terminate()
        status = engine.end()
    assert status == 143, engine.err


def wait_for_stack(url: str, name: str) -> None:
    with converge.connect(url) as store:
        assert store.stack(name).wait(LIMIT) == "COMPLETE"


def test_an_engine_waits_for_a_server_that_is_started_later(
    own: servers.OwnServer, tmp_path: Path
) -> None:
    url = own.migrated()
    with converge.connect(url) as store:
        store.create_stack("s", converge.Template.parse("resources: {a: {type: none}}"))
    own.stop()
    try:
        # one that is to end does not wait
        idle = Command(tmp_path, url, "engine", "--until-idle")
        assert idle.end() == 2
        assert (said(idle, "cannot be reached"), said(idle, "trying again")) == (1, 0), idle.err
        with ended(Command(tmp_path, url, "engine")) as engine:
            engine.wait_for(engine.err, "cannot be reached")
            own.start()
            wait_for_stack(url, "s")
    finally:
        if own._process is None:
            own.start()
    assert (said(engine, "trying again"), said(engine, "is running")) == (1, 1), engine.err


@pytest.mark.sqlite
def test_an_engine_notices_that_its_file_was_removed_and_is_another_one(tmp_path: Path) -> None:
    """None is made in its place, and the work of the other one is done."""
    path = tmp_path / "used.db"
    url, other = (f"sqlite:///{tmp_path}/{name}.db" for name in ("used", "other"))
    for each in (url, other):
        converge.connect(each, create_schema=True).close()
    with ended(Command(tmp_path, url, "engine")) as engine:
        engine.wait_for(engine.err, "is running")
        path.rename(tmp_path / "old.db")
        engine.wait_for(engine.err, "it was removed); trying again")
        assert not path.exists()
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        with converge.connect(other) as store:
            store.create_stack("s", converge.Template.parse("resources: {a: {type: none}}"))
        (tmp_path / "other.db").rename(path)
        wait_for_stack(url, "s")
    assert said(engine, "it was removed") == 1, engine.err
