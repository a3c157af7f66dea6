"""What a command imports: a person who only looks does not wait for what only engines need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import converge
from converge.testing import FakeWorld, StepEngine
from tests.templates import template

#: What no command that reads imports, on SQLite.
UNUSED = {
    "alembic",
    "oslo_config",
    "oslo_db",
    "oslo_log",
    "oslo_messaging",
    "oslo_utils",
    "psycopg",
    "pymysql",
    "redis",
    "retrying",
    "rich",
    "sqlalchemy.dialects.mysql",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.orm",
    "stevedore",
}
#: Nor that is about stacks.
OF_WHO_STARTS = {"converge.engine", "converge.protocol.start", "converge.store"}
#: Nor that shows rows only.
OF_TEMPLATES = {"converge.template", "yaml"}

#: Nor an ``up`` with nothing to do: it starts no engine, nor has it anything to tell others.
OF_WHO_WORKS = {
    "converge.bus.shared",
    "converge.engine",
    "converge.inspection.why",
    "converge.journal",
    "converge.lease",
    "converge.protocol.adopt",
    "converge.protocol.call",
    "converge.protocol.claim",
    "converge.protocol.complete",
    "converge.protocol.halt",
    "converge.protocol.prune",
    "converge.protocol.recover",
    "converge.protocol.signal",
}

PROGRAM = """
import sys
from converge.cli import main
assert main(sys.argv[1:]) == 0
print(*sys.modules, sep="\\n", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with a stack."""
    url = f"sqlite:///{tmp_path_factory.mktemp('imports')}/a.db"
    with converge.connect(url, create_schema=True) as store:
        store.create_stack("shop", template({"a": []}))
        StepEngine(store, FakeWorld().types()).run()
    return url


def imported_by(command: Sequence[str]) -> set[str]:
    """The modules that a command imports, in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(converge.__file__).parents[1])},
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stderr.splitlines())


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("command", "unused"),
    [
        ("list", UNUSED | OF_WHO_STARTS | OF_TEMPLATES),
        ("list --json", UNUSED | OF_WHO_STARTS | OF_TEMPLATES),
        ("events shop", UNUSED | OF_WHO_STARTS | OF_TEMPLATES),
        ("why", UNUSED | OF_WHO_STARTS | OF_TEMPLATES),
        ("why shop", UNUSED | OF_WHO_STARTS | OF_TEMPLATES),
        ("engines", UNUSED | OF_WHO_STARTS | OF_TEMPLATES),
        ("show shop", UNUSED | OF_WHO_STARTS),
        ("graph shop", UNUSED | OF_WHO_STARTS),
        ("machine list", UNUSED),
        ("journal list", UNUSED - {"stevedore"}),
        # without a file or a format of logs
        ("engine --until-idle", {"opentelemetry", "oslo_config", "oslo_log", "prometheus_client"}),
    ],
)
def test_a_command_that_reads_imports_nothing_else(
    url: str, command: str, unused: set[str]
) -> None:
    imported = imported_by([*command.split(), "--db", url])
    assert "sqlalchemy.dialects.sqlite" in imported
    assert unused & imported == set()


@pytest.mark.sqlite
def test_an_up_with_nothing_to_do_imports_nothing_that_works(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(
        "resources:\n  a: {type: value, properties: {value: 1}}\n"
        "outputs:\n  a: {value: {get_attr: [a, value]}}\n"
    )
    up = ["up", str(file), "--db", f"sqlite:///{tmp_path}/a.db"]
    with converge.connect(up[-1], create_schema=True):
        first = imported_by(up)
    assert {"converge.engine", "converge.protocol.complete"} <= first
    assert (UNUSED | OF_WHO_WORKS) & imported_by(up) == set()
