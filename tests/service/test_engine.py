"""``converge engine`` as a service, on SQLite: its configuration file, its logs, its processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.shell import LIMIT, Shell

pytestmark = pytest.mark.sqlite

TEMPLATE = """\
parameters:
  word: {type: string, hidden: true, default: hunter2secret}
resources:
  good:
    type: command
    properties: {create: "true", delete: "true"}
  bad:
    type: command
    depends_on: good
    properties:
      create:
        str_replace:
          template: "echo WORD >&2; exit 3"
          params: {WORD: {get_param: word}}
      delete: "true"
"""
#: Its create tells the fifo "started", and waits for the fifo "go".
SLOW = """\
resources:
  slow:
    type: command
    properties: {create: "echo > started; cat go; echo done >> log", delete: "true"}
"""
FILE = """\
[converge]
db = sqlite:///{folder}/a.db
log_format = json
[engine]
workers = 2
"""


@pytest.fixture
def configured(shell: Shell) -> Shell:
    """A folder with a configuration file and its database."""
    shell.write("converge.conf", FILE.format(folder=shell.folder))
    shell.environment["CONVERGE_DB"] = f"sqlite:///{shell.folder}/a.db"
    shell.run("db", "upgrade")
    return shell


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_handler_is_logged_as_json_and_no_secret_is(configured: Shell) -> None:
    configured.write("t.yaml", TEMPLATE)
    configured.run("up", "t.yaml", "--stack", "s", "--no-wait")
    process = configured.start("engine", "--until-idle", "--config-file", "converge.conf")
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (0, "")
    assert "hunter2" not in err
    told = [one for one in records(err) if one["name"] == "converge.handlers"]
    assert [(one["extra"]["resource"], one["message"].partition(" after ")[0]) for one in told] == [
        ("good", "stack 's': create of resource 'good' starts"),
        ("good", "stack 's': create of resource 'good' ended as DONE"),
        ("bad", "stack 's': create of resource 'bad' starts"),
        ("bad", "stack 's': create of resource 'bad' ended as FAILED"),
        ("bad", "stack 's': create of resource 'bad' failed: create exited with status 3: ***"),
    ]
    engine = told[0]["extra"]["engine"]
    for one in told:
        assert one["extra"] == {
            "stack": "s",
            "resource": one["extra"]["resource"],
            "operation": "create",
            "traversal": 1,
            "engine": engine,
        }


def test_sigterm_lets_a_handler_finish_in_one_of_two_processes(configured: Shell) -> None:
    for name in ("started", "go"):
        os.mkfifo(configured.folder / name)
    configured.write("slow.yaml", SLOW)
    configured.run("up", "slow.yaml", "--no-wait")
    process = configured.start("engine", "--processes", "2", "--config-file", "converge.conf")
    assert process.stderr is not None
    (configured.folder / "started").read_text()
    process.send_signal(signal.SIGTERM)
    lines = iter(process.stderr.readline, "")
    next(line for line in lines if "stopping: running handlers" in line)
    (configured.folder / "go").write_text("")
    rest = list(lines)
    assert process.wait(LIMIT) == 143, rest
    assert configured.read("log") == "done\n"
    assert configured.json("show", "slow")["resources"]["slow"]["status"] == "COMPLETE"
    assert configured.json("engines") == []


def test_ps_shows_no_password(configured: Shell) -> None:
    bus = "rabbit://nobody:hunter2secret@127.0.0.1:1/"
    process = configured.start(
        "engine", "--processes", "2", "--bus", bus, "--config-file", "converge.conf"
    )
    assert process.stderr is not None
    said: list[str] = []
    while sum("is running" in line for line in said) < 2:
        said.append(process.stderr.readline())
        assert said[-1], said
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    titles = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (process.pid, *children)]
    process.terminate()
    log = "".join([*said, *iter(process.stderr.readline, "")])
    assert process.wait(LIMIT) == 143
    assert "hunter2" not in log
    # they go by the URL that was given
    assert "Connection refused" in log
    assert len(titles) == 3
    for title in titles:
        assert "\0--bus\0rabbit://nobody:***@127.0.0.1:1/\0" in title


def test_a_hangup_reads_the_level_of_logs_again(configured: Shell) -> None:
    process = configured.start("engine", "--config-file", "converge.conf")
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    next(line for line in lines if "is running" in line)
    configured.write(
        "converge.conf", "[DEFAULT]\ndebug = true\n" + FILE.format(folder=configured.folder)
    )
    process.send_signal(signal.SIGHUP)
    next(line for line in lines if "the configuration was read again" in line)
    configured.write("converge.conf", "[engine]\nwokers = 2\n")
    process.send_signal(signal.SIGHUP)
    line = next(line for line in lines if "wokers" in line)
    assert "did you mean 'workers'" in line
    process.terminate()
    assert process.wait(LIMIT) == 143


def test_a_wrong_file_ends_it_before_anything_is_done(shell: Shell) -> None:
    shell.write("converge.conf", "[engine]\nworkers = 0\n")
    _, err = shell.run("engine", "--config-file", "converge.conf", status=2)
    assert "converge.conf: [engine] workers is not valid" in err
    assert shell.names() == {"converge.conf"}
