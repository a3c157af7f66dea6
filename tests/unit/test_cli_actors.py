"""Who is said to ask, on the command line."""

from __future__ import annotations

import getpass
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from converge.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    monkeypatch.delenv("CONVERGE_ACTOR", raising=False)
    (tmp_path / "s.yaml").write_text("resources: {a: {type: none}}\n", encoding="utf-8")
    return tmp_path


def _document(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_said_counts_before_the_variable_and_that_before_the_login(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    monkeypatch.setattr(socket, "gethostname", lambda: "build7")
    assert _document(capsys, "up", "s.yaml", "--no-wait")["actor"] == "ada@build7"
    monkeypatch.setenv("CONVERGE_ACTOR", "deploy 42")
    assert _document(capsys, "rollback", "s", "--to", "empty", "--no-wait")["actor"] == "deploy 42"
    words = ("down", "s", "--no-wait", "--actor", "Bob")
    assert _document(capsys, *words)["actor"] == "Bob"
    assert _document(capsys, "list")[0]["actor"] == "Bob"
    found = [one["actor"] for one in _document(capsys, "events", "s")]
    assert found == ["ada@build7", "deploy 42", "Bob"]
    assert main(["show", "s"]) == 0
    assert ", asked for by Bob\n" in capsys.readouterr().out
    assert main(["events", "s"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.endswith(", asked for by Bob")


def test_who_has_no_login_name_is_a_number(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def getuser() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", getuser)
    monkeypatch.setattr(socket, "gethostname", lambda: "build7")
    made = _document(capsys, "up", "s.yaml", "--no-wait")
    assert made["actor"] == f"{os.getuid()}@build7"


def test_who_cannot_be_shown_is_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 300)
    assert _document(capsys, "up", "s.yaml", "--no-wait")["actor"] is None
    assert main(["show", "s"]) == 0
    assert "asked for by" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "value", "message"),
    [
        (("--actor", ""), "x", "the name of an actor must not be empty"),
        ((), "a\tb", "CONVERGE_ACTOR: actor name 'a\\tb' has the unprintable character"),
    ],
)
def test_what_is_said_and_cannot_be_an_actor_starts_nothing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv("CONVERGE_ACTOR", value)
    assert main(["up", "s.yaml", "--no-wait", *words]) == 2
    assert message in capsys.readouterr().err
    assert main(["list"]) == 0
    assert capsys.readouterr().out == "no stacks\n"
