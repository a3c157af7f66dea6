"""The lease: a sign of life, of engines and of others that hold work, and what is done without it.

One thread renews it. Whoever runs handlers looks at the time in a second one, which never waits
for the database, so that handlers are told in time also when the database hangs.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar, TypeVar
from weakref import WeakSet, finalize

from converge.crash_points import Commit
from converge.errors import ConvergeError, StoreError
from converge.model import make_mark
from converge.process import is_gone, process_identity
from converge.sql import engines
from converge.sql.database import Database, Transaction, repeatable

T = TypeVar("T")

LOG = logging.getLogger(__name__)

#: Seconds that a lease lasts.
LEASE = 15.0
#: A shorter one, in seconds, would be lost whenever a machine or database is busy.
LEAST = 1.0
#: Parts of the lease after which it is renewed, and given up for lost.
RENEW = 1 / 3
LOSE = 0.8
#: Part of the lease after which its time is looked at again.
LOOK = 1 / 20
#: New leases that are tried one after the other.
_ATTEMPTS = 5


def now() -> float:
    """Seconds on a clock of this machine that goes on while the machine is suspended."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Leases(ABC):
    """Where leases of this process are written.

    :param seconds: how long one lasts without being renewed.
    """

    #: What the log calls their holder.
    holder: ClassVar[str] = "engine"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.process = process_identity()

    @abstractmethod
    def register(self, mark: int) -> int:
        """Write that there is one, and return its id.

        :raises StoreError: that could not be written.
        """

    @abstractmethod
    def prolong(self, id_: int, mark: int) -> bool:
        """Write that it lasts longer. False: it has run out, or is another's.

        :raises StoreError: that could not be written.
        """

    @abstractmethod
    def leave(self, id_: int, mark: int) -> None:
        """Write that its holder has ended: what it still holds is free.

        :raises StoreError: that could not be written.
        """

    @abstractmethod
    def close(self) -> None:
        """No more of them are written."""


class RowLeases(Leases):
    """Leases that are rows of a database, written over a connection of their own: they never
    queue behind the work, however much of it there is.

    :param role: what their holder does.
    :ivar database: over that connection.
    """

    def __init__(self, database: Database, seconds: float, role: str = engines.ENGINE) -> None:
        super().__init__(seconds)
        self.database = database.separate()
        self._role = role

    def register(self, mark: int) -> int:
        def register(tx: Transaction) -> int:
            if self._role == engines.JOURNAL:
                engines.delete_old_owners(tx)
            host, pid = platform.node(), os.getpid()
            return engines.insert_engine(
                tx, host, pid, self.process, self.seconds, self._role, mark=mark
            )

        return self.database.transact(
            register,
            Commit.REGISTER,
            # one that nobody knows of does nothing, and its lease runs out
            happened=repeatable,
        )

    def prolong(self, id_: int, mark: int) -> bool:
        return self.database.transact(
            lambda tx: engines.renew_lease(tx, id_, mark),
            Commit.RENEW,
            happened=repeatable,
            alone=True,
        )

    def leave(self, id_: int, mark: int) -> None:
        self.database.transact(
            lambda tx: engines.end_engine(tx, id_, engines.STOPPED, mark=mark),
            Commit.LEAVE,
            happened=repeatable,
        )

    def close(self) -> None:
        self.database.close()


class Lease:
    """One lease, from its registration to its loss or end. After a loss its holder takes another
    one, under another id.

    :param on_loss: called, in any thread, when it is lost.
    :ivar id: its id.
    :ivar mark: a random number beside the id.
    :ivar lost: set when it is lost.
    :raises StoreError: it could not be registered.
    """

    def __init__(self, leases: Leases, on_loss: Callable[[], None] = lambda: None) -> None:
        self.leases = leases
        self.seconds = leases.seconds
        self.lost = threading.Event()
        self.mark = make_mark()
        self._on_loss = on_loss
        # lost, or ended
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._renewed = now()
        self.id = leases.register(self.mark)
        LOG.info("%s %s registered", leases.holder, self.id)

    def renew(self) -> None:
        """Renew it; or find that others take its holder for dead already.

        :raises StoreError: the store of leases cannot be used.
        """
        before = now()
        if self.leases.prolong(self.id, self.mark):
            with self._lock:
                self._renewed = before
        else:
            self.lose()

    def check(self) -> bool:
        """Give it up for lost if it is about to end.

        :returns: whether it is good.
        """
        with self._lock:
            late = now() - self._renewed > self.seconds * LOSE
        if late:
            self.lose()
        return not self.lost.is_set()

    def lose(self) -> None:
        """Give it up for lost."""
        with self._lock:
            if self._over.is_set():
                return
            self.lost.set()
            self._over.set()
        holder = self.leases.holder
        LOG.warning("%s %s lost its lease; it goes on under a new id", holder, self.id)
        self._on_loss()

    def end(self) -> None:
        """It is given back: from now on it can neither be renewed nor be lost."""
        with self._lock:
            self._over.set()

    def keep(self, after: Callable[[], object] = lambda: None) -> None:
        """Renew it again and again, until it is over.

        :param after: what else is to be done after each renewal.
        """
        pause = self.seconds * RENEW
        while not self._over.wait(pause):
            pause = self.seconds * RENEW
            try:
                self.renew()
                after()
            except Exception as error:
                # whatever it is, the next try may succeed; until the lease is over
                pause /= 5
                known = isinstance(error, StoreError)
                LOG.warning(
                    "%s %s cannot renew its lease: %s",
                    self.leases.holder,
                    self.id,
                    error,
                    exc_info=not known,
                )

    def watch(self) -> None:
        """Look at the time again and again, whatever the store of leases does."""
        while not self._over.wait(self.seconds * LOOK):
            self.check()


class LeaseOver(ConvergeError):
    """The lease of who wants to hold something is over: others would take it away at once."""


def check_lease(tx: Transaction, id_: int, mark: int | None = None) -> None:
    """Whether one who is about to hold something has a lease.

    :param mark: of the lease: its id can be another's by now.
    :raises LeaseOver: not any more.
    """
    if not engines.is_alive(tx, id_, mark):
        raise LeaseOver(f"the lease of {id_} has expired")


def list_gone(tx: Transaction) -> list[int]:
    """Those whose lease goes on, though their process was of this host and is gone."""
    return [row.id for row in engines.list_leased(tx) if is_gone(row.process)]


def expire(database: Database, engine_ids: Iterable[int]) -> None:
    """End the leases of those that are known to be gone, so that nobody waits for them.

    :raises StoreError: the database cannot be used.
    """
    for engine_id in engine_ids:
        database.transact(
            partial(engines.expire_lease, engine_id=engine_id), Commit.EXPIRE, happened=repeatable
        )


class Owner:
    """Who holds work without being an engine, under an id whose lease is renewed in the
    background: from the first time that the id is asked for until it is closed.

    After a loss of the lease the next id is another one; so it is in a process that was forked
    from this one.

    :param make_leases: gives where leases of this process are written.
    :param after: what else is to be done after each renewal of a lease. It must not refer to
        this owner: one that nobody has any more is to go.
    """

    def __init__(
        self, make_leases: Callable[[], Leases], after: Callable[[Lease], object] = lambda _: None
    ) -> None:
        self._make_leases = make_leases
        self._after = after
        self._begin()
        _OWNERS.add(self)

    def _begin(self) -> None:
        self._leases: Leases | None = None
        self._lease: Lease | None = None
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def current_id(self) -> int:
        """The id to hold things with.

        :raises StoreError: it cannot be registered.
        """
        return self.current_lease().id

    def current_lease(self) -> Lease:
        """The lease to hold things with.

        :raises StoreError: it cannot be registered.
        """
        with self._lock:
            if self._leases is None:
                self._leases = self._make_leases()
            if self._lease is None or not self._lease.check():
                lease = self._lease = Lease(self._leases)
                self._threads = []
                self._run(partial(lease.keep, partial(self._after, lease)))
                # its threads know the lease only; an owner that nobody has any more ends them
                finalize(self, lease.end)
            return self._lease

    def _run(self, function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function, name="converge-lease", daemon=True)
        thread.start()
        self._threads.append(thread)

    def lost(self, id_: int) -> threading.Event:
        """Set when the lease under an id is lost or given back, in time also when the store of
        leases hangs."""
        with self._lock:
            lease = self._lease
            if lease is None or id_ != lease.id:
                over = threading.Event()
                over.set()
                return over
            # the first one renews
            if len(self._threads) == 1:
                self._run(lease.watch)
            return lease.lost

    def attempt(self, function: Callable[[int], T]) -> T:
        """Call a function with the id; if it finds by :func:`check_lease` that the lease is over,
        as after the process stood still, again with another id.

        :raises StoreError: each new lease is over before it can be used.
        """
        return self.attempt_lease(lambda lease: function(lease.id))

    def attempt_lease(self, function: Callable[[Lease], T]) -> T:
        """As :meth:`attempt`, for a function that is given the lease."""
        for _ in range(_ATTEMPTS):
            lease = self.current_lease()
            try:
                return function(lease)
            except LeaseOver:
                lease.lose()
        raise StoreError(
            f"leases of {lease.seconds:g} s expire before they can be used: "
            "the database is too slow; use longer ones"
        )

    def holds(self, id_: int) -> bool:
        """Whether the lease under an id is good."""
        with self._lock:
            lease = self._lease
        return lease is not None and lease.id == id_ and lease.check()

    def give_up(self, id_: int) -> None:
        """Let the lease under an id run out, with all that is held by it; the next id is another
        one."""
        with self._lock:
            lease = self._lease
        if lease is not None and lease.id == id_:
            lease.lose()

    def close(self) -> None:
        """End the lease; what is still held by it is free at once."""
        with self._lock:
            lease, self._lease = self._lease, None
            leases, self._leases = self._leases, None
            threads, self._threads = self._threads, []
            if lease is not None:
                lease.end()
                for thread in threads:
                    thread.join()
                lease.lost.set()
            if leases is not None:
                try:
                    if lease is not None:
                        leases.leave(lease.id, lease.mark)
                finally:
                    leases.close()


class RowOwner(Owner):
    """One whose lease is a row of a database.

    :param seconds: how long the lease lasts without being renewed.
    """

    def __init__(
        self, database: Database, seconds: float, after: Callable[[Lease], object] = lambda _: None
    ) -> None:
        super().__init__(lambda: RowLeases(database, seconds, engines.JOURNAL), after)


_OWNERS: WeakSet[Owner] = WeakSet()


def _begin_in_child() -> None:
    """A forked process is another one: it has neither the thread nor the id of its parent."""
    for owner in list(_OWNERS):
        owner._begin()


os.register_at_fork(after_in_child=_begin_in_child)
