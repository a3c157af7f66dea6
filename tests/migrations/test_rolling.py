"""A rolling upgrade: engines of the schema version before go on while the tables are upgraded, and
beside those of this version. The version before is taken from git. Both leave alone what a version
to come has written in a format of its own."""

from __future__ import annotations

import configparser
import io
import json
import os
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import converge
from converge import formats
from converge.sql import migrate, schema_version
from tests import backends
from tests.acceptance.fleet import ON_SERVERS, wait_for
from tests.acceptance.shell import LIMIT, Shell

ROOT = Path(__file__).resolve().parents[2]
#: Each tells a file whose engine runs it. All but the first wait for another file.
TELL = "echo $WHO $CONVERGE_RESOURCE >> world"
FIRST = {"type": "command", "properties": {"create": TELL}}
NEXT = {
    "type": "command",
    "depends_on": "first",
    "properties": {"create": f"until [ -e go ]; do sleep 0.1; done; sleep 0.3; {TELL}"},
}
NAMES = ["first", *(f"n{number}" for number in range(11))]
FEW = NAMES[:3]


def template(names: Sequence[str]) -> str:
    return json.dumps({"resources": {one: FIRST if one == "first" else NEXT for one in names}})


def git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of converge as it was before the newest migration was added."""
    script = f"alembic/versions/{schema_version.HEAD}_*.py"
    try:
        added = git("log", "-1", "--diff-filter=A", "--format=%H", "--", script).decode().strip()
        # one that is not committed yet comes after all that is
        commit = f"{added}^" if added else "HEAD"
        archive = git("archive", commit, "converge", "alembic", "setup.cfg")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = f"there is no history of {script} in git: {error}"
        if backends.required():
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    name_types(folder)
    return folder


def name_types(folder: Path) -> None:
    """Make a converge in a folder known as an installed one, with its own resource types: those of
    the one that is installed may have come since."""
    declared = configparser.ConfigParser()
    declared.read(folder / "setup.cfg")
    info = folder / "converge-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: converge\nVersion: 0\n")
    groups = declared["options.entry_points"].items()
    (info / "entry_points.txt").write_text("".join(f"[{name}]{types}\n" for name, types in groups))


class Side(Shell):
    """Commands of one version, in the folder of both.

    :param who: what its engine's handlers call it.
    """

    def __init__(self, folder: Path, url: str, who: str, code: Path | None = None) -> None:
        super().__init__(folder)
        self.forks = code is None
        self.environment |= {"CONVERGE_DB": url, "CONVERGE_PASS_ENV": "WHO", "WHO": who}
        if code is not None:
            self.environment["PYTHONPATH"] = str(code)

    def made(self) -> list[str]:
        """What the handlers of this version's engine made."""
        world = self.folder / "world"
        lines = world.read_text().split("\n") if world.exists() else []
        who = self.environment["WHO"]
        return [line.split()[1] for line in lines if line.startswith(f"{who} ")]


@pytest.fixture
def old(tmp_path: Path, empty_database_url: str, previous: Path) -> Iterator[Side]:
    side = Side(tmp_path, empty_database_url, "old", previous)
    yield side
    side.end()


@pytest.fixture
def new(tmp_path: Path, empty_database_url: str) -> Iterator[Side]:
    side = Side(tmp_path, empty_database_url, "new")
    yield side
    side.end()


@pytest.fixture
def newer(tmp_path: Path, empty_database_url: str) -> Iterator[Side]:
    """A converge that is to come: it writes what this one and the one before do not understand."""
    folder = tmp_path / "newer"
    folder.mkdir()
    later = f"formats.KNOWN = formats.WRITTEN = {formats.KNOWN + 1}"
    (folder / "sitecustomize.py").write_text(f"from converge import formats\n{later}\n")
    side = Side(tmp_path, empty_database_url, "newer", folder)
    side.environment["PYTHONPATH"] += f"{os.pathsep}{ROOT}"
    yield side
    side.end()


@ON_SERVERS
def test_engines_of_two_versions_work_side_by_side(
    old: Side, new: Side, newer: Side, empty_database_url: str
) -> None:
    for name, names in {"a": NAMES, "b": NAMES, "c": FEW, "d": FEW}.items():
        old.write(f"{name}.yaml", template(names))
    old.run("db", "upgrade")
    assert migrate.current(empty_database_url) == schema_version.VERSIONS[-2]
    old.run("up", "a.yaml", "--no-wait")
    old.start("engine", "--workers", "2")
    wait_for(old.made, "the engine of the old version at work")
    new.run("db", "upgrade")
    assert migrate.current(empty_database_url) == schema_version.HEAD
    # with handlers that began before, and what it had prepared for the old tables
    old.write("go", "")
    with converge.connect(empty_database_url) as store:
        assert store.stack("a").wait(timeout=LIMIT) == "COMPLETE"
        assert sorted(old.made()) == sorted(NAMES)
        new.start("engine", "--workers", "2")
        wait_for(lambda: len(store.engines()) == 2, "both engines")
        new.run("up", "b.yaml", "--no-wait")
        assert store.stack("b").wait(timeout=LIMIT) == "COMPLETE"
        # of a stack that the new version has started, both did a part, and each node was done once
        assert len(old.made()) > len(NAMES)
        assert new.made()
        assert Counter(old.made() + new.made()) == Counter(2 * NAMES)

        # what neither understands, both leave alone while they do what comes after it
        newer.run("up", "c.yaml", "--no-wait")
        new.run("up", "d.yaml", "--no-wait")
        assert store.stack("d").wait(timeout=LIMIT) == "COMPLETE"
        assert Counter(old.made() + new.made()) == Counter(2 * NAMES + FEW)
        (answer, *_) = store.why("c")
        assert answer["message"].endswith(
            f"waits for an engine that knows format {formats.KNOWN + 1}; none is alive"
        )
        _, err = new.run("rollback", "c", status=2)
        assert "upgrade it" in err
        newer.start("engine", "--workers", "2")
        assert store.stack("c").wait(timeout=LIMIT) == "COMPLETE"
    assert Counter(newer.made()) == Counter(FEW)
