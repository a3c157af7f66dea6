"""Signals to the command line, and processes that are killed, on an SQLite database."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
from typing import Any

import pytest

from tests.acceptance.shell import LIMIT, Shell, statuses

#: Its second resource tells the fifo "started" that it runs, and waits for the fifo "go".
SLOW = """\
resources:
  first:
    type: command
    properties: {create: "echo first >> log", delete: "true"}
  second:
    type: command
    depends_on: first
    properties: {create: "echo > started; cat go; echo second >> log", delete: "true"}
  third:
    type: command
    depends_on: second
    properties: {create: "echo third >> log", delete: "true"}
"""


#: And does not end when it is told to.
STUBBORN = SLOW.replace("echo > started", "trap '' TERM; echo > started")


def begin_slow(
    shell: Shell, *words: str, template: str = SLOW, **keywords: Any
) -> subprocess.Popen[str]:
    """Start ``up`` on SLOW, and return when its second resource runs."""
    for name in ("started", "go"):
        path = shell.folder / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    shell.write("slow.yaml", template)
    process = shell.start("up", "slow.yaml", *words, **keywords)
    wait_for_second(shell, process)
    return process


def wait_for_second(shell: Shell, process: subprocess.Popen[str]) -> None:
    # not blocking in open(), as the writer may never come
    reader = os.open(shell.folder / "started", os.O_RDONLY | os.O_NONBLOCK)
    try:
        while not select.select([reader], [], [], 0.1)[0]:
            assert process.poll() is None, process.communicate()
    finally:
        os.close(reader)


def let_second_go(shell: Shell) -> None:
    with open(shell.folder / "go", "w", encoding="utf-8"):
        pass


def read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stderr is not None
    text = ""
    while word not in text:
        line = process.stderr.readline()
        assert line, f"no {word!r} in {text!r}"
        text += line
    return text


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_what_runs_and_up_goes_on_from_there(
    number: signal.Signals, status: int, shell: Shell
) -> None:
    process = begin_slow(shell)
    process.send_signal(number)
    text = read_until(process, "stopping")
    assert "`converge up` continues with stack 'slow' from there" in text
    let_second_go(shell)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == status, (out, err)
    assert "Traceback" not in err
    last, following = out.splitlines()[-2:]
    assert last.endswith("IN_PROGRESS, interrupted")
    assert following == "next: converge up slow.yaml"
    assert shell.read("log") == "first\nsecond\n"

    document = shell.json("show", "slow")
    assert document["status"] == "IN_PROGRESS"
    assert statuses(document)["second"] == "COMPLETE"
    assert shell.run("up", "slow.yaml")[0].startswith("stack 'slow': CREATE resumed\n")
    assert shell.read("log") == "first\nsecond\nthird\n"


def test_a_second_interrupt_cancels_what_runs(shell: Shell) -> None:
    process = begin_slow(shell)
    process.send_signal(signal.SIGINT)
    read_until(process, "stopping")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert shell.read("log") == "first\n"

    process = begin_slow(shell)
    let_second_go(shell)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, (out, err)
    assert out.startswith("stack 'slow': CREATE resumed\n")
    assert shell.read("log") == "first\nsecond\nthird\n"


def test_what_runs_is_cancelled_when_its_grace_is_over(shell: Shell) -> None:
    process = begin_slow(shell, "--grace", "0.1")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 143, (out, err)
    assert "stopping: running handlers have 0.1 s to finish" in err
    assert "cancelling running handlers" in err
    assert shell.read("log") == "first\n"
    # it was handed back at once, not after a lease
    (message,) = (one["message"] for one in shell.json("why", "slow"))
    assert message.startswith("resource 'second' has been ready for ")
    assert message.endswith(" and waits for an engine; none is alive")


def test_a_grace_of_nothing_cancels_at_once(shell: Shell) -> None:
    process = begin_slow(shell, "--grace", "0", "--json")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, (out, err)
    assert "stopping: running handlers are cancelled; `converge up` continues" in err
    document = json.loads(out)
    assert document["status"] == "IN_PROGRESS"
    assert document["error"] == {"message": "interrupted", "kind": "Interrupted", "exit": 130}


def test_a_third_interrupt_leaves_at_once_and_says_so_in_json(shell: Shell) -> None:
    process = begin_slow(shell, "--json", template=STUBBORN)
    process.send_signal(signal.SIGINT)
    read_until(process, "stopping")
    process.send_signal(signal.SIGINT)
    read_until(process, "cancelling running handlers")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, (out, err)
    assert "exiting; `converge up` continues" in err
    assert json.loads(out) == {
        "error": {"message": "interrupted", "kind": "Interrupted", "exit": 130}
    }


# Engines that die


def test_what_a_killed_engine_leaves_is_seen_and_recovered(shell: Shell) -> None:
    process = begin_slow(shell)
    (engine,) = shell.json("engines")
    assert (engine["pid"], engine["state"], engine["nodes"]) == (process.pid, "ALIVE", 1)
    assert 0 < engine["lease_seconds"] <= engine["lease"] == 15
    head, line = shell.run("engines")[0].splitlines()
    assert head.split() == [
        "ID",
        "HOST",
        "PID",
        "STATE",
        "STARTED",
        "LEASE",
        "QUEUES",
        "NODES",
        "HOLDS",
    ]
    assert re.search(r" s left +default +1 +slow/second for [\d.]+ s$", line)
    waiting = shell.run("why", "slow", "third")[0]
    assert f"waits for 'second', which engine {engine['id']} on" in waiting
    assert shell.run("why")[0] == "nothing is stuck\n"

    process.kill()
    process.wait(timeout=LIMIT)
    # on its own host it need not be waited for until its lease has ended
    assert shell.run("recover")[0] == (
        "1 dead engine found\n"
        "1 node of dead engines made ready for others\n"
        "1 node waits for an engine\n"
    )
    assert shell.run("recover")[0] == "nothing to recover\n1 node waits for an engine\n"
    assert shell.json("recover")["ready"] == 1
    assert shell.run("engines")[0] == "no engines\n"
    assert " DEAD " in shell.run("engines", "--all")[0]
    stuck = shell.run("why", status=3)[0]
    assert stuck.startswith("stack 'slow': resource 'second' has been ready for ")
    assert stuck.endswith("none is alive; 1 engine died while working on it\n")


def test_an_engine_stops_on_a_signal(shell: Shell) -> None:
    process = shell.start("engine")
    read_until(process, "is running")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 143
    assert "stopping" in err


def test_up_says_that_somebody_else_superseded_it(shell: Shell) -> None:
    process = begin_slow(shell)
    shell.write("slow.yaml", SLOW + "  fourth: {type: none}\n")
    out, _ = shell.run("up", "slow.yaml", "--no-wait")
    assert out.startswith("stack 'slow': UPDATE superseded traversal 1;")
    let_second_go(shell)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1, (out, err)
    assert "another client started UPDATE of stack 'slow'" in err
    assert out.splitlines()[-1] == "next: converge show slow"
    shell.run("engine", "--until-idle")
    assert shell.json("show", "slow")["status"] == "COMPLETE"


def test_up_says_that_it_was_cancelled(shell: Shell) -> None:
    process = begin_slow(shell, "--json")
    assert shell.json("cancel", "slow")["outcome"] == "started"
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1, (out, err)
    document = json.loads(out)
    assert document["status"] == "CANCELLED"
    assert (document["error"]["kind"], document["error"]["exit"]) == ("StackCancelled", 1)
    assert "third" not in shell.read("log")
