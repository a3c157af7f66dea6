"""Who can read and write the file of an SQLite database, and those that SQLite puts beside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import converge


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(store: converge.Store, path: Path) -> set[int]:
    """Of the file and of what is beside it while a transaction writes."""
    with store.transaction() as tx:
        store.create_stack("s", converge.Template.parse("resources: {}"), transaction=tx)
        files = [path.with_name(path.name + end) for end in ("", "-wal", "-shm")]
        return {stat.S_IMODE(one.stat().st_mode) for one in files}


@pytest.mark.parametrize("url", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
def test_a_new_file_is_its_owners_alone(url: str, tmp_path: Path) -> None:
    path = tmp_path / "a b.db"
    store = converge.connect(url.format(path), create_schema=True)
    assert modes(store, path) == {0o600}
    store.close()


def test_the_file_that_a_link_leads_to_is_its_owners_alone(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "real.db")
    store = converge.connect(f"sqlite:///{link}", create_schema=True)
    assert modes(store, tmp_path / "real.db") == {0o600}
    store.close()


def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch()
    path.chmod(0o660)
    store = converge.connect(f"sqlite:///{path}", create_schema=True)
    assert modes(store, path) == {0o660}
    store.close()
