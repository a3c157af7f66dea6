"""Opening the database of a URL, and checking converge's tables in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from sqlalchemy.engine import URL

from converge.errors import BadInput
from converge.model import DEFAULT_URL
from converge.sealing import read_keyring
from converge.sql.database import Database
from converge.sql.keys import use_keyring
from converge.sql.schema_version import check_schema, is_newest

Url = str | URL


def open_database(
    url: Url | None = None,
    *,
    create_schema: bool = False,
    connections: int | None = None,
    clock: Callable[[], float] | None = None,
    secret_keys: str | Iterable[str] | None = None,
    read_only: bool = False,
) -> Database:
    """Open a database that this converge can work with; see :func:`converge.connect`.

    :param read_only: nothing is to be written, not even which key others must have.

    :raises BadInput: the URL is wrong or its driver is not installed; or a key is none.
    :raises SecretKeyError: values are encrypted with another key.
    :raises SchemaError: the tables are missing, too old, too new, or not converge's.
    :raises StoreError: the database cannot be reached or used.
    """
    if connections is not None and (type(connections) is not int or connections < 1):
        raise BadInput(f"connections must be a whole number from 1, not {connections!r}")
    keyring = read_keyring(secret_keys, os.environ)
    database = Database(
        url or os.environ.get("CONVERGE_DB") or DEFAULT_URL, clock=clock, connections=connections
    )
    try:
        if not create_schema:
            check_schema(database)
        elif not is_newest(database):
            # alembic takes long to import
            from converge.sql.migrate import upgrade

            upgrade(database.url)
        use_keyring(database, keyring, note=not read_only)
    except BaseException:
        database.close()
        raise
    return database
