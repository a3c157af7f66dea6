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
    from converge.store import Store


def database_url(arguments: Namespace) -> str | None:
    """The URL that was given, None for the default."""
    return arguments.db or os.environ.get("CONVERGE_DB") or None


@contextmanager
def opened(arguments: Namespace, *, create: bool = False) -> Iterator[Store]:
    """The store. Only the default's schema is made here, and only if ``create``.

    :raises NotFound: the default is not there, and is not to be created.
    """
    store = connect(arguments, create=create)
    try:
        yield store
    finally:
        store.close()


def connect(arguments: Namespace, *, create: bool = False) -> Store:
    """Open the store; see :func:`opened`."""
    import converge

    url = database_url(arguments)
    if url is None and not create and not has_default():
        name = arguments.what if arguments.command == "graph" else arguments.name
        raise NotFound(
            f"there is no stack {name!r}, as there is no {DEFAULT_FILE} in this folder; "
            "`converge up FILE` makes it, --db URL or CONVERGE_DB names another database"
        )
    return converge.connect(url or DEFAULT_URL, create_schema=url is None)


def has_default() -> bool:
    """Whether the default database is there."""
    return os.path.lexists(DEFAULT_FILE)


def is_there(arguments: Namespace) -> bool:
    """Whether there is a database to look into; without one there is nothing in it."""
    return database_url(arguments) is not None or has_default()
