"""Fixtures for all tests: the databases, and the report of which of them were used."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import backends

if TYPE_CHECKING:
    from converge import Store
    from converge.testing import FakeClock
    from tests.stores import Stores

Found = dict[str, tuple[str | None, str]]
FOUND = pytest.StashKey[Found]()

_NAMES = [
    pytest.param(name, marks=[pytest.mark.database, getattr(pytest.mark, name)])
    for name in backends.NAMES
]


# -- fixtures ----------------------------------------------------------------


@pytest.fixture(params=_NAMES)
def database(request: pytest.FixtureRequest, _databases: dict[str, backends.Backend]) -> Any:
    """The :class:`tests.backends.Backend` that the test runs on: once for each that answers."""
    return _databases[request.param]


@pytest.fixture
def database_url(database: backends.Backend) -> str:
    """The URL of a database with converge's schema and no rows; on each backend."""
    return database.migrated()


@pytest.fixture
def empty_database_url(database: backends.Backend) -> Iterator[str]:
    """The URL of a new database without any table, for tests of the schema; on each backend."""
    url = database.empty()
    yield url
    database.discard(url)


@pytest.fixture
def fresh_store(database: backends.Backend, _stores: Stores) -> Callable[..., Store]:
    """Gives an open store without rows, on each backend; takes the clock, if not the database's.

    It is kept open and emptied for the next, so a test that hurts it wants ``database_url``.
    """
    return lambda clock=None: _stores.fresh(database, clock)


@pytest.fixture
def clock() -> FakeClock:
    """What tells a store the time."""
    from converge.testing import FakeClock

    return FakeClock()


@pytest.fixture
def store(fresh_store: Callable[..., Store], clock: FakeClock) -> Store:
    """An open store without rows, whose time stands still; on each backend."""
    return fresh_store(clock)


@pytest.fixture(scope="session")
def _stores(_databases: dict[str, backends.Backend]) -> Iterator[Stores]:
    # only tests that use a database need converge
    from tests.stores import Stores

    stores = Stores()
    yield stores
    stores.close()


@pytest.fixture(scope="session")
def _databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, backends.Backend]]:
    known = backends.backends(tmp_path_factory.mktemp("databases"))
    yield known
    for backend in known.values():
        backend.close()


# -- which tests are run -----------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tests can be asked for by their subject."""
    parser.addoption("--about", metavar="SUBJECT", help="run the tests of one: tests/subjects.yaml")


def _entries(config: pytest.Config) -> list[str] | None:
    """The entries of the subject that is asked for, if one is."""
    from tests import subjects

    about = config.option.about
    if about is None:
        return None
    known = subjects.read()
    if about not in known:
        raise pytest.UsageError(f"--about: there is no {about!r}, but {', '.join(known)}")
    return known[about]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not read files that are about something else."""
    from tests import subjects

    entries = _entries(config)
    if entries is None or collection_path.suffix != ".py":
        return None
    return collection_path not in map(subjects.file_of, entries) or None


# -- which backends are run --------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """See which backends answer; end the session at once if a required one does not."""
    from hypothesis import settings

    # how long a test takes is measured in benchmarks
    settings.register_profile("converge", deadline=None)
    settings.load_profile("converge")

    if hasattr(config, "workerinput"):  # a process of pytest-xdist: its parent has looked
        config.stash[FOUND] = config.workerinput["converge_backends"]
        return
    try:
        required = backends.required()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        known = backends.backends(Path(folder))
        found = config.stash[FOUND] = backends.survey(known)
    missing = [name for name in required if found[name][0] is None]
    if missing:
        lines = [f"{backends.REQUIRE} asks for databases that cannot be used:"]
        for name in missing:
            lines += [f"  {name}: {found[name][1]}", f"    it needs {known[name].needs}"]
        raise pytest.UsageError("\n".join(lines))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist what was found, so that all collect the same tests."""
    node.workerinput["converge_backends"] = node.config.stash[FOUND]


def pytest_sessionstart() -> None:
    """Collect no garbage while tests are: a fifth of the fast tests' time went into that, as Python
    looks through all of them again and again."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage from now on, but none of what is there."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run here, what is about something else than is asked for, and the
    slow wheel check unless it is asked for."""
    from tests import subjects

    found = config.stash[FOUND]
    absent = {name.replace("-", "_") for name, (version, _) in found.items() if version is None}
    if "wheel" not in config.option.markexpr:
        absent.add("wheel")
    entries = _entries(config)
    out = [
        item
        for item in items
        if any(item.get_closest_marker(name) for name in absent)
        or (
            entries is not None
            and not any(subjects.has(entry, item.path, item.name) for entry in entries)
        )
    ]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in set(out)]


def _report(config: pytest.Config) -> list[str]:
    found = config.stash[FOUND]
    run = [f"{name} {version}" for name, (version, _) in found.items() if version is not None]
    lines = [f"databases: {', '.join(run)}"]
    lines += [
        f"database NOT run: {name}: {reason}"
        for name, (version, reason) in found.items()
        if version is None
    ]
    return lines


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say at the start which databases the tests run on, and which not, and why."""
    return _report(config)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say at the end, too, if something did not run on every database."""
    lines = _report(config)
    if len(lines) > 1:
        terminalreporter.section("databases")
        for line in lines:
            terminalreporter.line(line)
