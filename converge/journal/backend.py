"""What a journal needs of the place where its scopes are kept.

Each method is atomic. One suite of tests runs against all backends, and is their
specification together with what is said here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class StepStatus(StrEnum):
    """How a recorded step stands."""

    DONE = "DONE"
    #: it failed for good
    FAILED = "FAILED"
    #: it failed, and the program went on
    CAUGHT = "CAUGHT"
    #: it failed, and is tried again
    RETRY = "RETRY"
    #: an ``each`` that has not come to its end
    OPEN = "OPEN"
    #: one that has
    END = "END"
    #: no step, but keys of an each's items that are done
    KEYS = "KEYS"


@dataclass(frozen=True, slots=True)
class Record:
    """A step as it was recorded.

    :ivar name: unique in the scope; within nested scopes with their names before it.
    :ivar number: as which step of its (nested) scope it was asked for, from 1.
    :ivar value: what it returned, as a text of JSON (:mod:`converge.journal.values`); or, of one
        that failed, the exception's type and message; or, of an ``each``, what tells which items
        are done (:mod:`converge.journal.items`).
    :ivar attempts: how often it was tried.
    :ivar wait: seconds until the next attempt; as read, what is left of them.
    :ivar position: how many items of an ``each`` are done.
    :ivar at: when, in seconds since 1970; as read.
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
    :ivar owner: who holds it.
    :ivar epoch: which grows with every taking.
    :ivar mark: a random number of the taking: the rest comes again after the place has forgotten
        its last seconds.
    """

    scope: Any
    owner: int
    epoch: int
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A scope that was taken, with what is recorded of it, by number."""

    lock: ScopeLock
    finished: bool = False
    records: list[Record] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ScopeInfo:
    """A scope, for people.

    :ivar steps: how many steps are recorded; records of keys are none.
    :ivar owner: who holds it, None if nobody does.
    :ivar finished: when it came to its end, in seconds since 1970, None if it has not.
    """

    name: str
    steps: int
    owner: str | None
    created: float
    updated: float
    finished: float | None


#: Of steps that fail again without a call.
FAILED = (StepStatus.FAILED, StepStatus.CAUGHT)


class Backend(ABC):
    """Keeps scopes and their steps.

    A hold is lost when its owner gives no sign of life for the length of a lease and
    somebody else takes the scope; whatever the loser then writes is refused.

    :ivar origin: what its errors name as theirs; see :func:`converge.errors.comes_from`.
    """

    origin: object = None

    @abstractmethod
    def take(self, name: str) -> Taken:
        """Take a scope; make it if it is not there.

        :raises Busy: somebody else, who lives, holds it.
        """

    @abstractmethod
    def write(
        self, lock: ScopeLock, record: Record, transaction: Any = None, *, replaces: bool = False
    ) -> None:
        """Write a step's record.

        :param replaces: there is one of that name, whose place it takes.
        :param transaction: the caller's own, where the backend has such.
        :raises StaleLock: the hold was lost.
        :raises BadInput: there are no such transactions here.
        """

    @abstractmethod
    def advance(
        self, lock: ScopeLock, name: str, position: int, value: str, transaction: Any = None
    ) -> None:
        """Note that an ``each`` has come to a position, which is beyond the one recorded.

        :param value: replaces that of its record.
        :raises StaleLock: the hold was lost, or it was there already.
        """

    @abstractmethod
    def release(self, lock: ScopeLock, *, finished: bool) -> None:
        """Let go of a scope; nothing happens if the hold was lost.

        :param finished: it has come to its end.
        """

    @abstractmethod
    def list_scopes(self, *, after: str = "", limit: int = 1000) -> list[ScopeInfo]:
        """Scopes by name, from the one after ``after`` on."""

    @abstractmethod
    def show(self, name: str) -> tuple[ScopeInfo, list[Record]]:
        """A scope with its records.

        :raises NotFound: there is none of that name.
        """

    @abstractmethod
    def forget(self, name: str, *, failed: bool = False) -> int:
        """Delete a scope with its records.

        :param failed: delete only its records of steps that failed for good, caught or not.
        :returns: how many records were deleted.
        :raises NotFound: there is none of that name.
        :raises Busy: somebody who lives holds it.
        """

    @abstractmethod
    def prune(self, *, age: float | None, keep: int | None, limit: int) -> int:
        """Delete finished scopes.

        :param age: those that finished so many seconds ago.
        :param keep: those beyond this many that finished last.
        :param limit: at most so many.
        :returns: how many were deleted.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""
