"""The journal: a ten-step job that failed at step four resumes at step four.

It can be used alone, in any program with a database. In the handler of a resource type it is
``context.step``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from converge.errors import BadInput, Busy, did_you_mean
from converge.hiding import show_place
from converge.journal.backend import Backend, Record, ScopeInfo, StepStatus
from converge.journal.items import Item
from converge.journal.scope import KEYS, Scope, _Ledger
from converge.journal.step import Step
from converge.lease import LEASE, MIN_LEASE
from converge.model import check_age, check_name, check_seconds
from converge.reserved import is_work_scope

if TYPE_CHECKING:
    from converge.sql.database import Database, HasDatabase
    from converge.sql.transaction import Transaction

__all__ = ["Backend", "Item", "Journal", "Record", "Scope", "ScopeInfo", "Step"]

#: The group of entry points of backends; each is named after the scheme of its URLs.
ENTRY_POINTS = "converge.journals"
#: Seconds between two tries to take a scope that another process holds.
POLL = 0.2
#: Scopes deleted in one transaction.
BATCH = 1000


class Journal:
    """Scopes of recorded steps, stored in a database.

    :param where: a :class:`~converge.Store`; a :class:`Backend`; or the URL of a database with
        converge's tables, ``redis://…``, ``memory://`` (for tests: it ends with the process), or a
        URL of another installed backend. A scheme alone, such as ``memory``, is a URL, too.
    :param backend: the name of the installed backend (``sql``, ``memory``, ``redis`` or another
        one), if the scheme of the URL does not name it.
    :param lease: seconds, at least 1, without a sign of life after which other processes take
        over a scope.
    :param sleep: a function that waits for a number of seconds; for tests.
    :raises BadInput: there is no such backend, or the URL or lease is not valid.
    :raises StoreError: the store cannot be reached.
    :raises SchemaError: the database lacks converge's tables.
    """

    def __init__(
        self,
        where: HasDatabase | str | Backend,
        *,
        backend: str | None = None,
        lease: float = LEASE,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        check_seconds("lease", lease, MIN_LEASE)
        self._sleep = sleep
        self.backend = where if isinstance(where, Backend) else _open(where, backend, lease)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and release scopes that are still open."""
        self.backend.close()

    @contextmanager
    def scope(self, name: str, *, wait: float = 0.0) -> Iterator[Scope]:
        """Take a scope; it is finished when its block ends without an exception.

        :param name: the name of the work, such as ``order-17``. It has one scope, for ever or
            until that is forgotten or pruned.
        :param wait: seconds to wait while another process holds the scope.
        :raises Busy: another process still holds it.
        :raises JournalMismatch: the block ended without asking for all the recorded steps.
        :raises BadInput: the name is not valid, or is reserved for work on resources.
        :raises StoreError: the store cannot be used.
        """
        check_name("scope", name)
        if is_work_scope(name):
            raise BadInput(
                f"the name {name!r} is reserved for work on resources; give the scope another name"
            )
        taken = self._take(name, wait)
        ledger = _Ledger(self.backend, name, taken, self._sleep)
        scope = Scope(ledger)
        ended = False
        try:
            yield scope
            scope._check_end()
            ended = True
        finally:
            # a finished scope stays finished if nothing was written
            finished = ended or (taken.finished and not ledger.written)
            self.backend.release(taken.lock, finished=finished)

    def _take(self, name: str, wait: float) -> Any:
        if wait:
            check_seconds("wait", wait)
        end = time.monotonic() + wait
        while True:
            try:
                return self.backend.take(name)
            except Busy:
                left = end - time.monotonic()
                if left <= 0:
                    raise
                self._sleep(min(POLL, left))

    def scopes(self, *, after: str = "", limit: int = 1000) -> list[ScopeInfo]:
        """Scopes, ordered by name.

        :param after: only those after this name.
        :param limit: the most to return.
        """
        return self.backend.list_scopes(after=after, limit=limit)

    def show(self, name: str) -> tuple[ScopeInfo, list[Record]]:
        """A scope and its records, in the order of the steps.

        :raises NotFound: there is no such scope.
        """
        info, records = self.backend.show(name)
        return info, [one for one in records if one.status is not StepStatus.KEYS]

    def forget(self, name: str, *, failed: bool = False) -> int:
        """Delete a scope with all its records: the work would be done again from the start.

        :param failed: delete only the records of steps that failed for good, including those whose
            failure the program caught. Once the cause is repaired, the work resumes there. Steps
            that were done after a caught failure stay recorded.
        :returns: how many steps were forgotten.
        :raises NotFound: there is no such scope.
        :raises Busy: a process is working on it.
        """
        return self.backend.forget(name, failed=failed)

    def prune(self, *, age: float | None = None, keep: int | None = None) -> int:
        """Delete finished scopes.

        :param age: only those that finished more than this many seconds ago.
        :param keep: keep this many that finished last. With ``age``, both apply.
        :returns: how many were deleted.
        :raises BadInput: neither is given, or one is negative.
        """
        if age is None and keep is None:
            raise BadInput("prune needs an age in seconds, or how many scopes to keep")
        if age is not None:
            check_age("age", age)
        if keep is not None and (type(keep) is not int or keep < 0):
            raise BadInput(f"keep must be a whole number of scopes, 0 or more, not {keep!r}")
        deleted = 0
        while True:
            count = self.backend.prune(age=age, keep=keep, limit=BATCH)
            deleted += count
            if count < BATCH:
                return deleted


def node_scope(
    database: Database,
    name: str,
    engine_id: int,
    resource_id: int,
    epoch: int,
    mark: int,
    sleep: Callable[[float], None],
    key_namespace: UUID,
) -> Scope:
    """The scope of a node's work on a resource that an engine has locked.

    :param key_namespace: as in :func:`guarded_scope`.
    :raises StaleLock: the engine no longer has the lock.
    """
    from converge.sql import resource_locks

    return guarded_scope(
        database,
        name,
        engine_id,
        lambda tx: resource_locks.hold_lock(tx, engine_id, resource_id, epoch, mark),
        sleep,
        resource_id,
        key_namespace,
    )


def guarded_scope(
    database: Database,
    name: str,
    engine_id: int,
    guard: Callable[[Transaction], object],
    sleep: Callable[[float], None] = time.sleep,
    resource_id: int | None = None,
    key_namespace: UUID = KEYS,
) -> Scope:
    """The scope of work that another lock guards.

    :param engine_id: the engine that has that lock.
    :param guard: locks that lock's row until the transaction ends.
    :param sleep: waits for a number of seconds.
    :param resource_id: the resource that the work is about, if any.
    :param key_namespace: the namespace of its idempotency keys, if its name can be used again for
        other work.
    :raises StaleLock: the engine no longer has the lock.
    """
    from converge.journal.sql import GuardedBackend

    backend = GuardedBackend(database, engine_id, guard, resource_id)
    return Scope(_Ledger(backend, name, backend.take(name), sleep, key_namespace))


def _open(where: HasDatabase | str, name: str | None, lease: float) -> Backend:
    if not isinstance(where, str):
        from converge.journal.sql import SqlBackend

        return SqlBackend(where.database, lease)
    backends = _backends()
    if name is not None and name not in backends:
        raise BadInput(f"there is no backend {name!r}{did_you_mean(name, backends)}")
    url = where if "://" in where else f"{where}://"
    scheme = name or url.split(":", 1)[0].split("+", 1)[0]
    if scheme not in backends:
        raise BadInput(
            f"{show_place(where)} is not the URL of a journal{did_you_mean(scheme, backends)}"
        )
    backend: Backend = backends[scheme](url, lease)
    return backend


@cache
def _backends() -> Mapping[str, Callable[[str, float], Backend]]:
    """The installed backends by the scheme of their URLs."""
    from stevedore import ExtensionManager

    manager: Any = ExtensionManager(ENTRY_POINTS)
    return {extension.name: extension.plugin for extension in manager}
