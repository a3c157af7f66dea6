"""The type ``file`` in a process that is killed."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from converge.model import Physical
from converge.resources import file as file_module
from converge.resources.file import FileError
from tests.unit.files import FILE, create, delete, make_context


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
    with pytest.raises(FileError, match="it already exists"):
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
