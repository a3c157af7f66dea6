"""The command line while its database is away for some seconds: it says so once, and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

import converge
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
