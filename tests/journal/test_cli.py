"""The command ``converge journal``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import converge
from converge.cli import main
from converge.journal import Journal
from converge.retry import RetryPolicy


def interrupt(journal: Journal) -> None:
    with journal.scope("order-2") as scope:
        scope.step("charge", lambda: 1, version=2)
        raise RuntimeError


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A journal of three scopes: one finished, one open, one that failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    address = f"sqlite:///{tmp_path}/journal.db"
    converge.connect(address, create_schema=True).close()
    with Journal(address) as journal:
        with journal.scope("order-1") as scope:
            scope.step("charge", lambda: {"amount": b"\x00"})
            list(scope.each("mails", range(3)))
        with pytest.raises(RuntimeError):
            interrupt(journal)
        with pytest.raises(converge.ConvergeError), journal.scope("order-3") as scope:
            scope.step("charge", int, "x", retry=RetryPolicy())
    return address


def run(capsys: pytest.CaptureFixture[str], url: str, *words: str, status: int = 0) -> str:
    assert main(["journal", *words, "--db", url]) == status
    out, err = capsys.readouterr()
    assert (err != "") == (status != 0)
    return out or err


def test_list_shows_the_scopes(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, url, "list").splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["SCOPE", "STEPS", "STATE"],
        ["order-1", "2", "finished"],
        ["order-2", "1", "open"],
        ["order-3", "1", "open"],
    ]


def test_list_shows_who_holds_a_scope(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(url) as journal, journal.scope("order-2") as scope:
        assert "order-2  1      locked    engine" in run(capsys, url, "list")
        assert "scope 'order-2': locked by engine" in run(capsys, url, "show", "order-2")
        error = run(capsys, url, "forget", "order-2", status=2)
        assert "scope 'order-2' is being worked on" in error
        scope.step("charge", int, version=2)


def test_show_shows_the_steps(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    head, _, *rows = run(capsys, url, "show", "order-1").splitlines()
    assert head == "scope 'order-1': finished, 2 steps"
    cells = [row.split(maxsplit=5) for row in rows]
    assert cells[0] == ["STEP", "NUMBER", "STATUS", "ATTEMPTS", "AT", "VALUE"]
    assert cells[1][:4] == ["charge", "1", "DONE", "1"]
    assert cells[1][5] == '{"amount": {"$": "bytes", "value": "AA=="}}'
    assert (cells[2][:3], cells[2][5]) == (["mails", "2", "END"], "3 items")
    assert "charge (version 2)" in run(capsys, url, "show", "order-2")
    assert '{"type": "ValueError", "message": ' in run(capsys, url, "show", "order-3")


def test_everything_is_there_as_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    scopes = json.loads(run(capsys, url, "list", "--json"))
    assert [one["name"] for one in scopes] == ["order-1", "order-2", "order-3"]
    shown = json.loads(run(capsys, url, "show", "order-3", "--json"))
    assert (shown["name"], shown["finished"], shown["steps"]) == ("order-3", None, 1)
    (record,) = shown["records"]
    assert (record["status"], record["value"]["type"]) == ("FAILED", "ValueError")
    forgotten = json.loads(run(capsys, url, "forget", "order-3", "--json"))
    assert forgotten == {"forgotten": "order-3", "steps": 1}
    assert json.loads(run(capsys, url, "prune", "--age", "0", "--json")) == {"deleted": 1}
    assert len(json.loads(run(capsys, url, "list", "--json"))) == 1


def test_a_forgotten_scope_is_gone(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'order-2': forgotten" in run(capsys, url, "forget", "order-2")
    for operation in ("show", "forget"):
        error = run(capsys, url, operation, "order-2", status=2)
        assert error == "converge: error: there is no scope 'order-2'\n"


def test_a_failed_step_is_forgotten_and_nothing_else(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(capsys, url, "forget", "order-3", "--failed")
    assert said == "scope 'order-3': 1 failed step forgotten\n"
    assert "scope 'order-3': open, 0 steps" in run(capsys, url, "show", "order-3")
    assert "0 failed steps forgotten" in run(capsys, url, "forget", "order-1", "--failed")
    assert "finished, 2 steps" in run(capsys, url, "show", "order-1")


def test_prune_deletes_what_is_finished(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, url, "prune", "--age", "3600") == "0 finished scopes deleted\n"
    assert run(capsys, url, "prune", "--keep", "1") == "0 finished scopes deleted\n"
    assert run(capsys, url, "prune", "--keep", "0", "--age", "0") == "1 finished scope deleted\n"
    assert "order-1" not in run(capsys, url, "list")


def test_without_a_database_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    assert main(["journal", "list"]) == 0
    assert capsys.readouterr().out == "nothing is recorded\n"
    assert main(["journal", "show", "x"]) == 2
    assert "there is no scope 'x'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lst"], "unknown 'lst'; did you mean 'list'?"),
        ([], "list|show|forget|prune"),
        (["show"], "show needs the name of a SCOPE"),
        (["forget"], "forget needs the name of a SCOPE"),
        (["list", "x"], "unexpected argument 'x'"),
        (["prune"], "prune needs --age SECONDS or --keep N"),
        (["prune", "--age", "-1"], "seconds"),
        (["prune", "--keep", "-1"], "a whole number at least 0"),
        (["list", "--keep", "1"], "--keep is an option of prune"),
        (["prune", "--age", "1", "--failed"], "--failed is an option of forget"),
        (["list", "--db", "nowhere://x"], "'nowhere://***' is not the URL of a journal"),
    ],
)
def test_a_mistake_is_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["journal", *words]) == 2
    assert message in capsys.readouterr().err
