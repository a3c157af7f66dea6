"""What a journal needs from the store of its scopes.

Each method is atomic. This module, and one suite of tests that runs against all backends, are the
specification of a backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class StepStatus(StrEnum):
    """The status of a recorded step."""

    DONE = "DONE"
    #: it failed for good
    FAILED = "FAILED"
    #: it failed, and the program caught that and went on
    CAUGHT = "CAUGHT"
    #: it failed, and will be tried again
    RETRY = "RETRY"
    #: an ``each`` that has not ended
    OPEN = "OPEN"
    #: an ``each`` that has ended
    END = "END"
    #: not a step, but keys of items of an ``each`` that are done
    KEYS = "KEYS"


@dataclass(frozen=True, slots=True)
class Record:
    """A recorded step.

    :ivar name: unique in the scope; the names of nested scopes come before it.
    :ivar number: its place in the order of its (nested) scope, from 1.
    :ivar version: the version of the step.
    :ivar value: JSON text (:mod:`converge.journal.values`): what the step returned; for a failed
        one, the type and message of the exception; for an ``each``, which items are done
        (:mod:`converge.journal.items`).
    :ivar attempts: how often it was tried.
    :ivar wait: seconds until the next attempt; when read, those that remain.
    :ivar position: how many items of an ``each`` are done.
    :ivar at: when it was recorded, in seconds since 1970; set when read.
    """

    name: str
    number: int
    version: int = 1
    status: StepStatus = StepStatus.DONE
    value: str = "null"
    attempts: int = 1
    wait: float = 0.0
    position: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class ScopeLock:
    """The lock on a scope.

    :ivar scope: its key in the backend.
    :ivar owner: the id of the lease that holds it.
    :ivar epoch: grows each time that the scope is taken.
    :ivar mark: a random number for each time: the other values are used again after the store lost
        its last seconds.
    """

    scope: Any
    owner: int
    epoch: int
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A scope that was taken.

    :ivar finished: whether it was finished before.
    :ivar records: its records, by number.
    """

    lock: ScopeLock
    finished: bool = False
    records: list[Record] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ScopeInfo:
    """A scope, for people. Times are in seconds since 1970.

    :ivar steps: how many steps are recorded, not counting records of keys.
    :ivar owner: who holds it, None if it is free.
    :ivar finished: when it was finished, None if it was not.
    """

    name: str
    steps: int
    owner: str | None
    created: float
    updated: float
    finished: float | None


#: The statuses of steps that fail again without being called.
FAILED = (StepStatus.FAILED, StepStatus.CAUGHT)


class Backend(ABC):
    """Stores scopes and their steps.

    A lock is lost when its owner gives no sign of life for the length of a lease and another owner
    takes the scope. What the former owner writes after that is refused.

    :ivar origin: what its errors have as their origin; see :func:`converge.errors.comes_from`.
    """

    origin: object = None

    @abstractmethod
    def take(self, name: str) -> Taken:
        """Take a scope; create it if it does not exist.

        :raises Busy: another live owner holds it.
        """

    @abstractmethod
    def write(
        self, lock: ScopeLock, record: Record, transaction: Any = None, *, replaces: bool = False
    ) -> None:
        """Write a step's record.

        :param transaction: the caller's own transaction, if the backend has transactions.
        :param replaces: whether there is a record of that name, which is overwritten.
        :raises StaleLock: the lock was lost.
        :raises BadInput: this backend has no transactions.
        """

    @abstractmethod
    def advance(
        self, lock: ScopeLock, name: str, position: int, value: str, transaction: Any = None
    ) -> None:
        """Record a higher position of an ``each``.

        :param value: the new value of its record.
        :param transaction: as in :meth:`write`.
        :raises StaleLock: the lock was lost, or the recorded position is not lower.
        """

    @abstractmethod
    def release(self, lock: ScopeLock, *, finished: bool) -> None:
        """Release a scope; does nothing if the lock was lost.

        :param finished: whether the scope is finished.
        """

    @abstractmethod
    def list_scopes(self, *, after: str = "", limit: int = 1000) -> list[ScopeInfo]:
        """At most ``limit`` scopes, ordered by name, that come after ``after``."""

    @abstractmethod
    def show(self, name: str) -> tuple[ScopeInfo, list[Record]]:
        """A scope with its records.

        :raises NotFound: there is no such scope.
        """

    @abstractmethod
    def forget(self, name: str, *, failed: bool = False) -> int:
        """Delete a scope with its records.

        :param failed: delete only its records of steps that failed for good, caught or not.
        :returns: how many steps were deleted.
        :raises NotFound: there is no such scope.
        :raises Busy: a live owner holds it.
        """

    @abstractmethod
    def prune(self, *, age: float | None, keep: int | None, limit: int) -> int:
        """Delete finished scopes.

        :param age: only those that finished at least this many seconds ago; None for all.
        :param keep: keep this many that finished last; None for none.
        :param limit: the most to delete.
        :returns: how many were deleted.
        """

    @abstractmethod
    def close(self) -> None:
        """Release all scopes, and close what was opened."""
