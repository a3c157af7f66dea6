"""The database of a command: which it is, and whether there is one."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from converge.errors import NotFound
from converge.model import DEFAULT_FILE, DEFAULT_URL

if TYPE_CHECKING:
    from converge.inspection.queries import Queries
    from converge.store import Store


def database_url(arguments: Namespace) -> str | None:
    """The URL that was given, None for the default."""
    return arguments.db or os.environ.get("CONVERGE_DB") or None


@contextmanager
def opened(arguments: Namespace, *, create: bool = False) -> Iterator[Store]:
    """The store. Only the default database is created, and only if ``create``.

    :raises NotFound: the default database does not exist, and ``create`` is false.
    """
    store = connect(arguments, create=create)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def readable(arguments: Namespace) -> Iterator[Queries]:
    """What can be read of the database, for commands that do nothing else: the store, which starts
    stacks, takes longer to import than what they do.

    :raises NotFound: the default database does not exist.
    """
    from converge.inspection.queries import Queries
    from converge.sql.open_database import open_database

    url = _existing(arguments)
    database = open_database(url or DEFAULT_URL, create_schema=url is None, read_only=True)
    try:
        yield Queries(database)
    finally:
        database.close()


def connect(arguments: Namespace, *, create: bool = False) -> Store:
    """Open the store; see :func:`opened`."""
    import converge
    from converge.bus.urls import uses_oslo

    url = database_url(arguments) if create else _existing(arguments)
    bus = arguments.bus or os.environ.get("CONVERGE_BUS") or None
    if bus is not None and uses_oslo(bus):
        # what a program may decide, and a library may not
        from converge.bus.threads import choose_threads

        choose_threads()
    return converge.connect(url or DEFAULT_URL, create_schema=url is None, bus=bus)


def _existing(arguments: Namespace) -> str | None:
    """The URL that was given, None for the default.

    :raises NotFound: the default database does not exist.
    """
    url = database_url(arguments)
    if url is None and not has_default():
        name = arguments.what if arguments.command == "graph" else arguments.name
        raise NotFound(
            f"there is no stack {name!r}: this folder has no {DEFAULT_FILE}; create it with "
            "`converge up FILE`, or name another database with --db URL or CONVERGE_DB"
        )
    return url


def has_default() -> bool:
    """Whether the default database exists."""
    return os.path.lexists(DEFAULT_FILE)


def is_there(arguments: Namespace) -> bool:
    """Whether there is a database to read; if not, there is nothing to show."""
    return database_url(arguments) is not None or has_default()
