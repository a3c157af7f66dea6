"""What jobs have in common: programs that may be killed anywhere. A job is run again from its
beginning then, and leaves out what is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from sqlalchemy import Column, MetaData, String, Table, delete, insert, select

import converge
from converge import Journal, Scope
from converge.sql import engines
from converge.sql.transaction import Transaction
from converge.testing import FakeClock
from tests.crash.reaper import gone_identity
from tests.journal.driver import World

#: Seconds; nobody waits for its end, as the dead are of this host.
LEASE = 3600.0
#: Seconds after a death until the next process begins: more than a whole job takes.
LATER = 600.0
#: A table of the host. Not unique, as what is there twice must be seen.
ROWS = Table("crash_row", MetaData(), Column("what", String(50), nullable=False))


class Job(ABC):
    """A program, whose parts that are not to be run again are steps of the scope ``job``.

    :param store: where everything is.
    :param folder: where its effects outside are written.
    :param clock: the store's.
    """

    def __init__(self, store: converge.Store, folder: Path, clock: FakeClock) -> None:
        self.store = store
        self.folder = folder
        self.clock = clock
        self.world = World(folder / "effects")

    def run(self) -> None:
        """All of it."""
        with (
            Journal(self.store, lease=LEASE, sleep=self.clock.advance) as journal,
            journal.scope("job") as scope,
        ):
            self.work(journal, scope)

    @abstractmethod
    def work(self, journal: Journal, scope: Scope) -> None:
        """What it does in its scope."""

    @abstractmethod
    def leave_behind(self, tx: Transaction, engine_id: int) -> None:
        """What was held by a process that died before the job is begun."""

    def act(self, what: str, idempotency_key: str) -> str:
        """Have an effect outside."""
        self.world.act(what, idempotency_key)
        return what

    def is_first(self, what: str) -> bool:
        """Whether this is tried for the first time ever, also if nobody recorded that."""
        mark = self.folder / f"{what} was tried"
        if mark.exists():
            return False
        mark.touch()
        return True

    def insert(self, tx: Transaction, what: str) -> None:
        """Have one in a transaction of the host's."""
        tx.execute(insert(ROWS).values(what=what))

    def prepare(self) -> None:
        """Make the host's table, or empty it, and put there what a dead process left."""
        with self.store.database.engine.begin() as connection:
            ROWS.create(connection, checkfirst=True)
            connection.execute(delete(ROWS))
        with self.store.transaction() as tx:
            gone = gone_identity()
            self.leave_behind(tx, engines.insert_engine(tx, "", 0, gone, LEASE, engines.JOURNAL))

    def rows(self) -> list[str]:
        """What is in the host's table."""
        query = select(ROWS.c.what)
        return self.store.database.read(lambda tx: list(tx.execute(query).scalars()))
