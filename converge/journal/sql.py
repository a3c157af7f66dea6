"""The journal in a database with converge's tables: scopes are locked like resources, by the id
of a live engine and an epoch."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from converge.crash_points import Commit
from converge.errors import Busy, Conflict, ConvergeError, NotFound
from converge.journal.backend import (
    FAILED,
    Backend,
    Record,
    ScopeInfo,
    ScopeLock,
    StepStatus,
    Taken,
)
from converge.lease import Lease, RowLeases, RowOwner, check_lease, expire
from converge.model import make_mark
from converge.process import is_gone
from converge.sql import engines, scopes
from converge.sql.database import Database, repeatable
from converge.sql.engines import EngineRow
from converge.sql.open_database import open_database
from converge.sql.scopes import ScopeRow, StepRow
from converge.sql.transaction import Transaction

T = TypeVar("T")

LOG = logging.getLogger(__name__)


class _DatabaseBackend(Backend):
    """What the scopes of programs and of nodes have in common.

    :param database: a database with converge's tables.
    """

    def __init__(self, database: Database) -> None:
        self._database = self.origin = database

    def write(
        self, lock: ScopeLock, record: Record, transaction: Any = None, *, replaces: bool = False
    ) -> None:
        function = _rewrite if replaces else _write
        if transaction is not None:
            with self._database.join(transaction) as tx:
                function(tx, lock, record)
            return
        self._database.transact(
            lambda tx: function(tx, lock, record),
            Commit.STEP,
            happened=lambda tx, result: _is_written(tx, lock, record),
            one_statement=not replaces,
        )

    def advance(
        self, lock: ScopeLock, name: str, position: int, value: str, transaction: Any = None
    ) -> None:
        if transaction is not None:
            with self._database.join(transaction) as tx:
                _advance(tx, lock, name, position, value)
            return
        self._database.transact(
            lambda tx: _advance(tx, lock, name, position, value),
            Commit.ITEM,
            happened=lambda tx, result: _is_at(tx, lock, name, position),
            one_statement=True,
        )

    def release(self, lock: ScopeLock, *, finished: bool) -> None:
        self._database.transact(
            lambda tx: scopes.release_scope(tx, *_columns(lock), finished=finished),
            Commit.SCOPE_RELEASE,
            happened=repeatable,
            one_statement=True,
        )

    def list_scopes(self, *, after: str = "", limit: int = 1000) -> list[ScopeInfo]:
        found = self._database.read(
            lambda tx: scopes.list_scopes(tx, after, limit, StepStatus.KEYS)
        )
        return [_info(row, steps) for row, steps in found]

    def show(self, name: str) -> tuple[ScopeInfo, list[Record]]:
        def read(tx: Transaction) -> tuple[ScopeInfo, list[Record]]:
            row = _check_exists(scopes.get_scope(tx, name), name)
            records = [_record(one) for one in scopes.list_steps(tx, row.id)]
            count = sum(one.status is not StepStatus.KEYS for one in records)
            return _info(row, count), records

        return self._database.read(read)

    def forget(self, name: str, *, failed: bool = False) -> int:
        def forget(tx: Transaction) -> tuple[int, int]:
            row = _check_exists(scopes.lock_scope(tx, name), name)
            if row.holder is not None:
                raise Busy(f"scope {name!r} is being worked on by engine {row.holder}")
            if failed:
                return row.id, scopes.delete_failed(tx, [row.id], FAILED)
            steps = scopes.count_steps(tx, row.id, StepStatus.KEYS)
            scopes.delete_scopes(tx, [row.id])
            return row.id, steps

        def forgotten(tx: Transaction, result: tuple[int, int]) -> bool:
            scope_id, _ = result
            if failed:
                return not scopes.has_failed(tx, scope_id, FAILED)
            return not scopes.has_scopes(tx, [scope_id])

        return self._database.transact(forget, Commit.PRUNE, happened=forgotten)[1]

    def prune(self, *, age: float | None, keep: int | None, limit: int) -> int:
        def prune(tx: Transaction) -> list[int]:
            ids = scopes.list_finished(tx, age, keep, limit)
            scopes.delete_scopes(tx, ids)
            return ids

        def pruned(tx: Transaction, ids: list[int]) -> bool:
            return not scopes.has_scopes(tx, ids)

        return len(self._database.transact(prune, Commit.PRUNE, happened=pruned))

    def _transact_take(self, take: Callable[[Transaction], Taken]) -> Taken:
        def taken(tx: Transaction, result: Taken) -> bool:
            return scopes.is_held(tx, *_columns(result.lock))

        while True:
            try:
                return self._database.transact(take, Commit.TAKE, happened=taken)
            except Conflict:
                # another process created the scope at the same moment
                continue


class SqlBackend(_DatabaseBackend):
    """The scopes of programs, held under a lease.

    :param lease: seconds without a sign of life after which other processes take over scopes.
    :param owned: whether :meth:`close` closes the database, too.
    """

    def __init__(self, database: Database, lease: float, *, owned: bool = False) -> None:
        super().__init__(database)
        # the marks of scopes that this process holds, or is taking
        self._own_marks: set[int] = set()
        # the thread that renews the lease must not keep this object alive
        this = weakref.ref(self)

        def after(lease: Lease) -> None:
            backend = this()
            if backend is not None:
                backend.reconcile(lease)

        self.owner = RowOwner(database, lease, after)
        self._owned = owned

    def take(self, name: str) -> Taken:
        mark = make_mark()
        # before the commit: reconcile() may run right after it
        self._own_marks.add(mark)
        try:
            return self._take(name, mark)
        except BaseException:
            self._own_marks.discard(mark)
            raise

    def _take(self, name: str, mark: int) -> Taken:
        while True:
            try:
                return self.owner.attempt_lease(
                    lambda lease: self._transact_take(lambda tx: _take(tx, name, lease, mark))
                )
            except Busy:
                if not self._expire_dead_holder(name):
                    raise

    def release(self, lock: ScopeLock, *, finished: bool) -> None:
        try:
            super().release(lock, finished=finished)
        finally:
            # not before: reconcile() would release the scope as unfinished
            self._own_marks.discard(lock.mark)

    def reconcile(self, lease: Lease) -> None:
        """Release scopes that a lease holds without this process knowing.

        They are left by a commit whose reply was lost, by an outage in which they could not be
        released, and by a database that lost its last seconds.
        """
        leases = lease.leases
        assert isinstance(leases, RowLeases)
        # over the connection of the lease, so that this does not wait for the work
        database = leases.database
        try:
            # read the rows before the marks: a scope that is taken meanwhile then has its mark here
            held = database.read(lambda tx: _list_held(tx, lease))
            unknown = [one for one in held if one[-1] not in self._own_marks]
            if unknown:
                free = database.transact(
                    lambda tx: scopes.free_scopes(tx, lease.id, unknown),
                    Commit.SCOPE_RELEASE,
                    happened=repeatable,
                )
                LOG.warning("the journal released %s scopes, which it did not know", free)
        except ConvergeError as error:
            LOG.warning("the journal cannot compare its scopes: %s; tried again later", error)

    def _expire_dead_holder(self, name: str) -> bool:
        """End the lease of a scope's holder if its process was on this host and is gone.

        :returns: whether the scope can be taken now.
        """

        def find(tx: Transaction) -> EngineRow | None:
            row = scopes.get_scope(tx, name)
            holder = None if row is None else row.holder
            return None if holder is None else engines.get_engines(tx, [holder]).get(holder)

        holder = self._database.read(find)
        if holder is None:
            return True  # it was released meanwhile
        if not is_gone(holder.process):
            return False
        expire(self._database, [holder.id])
        return True

    def close(self) -> None:
        self.owner.close()
        if self._owned:
            self._database.close()


class GuardedBackend(_DatabaseBackend):
    """The scope of work that another lock guards: the holder of that lock takes the scope from any
    earlier holder.

    :param engine_id: the engine that has the lock.
    :param guard: locks that lock's row until the transaction ends; raises
        :class:`~converge.StaleLock` if the engine no longer has the lock.
    :param resource_id: the resource that the work is about, if any.
    """

    def __init__(
        self,
        database: Database,
        engine_id: int,
        guard: Callable[[Transaction], object],
        resource_id: int | None,
    ) -> None:
        super().__init__(database)
        self._engine_id = engine_id
        self._guard = guard
        self._resource_id = resource_id

    def take(self, name: str) -> Taken:
        return self._transact_take(lambda tx: self._take(tx, name))

    def _take(self, tx: Transaction, name: str) -> Taken:
        self._guard(tx)
        mark = make_mark()
        scope_id, epoch = scopes.insert_or_take(tx, name, self._engine_id, mark, self._resource_id)
        records = [_record(one) for one in scopes.list_steps(tx, scope_id)]
        return Taken(ScopeLock(scope_id, self._engine_id, epoch, mark), False, records)

    def close(self) -> None:
        """Does nothing: the scope is released with the lock that guards it."""


def open_url(url: str, lease: float) -> SqlBackend:
    """The journal in the database of a URL.

    :raises SchemaError: the database lacks converge's tables.
    """
    return SqlBackend(open_database(url), lease, owned=True)


def _take(tx: Transaction, name: str, lease: Lease, mark: int) -> Taken:
    owner = lease.id
    check_lease(tx, owner, lease.mark)
    row = scopes.lock_scope(tx, name)
    if row is None:
        return Taken(ScopeLock(scopes.insert_scope(tx, name, owner, mark), owner, 1, mark))
    if row.holder is not None:
        raise Busy(f"scope {name!r} is being worked on by engine {row.holder}")
    epoch = scopes.take_scope(tx, row, owner, mark)
    records = [_record(one) for one in scopes.list_steps(tx, row.id)]
    return Taken(ScopeLock(row.id, owner, epoch, mark), row.finished_at is not None, records)


def _list_held(tx: Transaction, lease: Lease) -> list[scopes.LockedScope]:
    # the id may belong to another lease by now, with locks of its own
    check_lease(tx, lease.id, lease.mark)
    return scopes.list_held(tx, lease.id)


def _columns(lock: ScopeLock) -> tuple[int, int, int, int]:
    return lock.scope, lock.owner, lock.epoch, lock.mark


def _write(tx: Transaction, lock: ScopeLock, record: Record) -> None:
    scopes.insert_step(
        tx,
        *_columns(lock),
        record.name,
        wait=record.wait,
        **_values(record),
    )


def _rewrite(tx: Transaction, lock: ScopeLock, record: Record) -> None:
    scopes.keep_lock(tx, *_columns(lock))
    scopes.update_step(tx, lock.scope, record.name, record.wait, **_values(record))


def _values(record: Record) -> dict[str, Any]:
    return {
        "number": record.number,
        "version": record.version,
        # as a plain string, which drivers take as it is
        "status": record.status.value,
        "value": record.value,
        "attempts": record.attempts,
        "position": record.position,
    }


def _is_written(tx: Transaction, lock: ScopeLock, record: Record) -> bool:
    found = scopes.find_step(tx, lock.scope, record.name)
    return found is not None and {
        name: getattr(found, name) for name in _values(record)
    } == _values(record)


def _advance(tx: Transaction, lock: ScopeLock, name: str, position: int, value: str) -> None:
    scopes.advance_step(tx, *_columns(lock), name, StepStatus.OPEN, position, value)


def _is_at(tx: Transaction, lock: ScopeLock, name: str, position: int) -> bool:
    found = scopes.find_step(tx, lock.scope, name)
    return found is not None and found.position == position


def _check_exists(row: ScopeRow | None, name: str) -> ScopeRow:
    if row is None:
        raise NotFound(f"there is no scope {name!r}")
    return row


_STATUSES = {str(status): status for status in StepStatus}


def _record(row: StepRow) -> Record:
    # there may be many: by position takes half the time of by name
    name, number, version, status, value, attempts, wait, position, at = row
    left = wait if wait > 0 else 0.0
    return Record(name, number, version, _STATUSES[status], value, attempts, left, position, at)


def _info(row: ScopeRow, steps: int) -> ScopeInfo:
    return ScopeInfo(
        name=row.name,
        steps=steps,
        owner=None if row.holder is None else f"engine {row.holder}",
        created=row.created_at,
        updated=row.updated_at,
        finished=row.finished_at,
    )
