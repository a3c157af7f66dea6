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
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet, finalize

from converge.errors import ConvergeError, StoreError
from converge.points import Commit
from converge.process import process_identity
from converge.store import engines
from converge.store.database import Database, Transaction, repeatable

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


class Lease(ABC):
    """A lease of this process; after a loss it is taken anew, under another id.

    :param seconds: how long it lasts without being renewed.
    :param on_loss: called, in any thread, once per loss.
    """

    #: What the log calls its holder.
    holder = "engine"

    def __init__(self, seconds: float, on_loss: Callable[[], None] = lambda: None) -> None:
        self.seconds = seconds
        #: Set when the lease is lost; the next one has another.
        self.lost = threading.Event()
        self._on_loss = on_loss
        self._process = process_identity()
        self._id = 0
        self._renewed = 0.0
        self._ended = False
        self._lock = threading.Lock()

    @abstractmethod
    def _register(self) -> int:
        """Write that there is one, and return its id."""

    @abstractmethod
    def _prolong(self, id_: int) -> bool:
        """Write that it lasts longer. False: it has run out."""

    def take(self) -> int:
        """Register, and return the id.

        :raises StoreError: the store of leases cannot be used.
        """
        before = now()
        id_ = self._register()
        with self._lock:
            self._id = id_
            self._renewed = before
            self._ended = False
            if self.lost.is_set():
                self.lost = threading.Event()
        LOG.info("%s %s registered", self.holder, id_)
        return id_

    def renew(self) -> None:
        """Renew it; or find that others take its holder for dead already.

        :raises StoreError: the store of leases cannot be used.
        """
        before = now()
        id_ = self._id
        renewed = self._prolong(id_)
        with self._lock:
            if self._id != id_:
                return
            if renewed and not self.lost.is_set():
                self._renewed = before
                return
        self.lose()

    def end(self) -> None:
        """It is given back: from now on it can neither be renewed nor be lost."""
        with self._lock:
            self._ended = True

    def lose(self, id_: int | None = None) -> None:
        """Give it up for lost.

        :param id_: only if it still has this id.
        """
        with self._lock:
            if self._ended or self.lost.is_set() or id_ not in (None, self._id):
                return
            self.lost.set()
        LOG.warning("%s %s lost its lease; it goes on under a new id", self.holder, self._id)
        self._on_loss()

    def keep(self, stopped: threading.Event) -> None:
        """Renew it again and again, until its holder has stopped."""
        pause = self.seconds * RENEW
        while not stopped.wait(pause):
            pause = self.seconds * RENEW
            if self.lost.is_set():
                continue
            try:
                self.renew()
            except StoreError as error:
                pause /= 5
                LOG.warning("%s %s cannot renew its lease: %s", self.holder, self._id, error)

    def watch(self, stopped: threading.Event) -> None:
        """Look at the time again and again, whatever the store of leases does."""
        while not stopped.wait(self.seconds * LOOK):
            self.check()

    def check(self) -> bool:
        """Give it up for lost if it is about to end.

        :returns: whether there is one.
        """
        with self._lock:
            late = now() - self._renewed > self.seconds * LOSE
        if late:
            self.lose()
        return not self.lost.is_set()


class EngineLease(Lease):
    """A lease in a row of a database.

    :param role: what its holder does.
    """

    def __init__(
        self,
        database: Database,
        seconds: float,
        on_loss: Callable[[], None] = lambda: None,
        role: str = engines.ENGINE,
    ) -> None:
        super().__init__(seconds, on_loss)
        self._database = database
        self._role = role

    def _register(self) -> int:
        def register(tx: Transaction) -> int:
            if self._role == engines.JOURNAL:
                engines.delete_old_owners(tx)
            return engines.insert_engine(
                tx, platform.node(), os.getpid(), self._process, self.seconds, self._role
            )

        return self._database.transact(
            register,
            Commit.REGISTER,
            # one that nobody knows of does nothing, and its lease runs out
            happened=repeatable,
        )

    def _prolong(self, id_: int) -> bool:
        return self._database.transact(
            lambda tx: engines.renew_lease(tx, id_, self._process),
            Commit.RENEW,
            happened=repeatable,
            alone=True,
        )


class LeaseOver(ConvergeError):
    """The lease of who wants to hold something is over: others would take it away at once."""


def check_lease(tx: Transaction, id_: int) -> None:
    """Whether one who is about to hold something has a lease.

    :raises LeaseOver: not any more.
    """
    if not engines.is_alive(tx, id_):
        raise LeaseOver(f"the lease of {id_} is over")


class Owner:
    """Who holds work without being an engine, under an id whose lease is renewed in the
    background: from the first time that the id is asked for until it is closed.

    After a loss of the lease the next id is another one; so it is in a process that was forked
    from this one.

    :param make_lease: makes a lease of this process.
    :param leave: writes that the one with an id has ended.
    """

    def __init__(self, make_lease: Callable[[], Lease], leave: Callable[[int], object]) -> None:
        self._make_lease = make_lease
        self._leave = leave
        self._begin()
        _OWNERS.add(self)

    def _begin(self) -> None:
        self.lease = self._make_lease()
        self._id: int | None = None
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def current_id(self) -> int:
        """The id to hold things with.

        :raises StoreError: it cannot be registered.
        """
        with self._lock:
            if self._id is None or not self.lease.check():
                self._id = self.lease.take()
            if not self._threads:
                self._stopped.clear()
                self._run(self.lease.keep)
                # its threads know the lease only; an owner that nobody has any more ends them
                finalize(self, self._stopped.set)
            return self._id

    def _run(self, function: Callable[[threading.Event], None]) -> None:
        thread = threading.Thread(
            target=function, args=(self._stopped,), name="converge-lease", daemon=True
        )
        thread.start()
        self._threads.append(thread)

    def lost(self, id_: int) -> threading.Event:
        """Set when the lease under an id is lost or given back, in time also when the store of
        leases hangs."""
        with self._lock:
            if id_ != self._id:
                over = threading.Event()
                over.set()
                return over
            # the first one renews
            if len(self._threads) == 1:
                self._run(self.lease.watch)
            return self.lease.lost

    def attempt(self, function: Callable[[int], T]) -> T:
        """Call a function with the id; if it finds by :func:`check_lease` that the lease is over,
        as after the process stood still, again with another id.

        :raises StoreError: each new lease is over before it can be used.
        """
        for _ in range(_ATTEMPTS):
            id_ = self.current_id()
            try:
                return function(id_)
            except LeaseOver:
                self.give_up(id_)
        raise StoreError(
            f"leases of {self.lease.seconds:g} s are over before they can be used; "
            "the database is too slow for them"
        )

    def give_up(self, id_: int | None = None) -> None:
        """Let the lease run out, with all that is held by it; the next id is another one.

        :param id_: only if this is still its id.
        """
        self.lease.lose(id_)

    def close(self) -> None:
        """End the lease; what is still held by it is free at once."""
        with self._lock:
            self._stopped.set()
            for thread in self._threads:
                thread.join()
            self._threads = []
            if self._id is not None:
                ended, self._id = self._id, None
                self.lease.lost.set()
                self._leave(ended)


class RowOwner(Owner):
    """One whose lease is a row of a database.

    :param seconds: how long the lease lasts without being renewed.
    """

    def __init__(self, database: Database, seconds: float) -> None:
        super().__init__(
            lambda: EngineLease(database, seconds, role=engines.JOURNAL),
            lambda id_: database.transact(
                lambda tx: engines.end_engine(tx, id_, engines.STOPPED),
                Commit.LEAVE,
                happened=repeatable,
            ),
        )


_OWNERS: WeakSet[Owner] = WeakSet()


def _begin_in_child() -> None:
    """A forked process is another one: it has neither the thread nor the id of its parent."""
    for owner in list(_OWNERS):
        owner._begin()


os.register_at_fork(after_in_child=_begin_in_child)
