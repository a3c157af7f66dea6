"""The database that simulations run in, one after the other: an SQLite file, opened once, as
compiling statements anew for each seed would take longer than the seed."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from sqlalchemy import event
from sqlalchemy.pool import StaticPool

import converge
from converge import crash_points
from converge.engine import core
from converge.sql import repeat
from tests import backends
from tests.simulation.tables import Tables


class Arena:
    """:param folder: for the file; best in memory."""

    def __init__(self, folder: Path) -> None:
        self._backend = backends.Sqlite(folder)
        self.store = converge.connect(self._backend.migrated())
        opened = self.store.database
        assert opened.url.database is not None
        # one connection for all: opening another one takes as long as a transaction
        opened.close()
        engine = opened.engine
        event.listen(engine, "connect", _hurry)
        pool = engine.pool
        engine.pool = StaticPool(pool._creator, dialect=engine.dialect, _dispatch=pool.dispatch)
        self.tables = Tables(Path(opened.url.database))

    def close(self) -> None:
        """Remove the file."""
        self.tables.close()
        self.store.close()
        self._backend.close()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No log, no waiting before a transaction is run again, no hook left behind; and little is
        passed over at once, so that some is left."""
        logger = logging.getLogger("converge")
        disabled, logger.disabled = logger.disabled, True
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with mock.patch.object(repeat, "_pause"), mock.patch.object(core, "PASSED", 1):
                yield
        finally:
            crash_points.hook = None
            logging.disable(before)
            logger.disabled = disabled

    @contextmanager
    def many(self) -> Iterator[None]:
        """For many seeds in a row: garbage is collected in between, not whenever."""
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            yield
        finally:
            gc.enable()
            gc.unfreeze()


def _hurry(connection: object, record: object) -> None:
    # no simulation pulls the plug
    connection.execute("PRAGMA synchronous = OFF")  # type: ignore[attr-defined]
