"""A lease: the sign of life of an engine or another owner of work, and what follows its loss.

One thread renews it. Where handlers run, a second thread watches the clock and never waits for
the database, so that handlers are cancelled in time even when the database hangs.
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
from converge.sql.database import Database, repeatable
from converge.sql.transaction import Transaction

T = TypeVar("T")

LOG = logging.getLogger(__name__)

#: Seconds that a lease lasts.
LEASE = 15.0
#: The shortest lease allowed, in seconds: a busy machine or database would lose a shorter one.
MIN_LEASE = 1.0
#: Fractions of the lease after which it is renewed, and given up as lost.
RENEW = 1 / 3
LOSE = 0.8
#: Fraction of the lease between two looks at the clock.
LOOK = 1 / 20
#: How many leases in a row are tried before it is an error.
_ATTEMPTS = 5


def now() -> float:
    """Seconds on a clock that keeps running while the machine is suspended."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Leases(ABC):
    """Where this process stores its leases.

    :param seconds: how long a lease lasts without being renewed.
    """

    #: What log messages call the holder of a lease.
    holder: ClassVar[str] = "engine"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.process = process_identity()

    @abstractmethod
    def register(self, mark: int) -> int:
        """Store a new lease and return its id.

        :raises StoreError: the store of leases cannot be used.
        """

    @abstractmethod
    def prolong(self, id_: int, mark: int) -> bool:
        """Renew a lease.

        :returns: false if it has expired, or its id belongs to another holder by now.
        :raises StoreError: the store of leases cannot be used.
        """

    @abstractmethod
    def leave(self, id_: int, mark: int) -> None:
        """End a lease: what its holder still holds is free.

        :raises StoreError: the store of leases cannot be used.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection to the store of leases."""


class RowLeases(Leases):
    """Leases in a database, with a connection of their own: renewals never queue behind work.

    :param role: what the holder does: ``engines.ENGINE`` or ``engines.JOURNAL``.
    :param types: the names of an engine's resource types.
    :param queues: the names of the queues that an engine serves.
    :ivar database: the database over that connection.
    """

    def __init__(
        self,
        database: Database,
        seconds: float,
        role: str = engines.ENGINE,
        *,
        types: Iterable[str] | None = None,
        queues: Iterable[str] | None = None,
    ) -> None:
        super().__init__(seconds)
        self._types = None if types is None else sorted(types)
        self._queues = None if queues is None else sorted(queues)
        self.database = database.separate()
        self._role = role

    def register(self, mark: int) -> int:
        def register(tx: Transaction) -> int:
            if self._role == engines.JOURNAL:
                engines.delete_old_owners(tx)
            host, pid = platform.node(), os.getpid()
            return engines.insert_engine(
                tx,
                host,
                pid,
                self.process,
                self.seconds,
                self._role,
                mark=mark,
                types=self._types,
                queues=self._queues,
            )

        return self.database.transact(
            register,
            Commit.REGISTER,
            # a registration whose reply was lost does no work, and its lease expires
            happened=repeatable,
        )

    def prolong(self, id_: int, mark: int) -> bool:
        return self.database.transact(
            lambda tx: engines.renew_lease(tx, id_, mark),
            Commit.RENEW,
            happened=repeatable,
            one_statement=True,
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
    """One lease, from its registration to its loss or end. After a loss, its holder takes a new
    lease under a new id.

    :param on_loss: called, in any thread, when the lease is lost.
    :ivar id: its id.
    :ivar mark: a random number that tells it from another lease with the same id.
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
        """Renew the lease; lose it if it has already expired.

        :raises StoreError: the store of leases cannot be used.
        """
        before = now()
        if self.leases.prolong(self.id, self.mark):
            with self._lock:
                self._renewed = before
        else:
            self.lose()

    def check(self) -> bool:
        """Give the lease up as lost if it is about to expire.

        :returns: whether it is still valid.
        """
        with self._lock:
            late = now() - self._renewed > self.seconds * LOSE
        if late:
            self.lose()
        return not self.lost.is_set()

    @property
    def age(self) -> float:
        """Seconds since it was renewed last."""
        with self._lock:
            return now() - self._renewed

    def lose(self) -> None:
        """Give the lease up as lost."""
        with self._lock:
            if self._over.is_set():
                return
            self.lost.set()
            self._over.set()
        holder = self.leases.holder
        LOG.warning("%s %s lost its lease; it goes on under a new id", holder, self.id)
        self._on_loss()

    def end(self) -> None:
        """Stop renewing and watching the lease; it can no longer be lost."""
        with self._lock:
            self._over.set()

    def keep(self, after: Callable[[], object] = lambda: None) -> None:
        """Keep renewing the lease until it is lost or ended.

        :param after: called after each renewal.
        """
        pause = self.seconds * RENEW
        while not self._over.wait(pause):
            pause = self.seconds * RENEW
            try:
                self.renew()
                after()
            except Exception as error:
                # whatever the error is, the next try may succeed
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
        """Keep checking the clock until the lease is lost or ended, whatever its store does."""
        while not self._over.wait(self.seconds * LOOK):
            self.check()


class LeaseOver(ConvergeError):
    """The lease has expired: whatever is locked under it could be taken away at once."""


def check_lease(tx: Transaction, id_: int, mark: int | None = None) -> None:
    """Check that a lease is valid before something is locked under it.

    :param mark: the lease's mark: its id may belong to another lease by now.
    :raises LeaseOver: it is not.
    """
    if not engines.is_alive(tx, id_, mark):
        raise LeaseOver(f"the lease of engine {id_} has expired")


def list_gone(tx: Transaction) -> list[int]:
    """The holders of unexpired leases whose process was on this host and is gone."""
    return filter_gone(engines.list_alive(tx))


def filter_gone(holders: Iterable[engines.EngineRow]) -> list[int]:
    """Those of these holders whose process was on this host and is gone."""
    return [row.id for row in holders if is_gone(row.process)]


def expire(database: Database, engine_ids: Iterable[int]) -> None:
    """End the leases of engines that are known to be gone, so that nobody waits for them.

    :raises StoreError: the database cannot be used.
    """
    for engine_id in engine_ids:
        database.transact(
            partial(engines.expire_lease, engine_id=engine_id), Commit.EXPIRE, happened=repeatable
        )


class Owner:
    """An owner of work that is not an engine: a journal, or a machine's worker.

    Its lease is registered when it is first used, and renewed in the background until the owner
    is closed. After the loss of a lease, and in a forked process, it takes a new one.

    :param make_leases: returns where leases of this process are stored.
    :param after: called with the lease after each renewal. It must not refer to this owner, which
        could then never be garbage-collected.
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
        """The id of the current lease, which is registered if need be.

        :raises StoreError: it cannot be registered.
        """
        return self.current_lease().id

    def current_lease(self) -> Lease:
        """The current lease, which is registered if need be.

        :raises StoreError: it cannot be registered.
        """
        with self._lock:
            if self._leases is None:
                self._leases = self._make_leases()
            if self._lease is None or not self._lease.check():
                lease = self._lease = Lease(self._leases)
                self._threads = []
                self._run(partial(lease.keep, partial(self._after, lease)))
                # its threads refer to the lease only, so they end with a garbage-collected owner
                finalize(self, lease.end)
            return self._lease

    def _run(self, function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function, name="converge-lease", daemon=True)
        thread.start()
        self._threads.append(thread)

    def lost(self, id_: int) -> threading.Event:
        """An event that is set when the lease with this id is lost or closed; in time even when
        the store of leases hangs."""
        with self._lock:
            lease = self._lease
            if lease is None or id_ != lease.id:
                over = threading.Event()
                over.set()
                return over
            # the only thread yet is the one that renews
            if len(self._threads) == 1:
                self._run(lease.watch)
            return lease.lost

    def attempt(self, function: Callable[[int], T]) -> T:
        """Call a function with the current id. If :func:`check_lease` finds in it that the lease
        has expired, as after the process was suspended, call it again with a new id.

        :raises StoreError: each new lease expires before it can be used.
        """
        return self.attempt_lease(lambda lease: function(lease.id))

    def attempt_lease(self, function: Callable[[Lease], T]) -> T:
        """Like :meth:`attempt`, for a function that takes the lease."""
        for _ in range(_ATTEMPTS):
            lease = self.current_lease()
            try:
                return function(lease)
            except LeaseOver:
                lease.lose()
        raise StoreError(
            f"leases of {lease.seconds:g} s expire before they can be used: "
            "the database is too slow; use longer leases"
        )

    def holds(self, id_: int) -> bool:
        """Whether the lease with this id is valid."""
        with self._lock:
            lease = self._lease
        return lease is not None and lease.id == id_ and lease.check()

    def give_up(self, id_: int) -> None:
        """Let the lease with this id expire, and everything locked under it be released; the next
        lease has a new id."""
        with self._lock:
            lease = self._lease
        if lease is not None and lease.id == id_:
            lease.lose()

    def close(self) -> None:
        """End the lease; what is still locked under it is released at once."""
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
    """An owner whose lease is in a database.

    :param seconds: how long the lease lasts without being renewed.
    """

    def __init__(
        self, database: Database, seconds: float, after: Callable[[Lease], object] = lambda _: None
    ) -> None:
        super().__init__(lambda: RowLeases(database, seconds, engines.JOURNAL), after)


_OWNERS: WeakSet[Owner] = WeakSet()


def _begin_in_child() -> None:
    """Forget the lease in a forked process: the threads and the id are its parent's."""
    for owner in list(_OWNERS):
        owner._begin()


os.register_at_fork(after_in_child=_begin_in_child)
