"""The type ``file`` beside files of others: what it refuses, adopts, takes over and deletes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converge.errors import BadInput
from converge.resources.file import FileError
from tests.unit.files import FILE, create, delete, make_context, permissions, update


def test_a_link_in_its_place_is_not_deleted(tmp_path: Path, system: str) -> None:
    (tmp_path / "target").write_text("precious")
    made = create(tmp_path / "f", "new")
    (tmp_path / "f").unlink()
    (tmp_path / "f").symlink_to("target")
    # file systems may give it the inode of what was there
    inode = (tmp_path / "f").lstat().st_ino
    identity = str(made.attributes["identity"]).partition("/")[2]
    for attributes in ({}, {"identity": f"{inode}/{identity}"}):
        delete(replace(made, attributes={**made.attributes, **attributes}))
        assert (tmp_path / "target").read_text() == "precious"
        assert (tmp_path / "f").is_symlink()


def test_a_new_file_with_the_inode_of_the_old_one_is_another(tmp_path: Path) -> None:
    made = create(tmp_path / "f", "new")
    (tmp_path / "f").unlink()
    (tmp_path / "f").write_text("precious")
    identity = f"{(tmp_path / 'f').stat().st_ino}/1"
    delete(replace(made, attributes={**made.attributes, "identity": identity}))
    assert (tmp_path / "f").read_text() == "precious"


def test_deleting_what_is_gone_is_no_error(tmp_path: Path) -> None:
    made = create(tmp_path / "a/f")
    delete(made)
    delete(made)
    (tmp_path / "a").rmdir()
    delete(made)
    (tmp_path / "a").write_text("")
    delete(made)


def test_deleting_when_a_folder_took_its_place_fails_clearly(tmp_path: Path) -> None:
    made = create(tmp_path / "f")
    (tmp_path / "f").unlink()
    (tmp_path / "f").mkdir()
    with pytest.raises(FileError, match=r"cannot delete .*: it is a folder now"):
        delete(made)


def test_a_file_edited_in_place_is_deleted(tmp_path: Path) -> None:
    made = create(tmp_path / "f")
    (tmp_path / "f").write_text("edited by hand")
    delete(made)
    assert os.listdir(tmp_path) == []


def test_a_file_that_was_moved_to_another_disk_is_deleted(tmp_path: Path) -> None:
    made = create(tmp_path / "f")
    modified = (tmp_path / "f").stat().st_mtime_ns
    (tmp_path / "f").rename(tmp_path / "kept")
    (tmp_path / "f").write_text("x")
    os.utime(tmp_path / "f", ns=(modified, modified))
    delete(made)
    assert os.listdir(tmp_path) == ["kept"]


# -- what others made


@pytest.mark.parametrize("there", ["file", "same", "link", "dangling", "of another stack"])
@pytest.mark.usefixtures("system")
def test_what_is_there_is_refused_and_left(there: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    (tmp_path / "target").write_text("precious")
    if there.endswith(("link", "dangling")):
        path.symlink_to("target" if there == "link" else "nowhere")
    elif there == "of another stack":
        FILE.create(make_context(stack_token="1-b"), {"path": str(path), "content": "x"})
    else:
        path.write_text("x" if there == "same" else "precious")
    before = (os.lstat(path), os.listdir(tmp_path))
    recorded: list[Any] = []
    context = make_context(record=recorded.append)
    with pytest.raises(FileError, match=r"f': it already exists, .* adopt: true"):
        FILE.create(context, {"path": str(path), "content": "x"})
    assert recorded == []
    assert (os.lstat(path), os.listdir(tmp_path)) == before
    assert (tmp_path / "target").read_text() == "precious"


@pytest.mark.parametrize("at", ["fsync", "link"])
def test_what_came_between_is_refused_and_left(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    recorded: list[Any] = []
    real = getattr(os, at)

    def come_between(*arguments: Any) -> None:
        path.write_text("x")
        real(*arguments)

    monkeypatch.setattr(os, at, come_between)
    context = make_context(record=recorded.append)
    with pytest.raises(FileError, match=r"it already exists|was put there in the meantime"):
        FILE.create(context, {"path": str(path), "content": "x"})
    assert recorded == [str(path), None]
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("there", ["file", "link"])
@pytest.mark.usefixtures("system")
def test_what_is_adopted_is_put_back_by_delete(there: str, tmp_path: Path) -> None:
    path, target = tmp_path / "f", tmp_path / "target"
    target.write_text("precious")
    path.symlink_to("target")
    if there == "file":
        path.unlink()
        path.write_text("precious")
        path.chmod(0o640)
    before = os.lstat(path)
    made = create(path, "1", adopt=True)
    assert not path.is_symlink()
    assert path.read_text() == "1"
    assert permissions(path) == 0o644
    made = update(made, "2", adopt=True)
    assert path.read_text() == "2"
    assert Path(str(made.attributes["original"])).read_text() == "precious"
    for _ in range(2):
        delete(made, {"path": made.id, "content": "2"})
        after = os.lstat(path)
        assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (
            before.st_ino,
            before.st_mode,
            before.st_mtime_ns,
        )
        assert path.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["f", "target"]


@pytest.mark.parametrize("adopted", [True, False])
@pytest.mark.usefixtures("system")
def test_a_delete_can_leave_what_is_there(adopted: bool, tmp_path: Path) -> None:
    path = tmp_path / "f"
    if adopted:
        path.write_text("before")
    made = create(path, "1", adopt=True)
    for _ in range(2):
        delete(made, {"path": made.id, "content": "1", "on_delete": "leave"})
        assert path.read_text() == "1"
        assert os.listdir(tmp_path) == ["f"]


def test_on_delete_is_one_of_two(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="on_delete must be restore or leave, not 'keep'"):
        create(tmp_path / "f", on_delete="keep")
    assert os.listdir(tmp_path) == []


def test_what_is_no_file_is_not_adopted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    with pytest.raises(FileError, match="it exists and is not a file"):
        create(tmp_path / "f", adopt=True)
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.usefixtures("system")
def test_a_file_that_somebody_put_in_its_place_is_not_written_nor_deleted(tmp_path: Path) -> None:
    path = tmp_path / "f"
    made = create(path, "1")
    (tmp_path / "new").write_text("precious")
    (tmp_path / "new").rename(path)
    with pytest.raises(FileError, match="it already exists"):
        update(made, "2")
    delete(made, {"path": made.id, "content": "1"})
    assert path.read_text() == "precious"
    # said so, it is kept, and put back
    made = update(made, "2", adopt=True)
    assert path.read_text() == "2"
    (tmp_path / "new").write_text("precious, too")
    (tmp_path / "new").rename(path)
    with pytest.raises(FileError, match="move one of the two away"):
        update(made, "3", adopt=True)
    delete(made, {"path": made.id, "content": "2"})
    assert path.read_text() == "precious, too"
    # what was kept is not lost with what took its place
    path.unlink()
    delete(made, {"path": made.id, "content": "2"})
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["f"]


def test_a_file_that_is_gone_is_written_again(tmp_path: Path) -> None:
    made = create(tmp_path / "f", "1")
    (tmp_path / "f").unlink()
    update(made, "2")
    assert (tmp_path / "f").read_text() == "2"


# -- of the same stack


@pytest.mark.parametrize("before", [None, "before"])
@pytest.mark.parametrize("content", ["same", "other"])
@pytest.mark.parametrize("first", ["old", "new"])
def test_a_renamed_resource_takes_the_file_over(
    tmp_path: Path, content: str, first: str, before: str | None
) -> None:
    path = tmp_path / "f"
    if before is not None:
        path.write_text(before)
    old = create(path, "same", by="old", adopt=before is not None)
    new = create(path, content, by="new")
    assert path.read_text() == content
    if first == "new":
        # a rollback
        delete(new, by="new")
        assert path.read_text() == "same"
        old = update(old, "more", by="old")
        assert path.read_text() == "more"
        delete(old, by="old")
    else:
        delete(old, by="old")
        assert path.read_text() == content
        delete(new, by="new")
    assert (path.read_text() if path.exists() else None) == before
    assert os.listdir(tmp_path) == ([] if before is None else ["f"])


def test_a_file_that_was_taken_over_is_updated_where_it_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "f"
    old, new = create(path, "1", by="old"), create(path, "2", by="new")
    newest = create(path, "3", by="newest")
    old = update(old, "4", by="old")
    assert path.read_text() == "3"
    delete(newest, by="newest")
    assert path.read_text() == "2"
    delete(new, by="new")
    assert path.read_text() == "4"
    delete(old, by="old")
    assert os.listdir(tmp_path) == []


def test_one_is_deleted_while_another_takes_its_file_over(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("precious")
    for number in range(20):
        old = create(path, "1", by=f"old {number}", adopt=True)
        with ThreadPoolExecutor(2) as pool:
            making = pool.submit(create, path, "2", by=f"new {number}", adopt=True)
            pool.submit(delete, old, by=f"old {number}").result()
        assert path.read_text() == "2"
        delete(making.result(), by=f"new {number}")
        assert path.read_text() == "precious"
        assert os.listdir(tmp_path) == ["f"]


# -- what was interrupted
