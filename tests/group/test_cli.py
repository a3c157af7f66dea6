"""The command ``converge group``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import converge
from converge.cli import main
from converge.group.group import Settings
from converge.group.member import Member
from converge.group.signing import Secrets
from tests.group.world import LEASE, SECRET


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    """The only member of a group of two partitions."""
    with converge.connect(f"sqlite:///{tmp_path}/g.db", create_schema=True) as store:
        member = Member(store.database, Settings("agents", Secrets([SECRET]), 2), LEASE)
        member.balance()
        yield member
        member.close()


def run(capsys: pytest.CaptureFixture[str], folder: Path, *words: str, status: int = 0) -> str:
    assert main(["group", *words, "--db", f"sqlite:///{folder}/g.db"]) == status
    out, err = capsys.readouterr()
    assert (err != "") == (status != 0)
    return out or err


def test_show_says_who_holds_what(
    member: Member, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, tmp_path, "show", "agents")
    assert "group agents: 2 partitions of resource_id" in text
    id_ = member.sender.partition("-")[0]
    rows = [line.split() for line in text.splitlines()]
    assert ["0", id_, "1", "never"] in rows
    assert [row[0] for row in rows if row[-1:] == ["2"]] == [id_]
    document = json.loads(run(capsys, tmp_path, "show", "agents", "--json"))
    assert [one["member"] for one in document["held"]] == [int(id_)] * 2
    assert document["members"][0]["id"] == int(id_)


def test_list_counts(member: Member, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split() for line in run(capsys, tmp_path, "list").splitlines()]
    assert rows == [
        ["GROUP", "PARTITIONS", "KEY", "MEMBERS"],
        ["agents", "2", "resource_id", "1"],
    ]
    (document,) = json.loads(run(capsys, tmp_path, "list", "--json"))
    assert document["members"] == 1


def test_resize_and_delete(
    member: Member, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has 3 partitions" in run(capsys, tmp_path, "resize", "agents", "3")
    shown = run(capsys, tmp_path, "show", "agents")
    assert "2 partitions from before the resize still have work" in shown
    assert "1 (old)" in shown
    assert "stop them first" in run(capsys, tmp_path, "delete", "agents", status=2)
    member.close()
    assert "it has no members" in run(capsys, tmp_path, "show", "agents")
    assert run(capsys, tmp_path, "delete", "agents") == "group agents is deleted\n"
    assert run(capsys, tmp_path, "list") == "there are no groups\n"
    assert "there is no group 'agents'" in run(capsys, tmp_path, "show", "agents", status=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "x"], "converge group show x"),
        (["show"], "show needs the NAME"),
        (["resize", "x"], "needs a NAME and a number"),
        (["resize", "x", "0"], "1 to 1024"),
        (["show", "x", "3"], "unexpected argument '3'"),
    ],
)
def test_mistakes_are_explained(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in run(capsys, tmp_path, *words, status=2)


def test_without_a_database_there_are_no_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    assert main(["group", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["group", "show", "x"]) == 2
