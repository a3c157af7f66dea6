"""The command ``converge machine``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import converge
from converge.cli import main
from converge.machine import Action, Machine
from converge.retry import RetryPolicy

CALLS: list[str] = []


def ship(action: Action) -> None:
    CALLS.append(action.key)
    if CALLS.count(action.key) == 1 and action.payload is None:
        raise OSError("no parcels today")


ORDER: dict[str, Any] = {
    "name": "order",
    "initial": "new",
    "states": {"new": {"timeout": 3640.0}, "paid": {}, "shipped": {"terminal": True}},
    "transitions": [
        {"event": "pay", "source": "new", "target": "paid"},
        {"event": "timeout", "source": "new", "target": "shipped"},
        {
            "event": "ship",
            "source": "paid",
            "target": "shipped",
            "action": ship,
            "retry": RetryPolicy(attempts=1),
        },
    ],
}


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three orders: a new one, one that was shipped, and one that could not be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    CALLS.clear()
    address = f"sqlite:///{tmp_path}/orders.db"
    with converge.connect(address, create_schema=True) as store:
        machine = Machine(store, ORDER)
        machine.create("a", "b", "c")
        machine.fire_many([("b", "pay", {"amount": 3}), ("c", "pay")])
        machine.fire("b", "ship", "at once")
        with pytest.raises(converge.ActionFailed, match="OSError: no parcels"):
            machine.fire("c", "ship")
        machine.close()
    return address


def run(capsys: pytest.CaptureFixture[str], url: str, *words: str, status: int = 0) -> str:
    assert main(["machine", *words, "--db", url]) == status
    out, err = capsys.readouterr()
    assert (err != "") == (status != 0)
    return out or err


def test_list_shows_machines_and_their_instances(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, url, "list").split() == ["MACHINE", "order"]
    head, *rows = (line.split() for line in run(capsys, url, "list", "order").splitlines())
    assert head == ["KEY", "STATE", "MOVES", "UPDATED", "TIMEOUT"]
    assert [row[:3] for row in rows] == [
        ["a", "new", "0"],
        ["b", "shipped", "2"],
        ["c", "shipped", "2"],
    ]
    assert "in 1 h 00 min" in run(capsys, url, "list", "order", "--state", "new")
    assert len(run(capsys, url, "list", "order", "--state", "nowhere").splitlines()) == 1


def test_what_failed_is_shown_and_retried(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, row = run(capsys, url, "list", "order", "--failed").splitlines()
    assert row.split()[:5] == ["c", "2", "ship", "paid", "shipped"]
    assert row.endswith("FAILED  OSError: no parcels today")
    assert run(capsys, url, "retry", "order", "b", "c") == (
        "1 failed action will be called again by the next sweep\n"
    )
    assert len(run(capsys, url, "list", "order", "--failed").splitlines()) == 1
    with converge.connect(url) as store:
        machine = Machine(store, ORDER)
        assert machine.sweep() == 1
        assert machine.history("c")[1].action == "DONE"
        machine.close()
    assert CALLS == ["b", "c", "c"]


def test_show_shows_an_instance_and_its_history(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    head, _, *rows = run(capsys, url, "show", "order", "b").splitlines()
    assert head.startswith("b of machine order: in state shipped of version 1 since 20")
    cells = [row.split() for row in rows]
    assert cells[0] == ["MOVE", "EVENT", "FROM", "TO", "AT", "PAYLOAD", "ACTION", "REASON"]
    assert cells[1][:4] == ["1", "pay", "new", "paid"]
    assert '{"amount": 3}' in rows[1]
    assert cells[2][:4] == ["2", "ship", "paid", "shipped"]
    assert rows[2].endswith("at once        DONE")
    assert ", timeout in 1 h 00 min" in run(capsys, url, "show", "order", "a")


def test_everything_is_there_as_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capsys, url, "list", "--json")) == ["order"]
    found = json.loads(run(capsys, url, "list", "order", "--json"))
    assert [one["state"] for one in found] == ["new", "shipped", "shipped"]
    (failed,) = json.loads(run(capsys, url, "list", "order", "--failed", "--json"))
    assert (failed["key"], failed["action"]) == ("c", "FAILED")
    shown = json.loads(run(capsys, url, "show", "order", "b", "--json"))
    assert [move["event"] for move in shown["history"]] == ["pay", "ship"]
    assert json.loads(run(capsys, url, "retry", "order", "c", "--json")) == {"retried": 1}
    assert json.loads(run(capsys, url, "delete", "order", "a", "--json")) == {"deleted": 1}


def test_what_is_deleted_is_gone(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = run(capsys, url, "delete", "order", "a", "x", status=2)
    assert error == "converge: error: machine 'order' has no instance 'x'\n"
    assert run(capsys, url, "delete", "order", "a", "b") == "2 instances deleted\n"
    assert "'order' has no instance 'a'" in run(capsys, url, "show", "order", "a", status=2)
    assert run(capsys, url, "delete", "order", "c") == "1 instance deleted\n"
    assert run(capsys, url, "list") == "no machine has instances\n"


def test_prune_deletes_what_came_to_its_end_long_ago(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = ("--state", "shipped", "--state", "new")
    assert run(capsys, url, "prune", "order", *ends, "--age", "3600") == "0 instances deleted\n"
    assert run(capsys, url, "prune", "order", *ends, "--age", "0") == "1 instance deleted\n"
    # of these one waits for its timeout, and one has an action that FAILED
    assert [row.split()[0] for row in run(capsys, url, "list", "order").splitlines()[1:]] == [
        "a",
        "c",
    ]
    told = run(capsys, url, "prune", "order", *ends, "--age", "0", "--json")
    assert json.loads(told) == {"deleted": 0}


def test_without_a_database_there_are_no_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    assert main(["machine", "list"]) == 0
    assert capsys.readouterr().out == "no machine has instances\n"
    assert main(["machine", "show", "order", "a"]) == 2
    assert "machine 'order' has no instances" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lst"], "unknown 'lst'; did you mean 'list'?"),
        ([], "list|show|retry|delete|prune"),
        (["show"], "show needs a MACHINE and a KEY"),
        (["retry", "order"], "retry needs a MACHINE and a KEY"),
        (["list", "order", "a"], "unexpected argument 'a'"),
        (["show", "order", "a", "b"], "unexpected argument 'b'"),
        (["list", "--failed"], "--failed needs the name of a MACHINE"),
        (["list", "order", "--failed", "--state", "x"], "cannot be combined"),
        (["show", "order", "a", "--state", "x"], "--state is not an option of show"),
        (["list", "order", "--age", "0"], "--age is not an option of list"),
        (["list", "order", "--state", "x", "--state", "y"], "list takes one --state"),
        (["prune", "order", "--age", "0"], "prune needs a MACHINE, a final --state STATE"),
        (["prune", "--state", "x", "--age", "0"], "prune needs a MACHINE, a final --state STATE"),
        (["prune", "order", "a", "--state", "x", "--age", "0"], "unexpected argument 'a'"),
        (["prune", "order", "--state", "x", "--age", "0", "--failed"], "--failed is not an option"),
        (["prune", "order", "--state", "x", "--age", "-1"], "argument --age"),
        (["list", "ordr"], "machine 'ordr' has no instances; did you mean 'order'?"),
    ],
)
def test_a_mistake_is_named(
    url: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["machine", *words, "--db", url]) == 2
    assert message in capsys.readouterr().err
