"""Errors that a driver raises, at a statement that the test chooses."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import Engine, event

WRITES = ("INSERT", "UPDATE", "DELETE", "WITH")


def only(name: str, *values: Any, id: str | None = None) -> Any:
    """A parameter for the fixture that gives a backend: this one only, and what goes with it."""
    marks = [pytest.mark.database, getattr(pytest.mark, name)]
    return pytest.param(name, *values, marks=marks, id=id or name)


class Faults:
    """Lets statements of an engine fail, as long as it is entered.

    :ivar raised: how many were.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._error: BaseException | None = None
        self._at: int | str = 1
        self._times = 0
        # by thread: each has a transaction of its own
        self._seen: Counter[int] = Counter()
        self._lock = threading.Lock()
        self.raised = 0
        #: released for each
        self.failed = threading.Semaphore(0)

    def __enter__(self) -> Faults:
        event.listen(self._engine, "begin", self._begin)
        event.listen(self._engine, "do_execute", self._execute)
        event.listen(self._engine, "do_executemany", self._execute)
        event.listen(self._engine, "commit", self._commit)
        return self

    def __exit__(self, *exception: object) -> None:
        event.remove(self._engine, "begin", self._begin)
        event.remove(self._engine, "do_execute", self._execute)
        event.remove(self._engine, "do_executemany", self._execute)
        event.remove(self._engine, "commit", self._commit)

    def fail(self, error: BaseException, *, at: int | str = 1, times: int = 1) -> None:
        """Raise an error of the driver.

        :param at: at which writing statement of a transaction, from 1; or ``"COMMIT"``.
        :param times: in how many transactions; -1 for all.
        """
        with self._lock:
            self._error, self._at, self._times = error, at, times
            self._seen.clear()

    def stop(self) -> None:
        """Let all statements pass."""
        with self._lock:
            self._times = 0

    def _begin(self, connection: object) -> None:
        with self._lock:
            self._seen[threading.get_ident()] = 0

    def _execute(self, cursor: object, statement: str, *more: Any) -> None:
        if not statement.lstrip().upper().startswith(WRITES):
            return
        with self._lock:
            thread = threading.get_ident()
            self._seen[thread] += 1
            if self._seen[thread] != self._at:
                return
        self._raise()

    def _commit(self, connection: Any) -> None:
        if self._at == "COMMIT" and self._seen[threading.get_ident()]:
            self._raise()

    def _raise(self) -> None:
        with self._lock:
            if not self._times or self._error is None:
                return
            self._times -= 1
            self.raised += 1
            error = self._error
        self.failed.release()
        raise error
