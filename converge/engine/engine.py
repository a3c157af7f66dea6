"""The engine, as a program uses it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from converge.engine.loop import THREADS
from converge.engine.observer import Observer
from converge.engine.run import Run
from converge.errors import BadInput, ConvergeError
from converge.lease import LEASE, MIN_LEASE
from converge.model import check_queues, check_seconds
from converge.protocol.policy import Policy
from converge.protocol.room import has_async
from converge.resources import load_types
from converge.resources.resource_type import ResourceType, check_types

if TYPE_CHECKING:
    from converge.store import Store

#: Seconds between two looks for work, when nothing else wakes the engine.
POLL = 0.5
#: Connections to the database that an engine needs besides those of its workers: to write, to
#: claim, to sweep, and for its lease.
CONNECTIONS = 4
#: How many ``async def`` handlers run at once, unless the author says otherwise.
ASYNC_WORKERS = 1000


class Engine:
    """Claims nodes and calls their resource types, in threads of this process.

    Any number of engines can work on one database. As a context manager, an engine works in the
    background and stops at the end of the block. A stopped engine can be started again.

    :param store: from :func:`converge.connect`.
    :param types: resource types by name, in addition to the installed ones.
    :param workers: how many handlers run at once, from 1 to 1000. While a handler uses
        ``context.record`` or its journal, it needs a connection to the database.
    :param async_workers: how many handlers that are ``async def`` run at once beside these, on one
        event loop, from 1 to 100000. All together they need four threads and connections.
    :param lease: seconds without a sign of life after which other engines take over its work.
    :param poll: seconds between two looks for work.
    :param prune_after: prune what ended so many seconds ago, now and then, as
        :meth:`Store.prune <converge.Store.prune>` does; None: never.
    :param observer: is told what the engine does, for metrics or traces.
    :param queues: the names of the queues that it serves; None: only that of all that names none,
        which is called ``default``.
    :param policy: is called with a :class:`~converge.protocol.policy.Proposal` before each call of
        a handler, in its thread; if it raises :class:`~converge.Veto`, the resource fails instead.
    :raises BadInput: a number is out of range, a type is not a resource type, or a queue cannot
        have such a name.
    """

    def __init__(
        self,
        store: Store,
        types: Mapping[str, ResourceType] | None = None,
        *,
        workers: int = 8,
        async_workers: int = ASYNC_WORKERS,
        lease: float = LEASE,
        poll: float = POLL,
        prune_after: float | None = None,
        observer: Observer | None = None,
        queues: Iterable[str] | None = None,
        policy: Policy | None = None,
    ) -> None:
        if type(workers) is not int or not 1 <= workers <= 1000:
            raise BadInput(f"workers must be a whole number from 1 to 1000, not {workers!r}")
        if type(async_workers) is not int or not 1 <= async_workers <= 100_000:
            raise BadInput(
                f"async_workers must be a whole number from 1 to 100000, not {async_workers!r}"
            )
        self.store = store
        self.types = {**load_types(), **(types or {})}
        check_types(self.types)
        self.queues = check_queues(queues)
        self.workers = workers
        self.async_workers = async_workers
        self.lease = check_seconds("lease", lease, MIN_LEASE)
        self.poll = check_seconds("poll", poll)
        self.prune_after = (
            None if prune_after is None else check_seconds("prune_after", prune_after)
        )
        self.observer = observer
        self.policy = policy
        self._run: Run | None = None
        self._lock = threading.Lock()

    @property
    def id(self) -> int | None:
        """Its id in the database: None before the first start, a new one after its lease was
        lost."""
        return None if self._run is None else self._run.id

    @property
    def is_ready(self) -> bool:
        """Whether it works: it was started, is not stopping, and its lease is valid."""
        return self._run is not None and self._run.is_ready

    @property
    def lease_age(self) -> float:
        """Seconds since its lease was renewed last; 0 before the first start."""
        return 0.0 if self._run is None else self._run.lease_age

    @property
    def async_running(self) -> int:
        """How many handlers that are ``async def`` run now."""
        return 0 if self._run is None else self._run.async_running

    @property
    def error(self) -> BaseException | None:
        """The error that stopped it; None if it runs or was stopped."""
        return None if self._run is None else self._run.error

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Register, and start to work in the background.

        :raises StoreError: the database cannot be used.
        :raises BadInput: the store allows fewer connections than so many workers need.
        :raises ConvergeError: it is already running.
        """
        with self._lock:
            if self._run is not None and not self._run.ended.is_set():
                raise ConvergeError("this engine is already running")
            needed = self.workers + CONNECTIONS + (THREADS if has_async(self.types) else 0)
            self.store.database.check_limit(needed, f"an engine with {self.workers} workers")
            run = Run(
                self.store,
                self.types,
                workers=self.workers,
                async_workers=self.async_workers,
                lease=self.lease,
                poll=self.poll,
                prune_after=self.prune_after,
                needed=needed,
                observer=self.observer,
                queues=self.queues,
                policy=self.policy,
            )
            self._run = run
            run.begin()

    def stop(self, grace: float | None = None) -> None:
        """Stop: claim nothing more, let running handlers finish, hand back what has not started.
        Does nothing if the engine is not running.

        :param grace: seconds that running handlers have; None for as long as they take. After
            that, ``context.cancelled`` is set. A handler that still does not return is given up,
            and another engine can claim its node at once.
        """
        if self._run is not None:
            self._run.stop(grace)

    def run(self, *, until_idle: bool = False) -> None:
        """Start, and wait until :meth:`stop` is called from another thread.

        :param until_idle: stop when no node in the whole database is left to work on.
        :raises ConvergeError: it is already running, or stopped because of an error.
        :raises StoreError: the database cannot be used.
        """
        self.start()
        try:
            self.wait_idle() if until_idle else self._running().ended.wait()
        finally:
            self.stop()
        self._check_error(self._running())

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no node in the whole database is left to work on, for any engine.

        :param timeout: seconds to wait at most; None for no limit.
        :returns: whether none is left; false if the time ran out or the engine was stopped.
        :raises ConvergeError: it was not started, or stopped because of an error.
        """
        run = self._running()
        idle = run.wait_idle(timeout)
        self._check_error(run)
        return idle

    def wake(self) -> None:
        """Look for work now, instead of at the next poll."""
        if self._run is not None:
            self._run.wake()

    def _running(self) -> Run:
        if self._run is None:
            raise ConvergeError("this engine has not been started")
        return self._run

    @staticmethod
    def _check_error(run: Run) -> None:
        if run.error is not None:
            raise ConvergeError("the engine stopped because of an error") from run.error
