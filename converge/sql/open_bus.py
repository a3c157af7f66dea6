"""Opening the bus of a URL."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from converge.bus.memory import MemoryBus
from converge.bus.urls import DEFAULT_BUS, read_bus_url
from converge.sql.database import Database

if TYPE_CHECKING:
    from converge.bus.database import DatabaseCarrier


def open_bus(database: Database, url: str | None = None) -> MemoryBus:
    """Open a bus; see :func:`converge.connect`. It connects in the background, when it is needed.

    :raises BadInput: the URL is wrong, or its driver is not installed.
    """
    read = read_bus_url(url or os.environ.get("CONVERGE_BUS") or DEFAULT_BUS)
    if read.kind == "memory" or (read.kind == "database" and database.dialect != "postgresql"):
        # other databases have nothing to wake by: engines poll
        return MemoryBus()
    # each imported when it is needed: that of oslo takes as long to import as all else
    from converge.bus.shared import SharedBus

    if read.kind == "database":
        return SharedBus(partial(_make_database_carrier, database))
    from converge.bus.oslo import OsloCarrier

    return SharedBus(partial(OsloCarrier, read))


def _make_database_carrier(database: Database) -> DatabaseCarrier:
    from converge.bus.database import DatabaseCarrier
    from converge.sql.listening import Listener
    from converge.sql.notices import send_notice

    def send(text: str) -> None:
        # it changes nothing, so it may be run again as what only reads
        database.read(lambda tx: send_notice(tx, text))

    return DatabaseCarrier(database.shown, send, Listener(database))
