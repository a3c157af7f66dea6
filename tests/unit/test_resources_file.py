from __future__ import annotations

import errno
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from converge.errors import BadInput, Replace
from converge.model import Physical
from converge.resources import file as file_module
from converge.resources.file import File, FileError, parse_mode
from converge.resources.resource_type import Context

FILE = File()


def make_context(**known: Any) -> Context:
    tokens = {"resource_token": "token-1", "stack_token": "1-a"}
    return Context("shop", "page", **{"token": "token-1", **tokens, **known})


def create(
    path: Path | str, content: str = "x", by: str = "token-1", **properties: Any
) -> Physical:
    """:param by: the token of the resource."""
    context = make_context(resource_token=by)
    made = FILE.create(context, {"path": str(path), "content": content, **properties})
    assert isinstance(made, Physical)
    return made


def update(made: Physical, content: str, by: str = "token-1", **properties: Any) -> Physical:
    wanted = {"path": made.id, "content": content, **properties}
    known = make_context(physical_id=made.id, attributes=made.attributes, resource_token=by)
    return FILE.update(known, made.id, wanted, wanted)


def delete(made: Physical, properties: dict[str, Any] | None = None, by: str = "token-1") -> None:
    known = make_context(
        physical_id=made.id,
        attributes=made.attributes,
        properties=properties or {},
        resource_token=by,
    )
    FILE.delete(known, made.id)


@pytest.fixture(params=["marks", "no marks", "no marks, no links"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with all that is needed, or without extended attributes, or hard links too."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    missing = {"marks": [], "no marks": ["getxattr", "setxattr"]}
    for name in missing.get(request.param, ["getxattr", "setxattr", "link"]):
        monkeypatch.setattr(os, name, refuse)
    return str(request.param)


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o7777


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
    with pytest.raises(FileError, match=r"cannot delete .*: it is a directory now"):
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
    with pytest.raises(FileError, match=r"f': it is there already, .* adopt: true"):
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
    with pytest.raises(FileError, match=r"it is there already|was put there meanwhile"):
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
    with pytest.raises(FileError, match="what is there is no file"):
        create(tmp_path / "f", adopt=True)
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.usefixtures("system")
def test_a_file_that_somebody_put_in_its_place_is_not_written_nor_deleted(tmp_path: Path) -> None:
    path = tmp_path / "f"
    made = create(path, "1")
    (tmp_path / "new").write_text("precious")
    (tmp_path / "new").rename(path)
    with pytest.raises(FileError, match="it is there already"):
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


class Killed(BaseException):
    """What ends a handler at a call, as a SIGKILL would."""


CALLS = ["mkstemp", "setxattr", "fchmod", "fsync", "link", "replace", "unlink", "_sync_directory"]


@pytest.mark.parametrize("then", ["again", "newer", "delete", "leave"])
@pytest.mark.parametrize("there", [None, "foreign", "old", "own"])
def test_a_write_that_was_interrupted(there: str | None, then: str, tmp_path: Path) -> None:
    """Whichever call is the last one, done or not: nothing of others is lost, nothing stays."""
    for number in range(1, 20):
        for done in (False, True):
            folder = tmp_path / f"{number} {done}"
            folder.mkdir()
            if not interrupt(folder / "f", there, number, done, then):
                assert number > 6
                return
    pytest.fail("it is never over")


def interrupt(path: Path, there: str | None, number: int, done: bool, then: str) -> bool:
    """Write a file and die at a call; then go on.

    :param there: what is there before: nothing, a foreign file, one of the stack, the own one.
    :param done: whether the call is done.
    :returns: whether there is such a call.
    """
    wanted = {"path": str(path), "content": "new", "adopt": there == "foreign"}
    known: dict[str, Any] = {"resource_token": "me"}
    old = None
    if there == "foreign":
        path.write_text("foreign")
    elif there == "old":
        old = create(path, "old", by="old")
    elif there == "own":
        made = create(path, "own", by="me")
        known |= {"physical_id": made.id, "attributes": made.attributes}
        known["properties"] = {"path": made.id, "content": "own"}

    def work(wanted: dict[str, Any], **more: Any) -> Physical:
        context = make_context(**known, **more)
        if there == "own":
            return FILE.update(context, str(path), wanted, known["properties"])
        made = FILE.create(context, wanted)
        assert isinstance(made, Physical)
        return made

    def record(physical_id: str | None) -> None:
        known.update(physical_id=physical_id, properties=wanted)

    with dying_at(number, done) as died:
        work(wanted, record=record)
    if not died:
        return False
    if there is not None:
        # whoever reads it finds one of the two
        assert path.read_text() in (there, "new")

    left = [one for one in os.listdir(path.parent) if one.startswith(".converge-")]
    for one in left:
        if not one.startswith(".converge-kept-"):
            # a crash leaves the temporary file
            (path.parent / one).unlink()
    if then in ("again", "newer"):
        content = {"again": "new", "newer": "newer"}[then]
        made = work({**wanted, "content": content}, record=record)
        assert path.read_text() == content
        known["attributes"] = made.attributes
        known.update(physical_id=made.id, properties={**wanted, "content": content})
    if "physical_id" in known:
        if then == "leave":
            there_now = path.read_text() if path.exists() else None
            known["properties"] = {**known["properties"], "on_delete": "leave"}
        FILE.delete(make_context(**known), str(path))
        if then == "leave":
            assert (path.read_text() if path.exists() else None) == there_now
            path.unlink(missing_ok=True)
    if old is not None and then != "leave":
        assert path.read_text() == "old"
        delete(old, by="old")
    elif there == "foreign" and then != "leave":
        assert path.read_text() == "foreign"
        path.unlink()
    assert then == "leave" or os.listdir(path.parent) == []
    return True


@contextmanager
def dying_at(number: int, done: bool) -> Iterator[list[bool]]:
    """Die at a call of a function of the system, and do nothing more from then on."""
    died: list[bool] = []
    calls = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:

        def stub(real: Any) -> Any:
            def call(*args: Any, **options: Any) -> Any:
                if died:
                    raise Killed
                if next(calls) == number:
                    if done:
                        real(*args, **options)
                    died.append(True)
                    raise Killed
                return real(*args, **options)

            return call

        for one in CALLS:
            module = {"mkstemp": tempfile, "_sync_directory": file_module}.get(one, os)
            patch.setattr(module, one, stub(getattr(module, one)))
        with suppress(Killed):
            yield died


@pytest.mark.usefixtures("system")
def test_a_create_that_was_interrupted_knows_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "f"
    properties = {"path": str(path), "content": "mine"}
    create(path, "mine")
    interrupted = make_context(physical_id=str(path), properties=properties)
    FILE.create(interrupted, properties)
    FILE.delete(interrupted, str(path))
    assert not path.exists()
    path.write_text("was not there before")
    with pytest.raises(FileError, match="it is there already"):
        FILE.create(interrupted, properties)
    FILE.delete(interrupted, str(path))
    assert path.read_text() == "was not there before"


def test_a_create_with_a_new_definition_removes_what_the_old_one_wrote(tmp_path: Path) -> None:
    old = {"path": str(tmp_path / "old"), "content": "1"}
    new = {"path": str(tmp_path / "new"), "content": "1"}
    create(old["path"], "1")
    recorded: list[str] = []
    context = make_context(physical_id=old["path"], properties=old, record=recorded.append)
    assert FILE.create(context, new).id == new["path"]
    assert recorded == [new["path"]]
    assert os.listdir(tmp_path) == ["new"]


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


@pytest.mark.parametrize("way", ["elsewhere", "inside-x", "link", "dangling", "up"])
def test_files_can_be_confined_to_folders(way: str, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside, tmp_path / "inside-x"):
        folder.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "dangling").symlink_to(tmp_path / "nowhere")
    path = {
        "elsewhere": outside / "f",
        "inside-x": tmp_path / "inside-x" / "f",
        "link": inside / "link" / "f",
        "dangling": inside / "dangling" / "f",
        "up": inside / ".." / "outside" / "f",
    }[way]
    absolute = os.path.abspath(path)
    confined = File(roots=[inside])
    properties = {"path": str(path), "content": "x"}
    recorded: list[str] = []
    with pytest.raises(FileError, match=r"cannot write .* is outside of"):
        confined.create(make_context(record=recorded.append), properties)
    assert not recorded
    assert not os.path.lexists(path)

    # it was made before the engine was confined, or the folder became a link since then
    (tmp_path / "nowhere").mkdir()
    made = FILE.create(make_context(), properties)
    context = make_context(physical_id=absolute, attributes=made.attributes, properties=properties)
    with pytest.raises(FileError, match="cannot write"):
        confined.update(context, absolute, {**properties, "content": "y"}, properties)
    with pytest.raises(FileError, match="cannot read"):
        confined.check(context, absolute, properties)
    with pytest.raises(FileError, match="cannot delete"):
        confined.delete(context, absolute)
    assert Path(path).read_text() == "x"


def test_within_its_folders_a_confined_file_is_as_any_other(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    (inside / "real").mkdir(parents=True)
    (inside / "link").symlink_to(inside / "real")
    (tmp_path / "way").symlink_to(inside)
    confined = File(roots=[tmp_path / "way"])
    for place in (inside / "f", inside / "new" / "f", inside / "link" / "f", tmp_path / "way/g"):
        properties = {"path": str(place), "content": "x"}
        made = confined.create(make_context(), properties)
        context = make_context(
            physical_id=made.id, attributes=made.attributes, properties=properties
        )
        confined.check(context, made.id, properties)
        confined.update(context, made.id, properties, properties)
    # the last name can be a link to a secret
    place.unlink()
    place.symlink_to("/etc/hostname")
    with pytest.raises(FileError, match="leads to '/etc/hostname', which is outside"):
        confined.check(context, made.id, properties)
    confined.delete(context, made.id)
    assert place.is_symlink()


def test_what_files_are_confined_to_must_be_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for roots in ([tmp_path / "none"], [tmp_path / "file"], [""], str(tmp_path), [1]):
        with pytest.raises(BadInput, match="roots"):
            File(roots=roots)  # type: ignore[arg-type]
