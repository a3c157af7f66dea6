"""The type ``file``: what it writes, where, and with which permissions."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

import converge
from converge.errors import BadInput, Replace
from converge.resources.file import CONTENT_LENGTH, FileError, parse_mode
from converge.resources.resource_type import Real
from tests.unit.files import FILE, create, delete, make_context, permissions


def test_create_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    made = create(path, "é\r\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n"
    assert permissions(path) == 0o644
    assert made.id == str(path)
    assert made.attributes["path"] == str(path)
    assert made.attributes["size"] == 4
    assert made.attributes["sha256"] == hashlib.sha256(b"\xc3\xa9\r\n").hexdigest()
    assert os.listdir(tmp_path) == ["page.html"]


def test_the_content_defaults_to_nothing(tmp_path: Path) -> None:
    FILE.create(make_context(), {"path": str(tmp_path / "empty")})
    assert (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize(
    ("mode", "bits"),
    [
        (None, 0o644),
        ("0600", 0o600),
        ("755", 0o755),
        ("0o640", 0o640),
        ("4755", 0o4755),
        (0o644, 0o644),
        (0, 0),
    ],
)
def test_modes(mode: object, bits: int) -> None:
    assert parse_mode(mode) == bits


@pytest.mark.parametrize(
    "mode", ["", "rw-r--r--", "0888", "12", "00644", "-644", "0o", 644, 755, -1, True, 6.0, []]
)
def test_nonsense_modes_are_refused(mode: object, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a file mode; write octal digits in quotes"):
        create(tmp_path / "f", mode=mode)
    assert os.listdir(tmp_path) == []


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        create(tmp_path / "f", mode="0666")
    finally:
        os.umask(old)
    assert permissions(tmp_path / "f") == 0o666


@pytest.mark.parametrize("content", [1, None, True, {"a": 1}, ["x"]])
def test_content_other_than_a_string_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="content must be a string, not"):
        create(tmp_path / "f", content)


def test_content_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be written as UTF-8"):
        create(tmp_path / "f", "\ud800")


@pytest.mark.parametrize("path", ["", "a\0b", "folder/", ".", "..", "a/..", 3, None])
def test_paths_that_name_no_file_are_refused(path: Any) -> None:
    with pytest.raises(BadInput, match="path"):
        FILE.create(make_context(), {"path": path})


def test_a_path_too_long_for_a_physical_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at most 1024 are allowed"):
        create(tmp_path / ("long/" * 300) / "f")


def test_a_relative_path_is_made_absolute_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    made = create("sub/f", "1")
    assert made.id == str(tmp_path / "one/sub/f")
    monkeypatch.chdir(tmp_path / "two")
    properties = {"path": "sub/f", "content": "1"}
    again = FILE.update(make_context(), made.id, {**properties, "content": "2"}, properties)
    assert again.id == made.id
    assert (tmp_path / "one/sub/f").read_text() == "2"
    interrupted = make_context(physical_id=made.id, properties=properties)
    assert FILE.create(interrupted, properties).id == made.id
    delete(again)
    assert os.listdir(tmp_path / "two") == []


def test_parent_folders_are_created_and_stay(tmp_path: Path) -> None:
    made = create(tmp_path / "a/b/f")
    assert (tmp_path / "a/b/f").exists()
    delete(made)
    assert os.listdir(tmp_path / "a/b") == []


def test_a_parent_that_is_a_file_fails_clearly(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(FileError, match=r"the folder .*a/b' cannot be created"):
        create(tmp_path / "a/b/f")


def test_a_folder_in_its_place_fails_clearly(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(FileError, match=r"cannot write .*: Is a directory"):
        create(tmp_path / "f")
    assert os.listdir(tmp_path) == ["f"]


def test_the_physical_id_is_recorded_before_the_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "f"
    seen: list[tuple[str, bool]] = []
    context = make_context(record=lambda known: seen.append((known, path.exists())))
    FILE.create(context, {"path": str(path)})
    assert seen == [(str(path), False)]


def test_update_writes_content_and_mode_in_place(tmp_path: Path) -> None:
    made = create(tmp_path / "f", "1")
    previous = {"path": made.id, "content": "1"}
    again = FILE.update(
        make_context(), made.id, {"path": made.id, "content": "22", "mode": "0600"}, previous
    )
    assert again.id == made.id
    assert again.attributes["size"] == 2
    assert (tmp_path / "f").read_text() == "22"
    assert permissions(tmp_path / "f") == 0o600
    delete(again)
    assert os.listdir(tmp_path) == []


def test_update_with_another_path_replaces(tmp_path: Path) -> None:
    made = create(tmp_path / "f")
    with pytest.raises(Replace):
        FILE.update(make_context(), made.id, {"path": str(tmp_path / "g")}, {"path": made.id})
    # another way to write the same path is no other path
    roundabout = str(tmp_path / "sub/../f")
    assert FILE.update(make_context(), made.id, {"path": roundabout}, {"path": made.id})


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(tmp_path / "f", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"cannot write .*: No space left on device"):
        FILE.update(make_context(), made.id, {"path": made.id, "content": "new"}, {})
    assert (tmp_path / "f").read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_check_finds_what_is_not_as_it_should_be(tmp_path: Path) -> None:
    path = tmp_path / "f"
    properties = {"path": str(path), "content": "x"}
    create(path)
    FILE.check(make_context(), str(path), properties)
    path.chmod(0o600)
    with pytest.raises(FileError, match=r"mode of .* is 0600, not 0644"):
        FILE.check(make_context(), str(path), properties)
    path.write_text("y")
    with pytest.raises(FileError, match=r"content of .* was changed"):
        FILE.check(make_context(), str(path), properties)
    path.unlink()
    with pytest.raises(FileError, match=r"cannot read .*: No such file"):
        FILE.check(make_context(), str(path), properties)


def test_a_relative_path_starts_at_the_folder_of_the_template(tmp_path: Path) -> None:
    context = make_context(directory=str(tmp_path))
    made = FILE.create(context, {"path": "sub/f", "content": "x"})
    assert made.id == str(tmp_path / "sub" / "f")
    assert (tmp_path / "sub" / "f").read_text() == "x"
    # moved since: the file stays where it is
    moved = make_context(
        directory=str(tmp_path / "other"), physical_id=made.id, attributes=made.attributes
    )
    previous = {"path": "sub/f", "content": "x"}
    assert FILE.update(moved, made.id, {**previous, "content": "y"}, previous).id == made.id
    with pytest.raises(Replace):
        FILE.update(moved, made.id, {"path": "f"}, previous)


def test_read_finds_what_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "page"
    known = make_context(properties={"path": str(path), "content": "x", "mode": 0o600})
    create(path, mode=0o600)
    assert FILE.read(known, str(path)) == Real()
    path.write_text("another\n")
    assert FILE.read(known, str(path)) == Real({"content": "another\n"})
    path.write_bytes(b"\xff")
    path.chmod(0o644)
    found = FILE.read(known, str(path)).properties
    assert found["mode"] == "0644"
    assert found["content"].startswith("(1 bytes, not text, SHA-256 ")
    path.write_bytes(b"x" * (CONTENT_LENGTH + 1))
    assert FILE.read(known, str(path)).properties["content"] == "(more than 1048576 bytes)"
    path.unlink()
    with pytest.raises(converge.Gone, match="there is no file"):
        FILE.read(known, str(path))
