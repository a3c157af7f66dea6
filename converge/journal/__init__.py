"""The journal: a ten-step job that failed at step four resumes at step four.

Usable alone, in any program with a database; inside a resource type's handler it is there as
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
from converge.journal.names import is_work_scope
from converge.journal.scope import KEYS, Scope, _Ledger
from converge.journal.step import Step
from converge.lease import LEASE, MIN_LEASE
from converge.model import check_age, check_name, check_seconds

if TYPE_CHECKING:
    from converge.sql.database import Database, HasDatabase, Transaction

__all__ = ["Backend", "Item", "Journal", "Record", "Scope", "ScopeInfo", "Step"]

#: Where backends are looked for: entry points by the scheme of their URLs.
ENTRY_POINTS = "converge.journals"
#: Seconds between two tries of a scope that somebody else holds.
POLL = 0.2
#: Scopes deleted in one transaction.
BATCH = 1000


class Journal:
    """Scopes of steps that were done already, kept in a database.

    :param where: a :class:`~converge.Store`; or a URL: of a database with converge's tables,
        ``memory://`` (gone with the process, for tests), ``redis://…``, or of a scheme that an
        installed backend has; or a :class:`Backend`. A scheme alone, such as ``memory`` or
        ``redis``, is a URL without anything more.
    :param backend: the name of the installed backend, where the scheme of the URL is not it:
        ``sql``, ``memory``, ``redis``, or another one's.
    :param lease: seconds, at least 1, without a sign of life after which others take a scope
        over.
    :param sleep: what waits for so many seconds; for tests.
    :raises BadInput: there is no such backend.
    :raises StoreError: it cannot be reached.
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
        """Let go of everything; scopes that are still open are free at once."""
        self.backend.close()

    @contextmanager
    def scope(self, name: str, *, wait: float = 0.0) -> Iterator[Scope]:
        """Take a scope; it is finished when its block ends without an exception.

        :param name: what the work is, such as ``order-17``; it has one scope for ever, or until
            that is forgotten.
        :param wait: seconds to wait for somebody else who holds it.
        :raises Busy: somebody else still holds it.
        :raises JournalMismatch: the block came to its end without asking for all that is
            recorded.
        :raises BadInput: the name cannot be one.
        """
        check_name("scope", name)
        if is_work_scope(name):
            raise BadInput(
                f"{name!r} is kept for the work on resources; give the scope another name"
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
            # what had come to its end has not begun again by being looked at
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
        """The scopes by name.

        :param after: from the one after this name on.
        :param limit: at most so many.
        """
        return self.backend.list_scopes(after=after, limit=limit)

    def show(self, name: str) -> tuple[ScopeInfo, list[Record]]:
        """A scope and what is recorded of it, in the order of the steps.

        :raises NotFound: there is none.
        """
        info, records = self.backend.show(name)
        return info, [one for one in records if one.status is not StepStatus.KEYS]

    def forget(self, name: str, *, failed: bool = False) -> int:
        """Delete a scope with all that is recorded: the work would be done anew.

        :param failed: delete only what is recorded of steps that failed for good, also of those
            whose failure the program caught: the work goes on there, when what made them fail is
            mended. Steps that it did after one, as it had failed, stay recorded.
        :returns: how many steps are forgotten.
        :raises NotFound: there is none.
        :raises Busy: somebody works on it.
        """
        return self.backend.forget(name, failed=failed)

    def prune(self, *, age: float | None = None, keep: int | None = None) -> int:
        """Delete scopes that are finished.

        :param age: those that finished over so many seconds ago.
        :param keep: all but so many that finished last. With ``age``, both must be so.
        :returns: how many were deleted.
        :raises BadInput: neither is given, or is negative.
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
    :raises StaleLock: it has not, any more.
    """
    from converge.sql import resources

    return guarded_scope(
        database,
        name,
        engine_id,
        lambda tx: resources.hold_lock(tx, engine_id, resource_id, epoch, mark),
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

    :param guard: locks that lock's row until the transaction ends.
    :param resource_id: that the work is about.
    :param key_namespace: the namespace of its idempotency keys, if its name can be used again for
        other work.
    :raises StaleLock: it has not, any more.
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
