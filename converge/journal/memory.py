"""A journal in memory: for tests, and as the simplest example of a backend."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from converge.errors import BadInput, Busy, NotFound, StaleLock
from converge.hiding import show_place
from converge.journal.backend import (
    FAILED,
    Backend,
    Record,
    ScopeInfo,
    ScopeLock,
    StepStatus,
    Taken,
)


@dataclass(slots=True)
class _Scope:
    epoch: int = 0
    owner: int | None = None
    created: float = 0.0
    updated: float = 0.0
    finished: float | None = None
    records: dict[str, Record] = field(default_factory=dict)


class Memory:
    """The store that several backends share, as processes share a database.

    :param clock: returns the time in seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.scopes: dict[str, _Scope] = {}
        #: owner → when its lease ends
        self.owners: dict[int, float] = {}
        self.last_owner = 0


class MemoryBackend(Backend):
    """One owner's view of a :class:`Memory`.

    :param lease: seconds that a lease lasts; every call renews it.
    """

    def __init__(self, memory: Memory, lease: float) -> None:
        self._memory = memory
        self._lease = lease
        self._owner = 0
        with memory.lock:
            self._renew()

    @classmethod
    def open(cls, url: str, lease: float) -> MemoryBackend:
        """A backend with a memory of its own.

        :raises BadInput: the URL has more than the scheme.
        """
        if url != "memory://":
            raise BadInput(f"a journal in memory has the URL memory://, not {show_place(url)}")
        return cls(Memory(), lease)

    def _renew(self) -> float:
        now = self._memory.clock()
        if not self._alive(self._owner):
            # the lease has expired, and all its locks with it
            self._memory.last_owner += 1
            self._owner = self._memory.last_owner
        self._memory.owners[self._owner] = now + self._lease
        return now

    def _alive(self, owner: int | None) -> bool:
        ends = self._memory.owners.get(owner or 0, 0.0)
        return owner is not None and ends > self._memory.clock()

    def _locked(self, lock: ScopeLock) -> _Scope:
        scope = self._memory.scopes.get(lock.scope)
        if scope is None or (scope.owner, scope.epoch) != (lock.owner, lock.epoch):
            raise StaleLock(f"scope {lock.scope!r} is no longer held by this caller")
        return scope

    def take(self, name: str) -> Taken:
        with self._memory.lock:
            now = self._renew()
            scope = self._memory.scopes.setdefault(name, _Scope(created=now))
            if self._alive(scope.owner):
                raise Busy(f"scope {name!r} is being worked on by {scope.owner}")
            scope.epoch += 1
            scope.owner = self._owner
            scope.updated = now
            records = sorted(scope.records.values(), key=lambda one: (one.number, one.name))
            return Taken(
                ScopeLock(name, self._owner, scope.epoch),
                scope.finished is not None,
                [_as_read(record, now) for record in records],
            )

    def write(
        self, lock: ScopeLock, record: Record, transaction: Any = None, *, replaces: bool = False
    ) -> None:
        _refuse(transaction)
        with self._memory.lock:
            now = self._renew()
            scope = self._locked(lock)
            scope.records[record.name] = replace(record, at=now)
            scope.updated = now

    def advance(
        self, lock: ScopeLock, name: str, position: int, value: str, transaction: Any = None
    ) -> None:
        _refuse(transaction)
        with self._memory.lock:
            now = self._renew()
            scope = self._locked(lock)
            record = scope.records.get(name)
            if (
                record is None
                or record.status is not StepStatus.OPEN
                or record.position >= position
            ):
                raise StaleLock(f"each {name!r} is at item {position} already, or beyond it")
            scope.records[name] = replace(record, position=position, value=value, at=now)
            scope.updated = now

    def release(self, lock: ScopeLock, *, finished: bool) -> None:
        with self._memory.lock:
            now = self._renew()
            try:
                scope = self._locked(lock)
            except StaleLock:
                return
            scope.owner = None
            scope.updated = now
            scope.finished = now if finished else None

    def list_scopes(self, *, after: str = "", limit: int = 1000) -> list[ScopeInfo]:
        with self._memory.lock:
            names = sorted(name for name in self._memory.scopes if name > after)
            return [self._info(name) for name in names[:limit]]

    def _info(self, name: str) -> ScopeInfo:
        scope = self._memory.scopes[name]
        owner = str(scope.owner) if self._alive(scope.owner) else None
        return ScopeInfo(name, _count(scope), owner, scope.created, scope.updated, scope.finished)

    def show(self, name: str) -> tuple[ScopeInfo, list[Record]]:
        with self._memory.lock:
            if name not in self._memory.scopes:
                raise NotFound(f"there is no scope {name!r}")
            now = self._memory.clock()
            records = sorted(
                self._memory.scopes[name].records.values(), key=lambda one: (one.number, one.name)
            )
            return self._info(name), [_as_read(record, now) for record in records]

    def forget(self, name: str, *, failed: bool = False) -> int:
        with self._memory.lock:
            if name not in self._memory.scopes:
                raise NotFound(f"there is no scope {name!r}")
            if self._alive(self._memory.scopes[name].owner):
                raise Busy(f"scope {name!r} is being worked on")
            records = self._memory.scopes[name].records
            if not failed:
                return _count(self._memory.scopes.pop(name))
            forgotten = [key for key, one in records.items() if one.status in FAILED]
            for key in forgotten:
                del records[key]
            return len(forgotten)

    def prune(self, *, age: float | None, keep: int | None, limit: int) -> int:
        with self._memory.lock:
            finished = sorted(
                (scope.finished, name)
                for name, scope in self._memory.scopes.items()
                if scope.finished is not None and not self._alive(scope.owner)
            )
            if keep is not None:
                finished = finished[: max(0, len(finished) - keep)]
            if age is not None:
                before = self._memory.clock() - age
                finished = [one for one in finished if one[0] <= before]
            for _, name in finished[:limit]:
                del self._memory.scopes[name]
            return len(finished[:limit])

    def close(self) -> None:
        with self._memory.lock:
            self._memory.owners.pop(self._owner, None)


def _count(scope: _Scope) -> int:
    """How many steps are recorded."""
    return sum(one.status is not StepStatus.KEYS for one in scope.records.values())


def _as_read(record: Record, now: float) -> Record:
    """The record with the remaining wait for a retry."""
    return replace(record, wait=max(0.0, record.at + record.wait - now))


def _refuse(transaction: object) -> None:
    if transaction is not None:
        raise BadInput("a journal in memory has no transactions; leave out transaction=")
