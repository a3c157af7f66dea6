"""Escapes, tables, JSON and files."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import pytest

from converge.cli.output import duration, shown, write_file, write_json, write_table
from converge.errors import BadInput
from converge.escaping import escape, quoted


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain name", "plain name"),
        ("Größe 漢字 🙂", "Größe 漢字 🙂"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u2028b", "a\\u2028b"),
        ("\ud800", "\\ud800"),
        ("[bold]no markup[/]", "[bold]no markup[/]"),
        (17, "17"),
    ],
)
def test_unprintable_characters_are_escaped(text: object, safe: str) -> None:
    assert escape(text) == safe


@pytest.mark.parametrize(
    ("name", "item"), [("a-b_c.1", "a-b_c.1"), ("a b", '"a b"'), ('a"b', '"a\\"b"'), ("", '""')]
)
def test_names_that_could_be_misread_are_quoted(name: str, item: str) -> None:
    assert quoted(name) == item


def test_values_are_shown_in_one_line() -> None:
    assert shown("a\nb") == "a\\nb"
    assert shown({"port": 80, "é": [None, True]}) == '{"port": 80, "é": [null, true]}'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3600, "1 h 00 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_piped_table_is_plain_and_complete() -> None:
    stream = io.StringIO()
    write_table(["name", "status"], [["a" * 200, "COMPLETE"], ["b\n", None]], stream)
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == ["NAME", "STATUS"]
    assert lines[1] == "a" * 200 + "  COMPLETE"
    assert lines[2] == "b\\n"


def test_a_row_is_one_line_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    terminal, long = Terminal(), "x" * 100
    write_table(("name",), [[long]], terminal, wide=True)
    assert terminal.getvalue() == f"NAME\n{long}\n"
    write_table(("name",), [[long]], terminal)
    assert f"{long}\n" not in terminal.getvalue().partition("\n")[2].partition("\n")[2]


def test_a_terminal_table_has_no_markup_from_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    write_table(["name", "status"], [["[red]x[/red] :smile: \x1b[5m", "FAILED"]], stream)
    assert "[red]x[/red] :smile: \\x1b[5m" in stream.getvalue()


def test_an_empty_table_has_its_headers() -> None:
    stream = io.StringIO()
    write_table(["name"], [], stream)
    assert stream.getvalue() == "NAME\n"


def test_json_is_ascii() -> None:
    stream = io.StringIO()
    write_json({"é": "\x9b"}, stream)
    assert stream.getvalue().isascii()
    assert json.loads(stream.getvalue()) == {"é": "\x9b"}


def test_a_file_is_written_with_the_usual_mode(tmp_path: Path) -> None:
    path = tmp_path / "graph.svg"
    mask = os.umask(0o022)
    try:
        write_file(path, "é\n")
    finally:
        os.umask(mask)
    assert path.read_text(encoding="utf-8") == "é\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_file_that_is_replaced_keeps_its_mode_and_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_file(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="it is a folder"):
        write_file(tmp_path, "")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot write .*nowhere/x: No such file"):
        write_file(tmp_path / "nowhere" / "x", "")


def test_a_device_is_written_to() -> None:
    write_file("/dev/null", "text")
    assert not Path("/dev/null").is_file()
