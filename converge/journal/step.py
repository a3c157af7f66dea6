"""A step of a scope: done, or read from its record."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable
from functools import lru_cache, partial, wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from converge.awaiting import Blocking, Call, Doing, Pause, run_async, run_plain
from converge.errors import BadInput, Cancelled, JournalMismatch, StepFailed, comes_from
from converge.journal.backend import Record, StepStatus
from converge.journal.values import check_returns, dumps, loads
from converge.reasons import read_message
from converge.retry import RetryPolicy
from converge.synchronous import ASYNC, check_finished, deferred_kind
from converge.wait import Wait

if TYPE_CHECKING:
    from converge.journal.scope import Scope
    from converge.sql.transaction import HostTransaction

P = ParamSpec("P")
T = TypeVar("T")

#: Characters of a failure's message that are kept.
_KEPT = 2000
_KEY_PARAMETER = "idempotency_key"


class Step:
    """A step, from :meth:`Scope.step` without a function.

    As a context manager, whose body the program skips if the step is done::

        with scope.step("charge") as step:
            if not step.done:
                step.value = charge(step.key)

    As a decorator of a function that is called once::

        @scope.step("charge")
        def charge(amount: int) -> str: ...

    :ivar done: whether it is recorded; then the body must do nothing.
    """

    def __init__(
        self,
        scope: Scope,
        name: str,
        version: int,
        retry: RetryPolicy | None,
        transaction: HostTransaction | None,
    ) -> None:
        if retry is not None and transaction is not None:
            raise BadInput(
                f"step {name!r}: retry and transaction exclude each other: after a failure in a "
                "transaction, the caller must begin a new one"
            )
        self.name = name
        self.done = False
        self._scope = scope
        self._version = version
        self._retry = retry
        self._transaction = transaction
        self._value: Any = None
        self._path = ""
        self._number = 0
        self._attempts = 0

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return self._scope.key(self.name, version=self._version)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def journaled(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.call(function, *args, **kwargs)

        return journaled

    def __enter__(self) -> Step:
        if wait := self._begin():
            self._scope._ledger.pause(wait)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            if not self.done:
                self._end(self._value)
        elif not self.done and isinstance(error, Exception):
            self._fail(error)

    @property
    def value(self) -> Any:
        """The value of the step, None unless it is set in the body of the ``with``.

        :raises BadInput: when set: it cannot be stored, or the step is done.
        """
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        if self.done:
            raise BadInput(f"step {self.name!r} is done; look at step.done before doing it")
        self._encode(value)
        self._value = value

    def call(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call a function for the step, or return the recorded value; see :meth:`Scope.step`."""
        self._check_function(function)
        return run_plain(self._calling(function, args, kwargs))

    async def call_async(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The same as :meth:`call`, for a caller on an event loop.

        :param function: it can be ``async def``; a plain one is called in a thread.
        """
        self._check_function(function, allowed=ASYNC)
        return await run_async(self._calling(function, args, kwargs))

    def _check_function(self, function: object, allowed: str | None = None) -> None:
        if not callable(function):
            raise BadInput(f"step {self.name!r}: {function!r} is not a function")
        kind = deferred_kind(function)
        if kind is None or kind == allowed:
            return
        remedy = "give it a plain function, such as one that calls asyncio.run()"
        if kind == ASYNC:
            remedy = "only an async handler can await it; elsewhere " + remedy
        raise BadInput(
            f"step {self.name!r}: {function!r} is {kind}, whose call does not run it; {remedy}"
        )

    def _calling(
        self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Doing[T]:
        pause = self._scope._ledger.pause
        if wait := (yield Blocking(self._begin)):
            yield Pause(wait, pause)
        if self.done:
            return self._value  # type: ignore[no-any-return]
        try:
            check_returns(function)
        except BadInput as error:
            raise BadInput(f"step {self.name!r}: {error}") from None
        if _takes_key(function):
            kwargs.setdefault(_KEY_PARAMETER, self.key)
        while True:
            try:
                value = yield Call(function, args, kwargs)
                check_finished(value, f"the function of step {self.name!r}")
            except Exception as error:
                wait = yield Blocking(partial(self._fail, error))
                if wait is None:
                    raise
                yield Pause(wait, pause)
                continue
            ended: T = yield Blocking(partial(self._end, value))
            return ended

    def call_within(
        self, transact: Callable[[Callable[[Any], Any]], Any], function: Callable[[Any], T]
    ) -> T:
        """Call a function in a transaction that records what it returns, if that is not None: so
        its effect there happens once.

        :param transact: runs a function in a transaction, perhaps several times.
        """
        ledger = self._scope._ledger

        def write(tx: Any) -> T:
            # of a try that was rolled back
            ledger.records.pop(self._path, None)
            value = function(tx)
            if value is not None:
                ledger.write(self._record(StepStatus.DONE, self._encode(value)), tx)
            return value

        made: T = transact(write)
        if made is not None:
            self.done, self._value = True, made
        return made

    def _begin(self) -> float:
        """Ask for it.

        :returns: seconds to wait before its next attempt.
        """
        self._path, self._number, record = self._scope._ask(
            self.name, self._version, self._transaction
        )
        if record is None or self._version > record.version:
            return 0.0
        if record.status is StepStatus.DONE:
            self.done = True
            self._value = loads(record.value)
        elif record.status is StepStatus.FAILED:
            raise self._failed(record)
        elif record.status is StepStatus.CAUGHT:
            raise self._caught(record)
        elif record.status is StepStatus.RETRY:
            self._attempts = record.attempts
            return max(0.0, record.wait)
        else:
            raise JournalMismatch(
                f"scope {self._scope.name!r}: {self.name!r} is recorded as an each(), and is a "
                "step now; give it another name, or forget the scope to start again",
                recorded=f"each {self._path}",
                asked=f"step {self._path}",
            )
        return 0.0

    def _end(self, value: Any) -> Any:
        text = self._encode(value)
        self._write(StepStatus.DONE, text, self._transaction)
        self.done = True
        self._value = loads(text)
        return self._value

    def _encode(self, value: Any) -> str:
        try:
            return dumps(value)
        except BadInput as error:
            raise BadInput(
                f"step {self.name!r} of scope {self._scope.name!r} has a value that cannot be "
                f"recorded: {error}"
            ) from None

    def _fail(self, error: Exception) -> float | None:
        """Record a failure according to the retry policy.

        :returns: seconds until the next attempt, None if there is no policy, or it is no failure.
        :raises StepFailed: there is no further attempt.
        """
        origin = self._scope._ledger.backend.origin
        if isinstance(error, Cancelled | Wait) or comes_from(error, origin):
            return None
        self._attempts += 1
        about = dumps({"type": type(error).__name__, "message": read_message(error)[:_KEPT]})
        if self._retry is None:
            self._scope._raised.append(self._record(StepStatus.CAUGHT, about))
            return None
        wait = self._retry.wait(self._attempts, error)
        status = StepStatus.FAILED if wait is None else StepStatus.RETRY
        self._write(status, about, None, wait or 0.0)
        if wait is None:
            record = self._scope._ledger.records[self._path]
            raise self._failed(record) from error
        return wait

    def _failed(self, record: Record) -> StepFailed:
        kind, reason = (loads(record.value)[part] for part in ("type", "message"))
        return StepFailed(
            f"step {self.name!r} of scope {self._scope.name!r} failed for good: {kind}: {reason}",
            step=self.name,
            kind=kind,
            reason=reason,
        )

    def _caught(self, record: Record) -> StepFailed:
        """A failure that the program caught before, also as an exception of the original type if
        that is built into Python."""
        kind, reason = (loads(record.value)[part] for part in ("type", "message"))
        error = _failure_type(kind)(reason, step=self.name, kind=kind, reason=reason)
        error.add_note(f"step {self.name!r} of scope {self._scope.name!r}; recorded earlier")
        return error

    def _write(
        self,
        status: StepStatus,
        value: str,
        transaction: HostTransaction | None,
        wait: float = 0.0,
    ) -> None:
        self._scope._ledger.write(self._record(status, value, wait), transaction)

    def _record(self, status: StepStatus, value: str, wait: float = 0.0) -> Record:
        attempts = self._attempts + (status is StepStatus.DONE)
        return Record(self._path, self._number, self._version, status, value, attempts, wait)


@lru_cache(maxsize=1000)
def _failure_type(kind: str) -> type[StepFailed]:
    """A subclass of StepFailed and of a built-in exception.

    :param kind: the name of the exception; for any that is not built in, StepFailed is returned.
    """
    found = getattr(builtins, kind, None)
    if not (isinstance(found, type) and issubclass(found, Exception)) or found is Exception:
        return StepFailed
    # KeyError would show its message in quotes
    body = {"__str__": lambda self: self.reason, "__module__": __name__}
    try:
        made: type[StepFailed] = type(kind, (StepFailed, found), body)
        made("", step="", kind=kind, reason="")
    except TypeError:
        # it needs more arguments than a message
        return StepFailed
    return made


@lru_cache(maxsize=1000)
def _has_key_parameter(function: Any) -> bool:
    try:
        return _KEY_PARAMETER in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _takes_key(function: Any) -> bool:
    try:
        return _has_key_parameter(function)
    except TypeError:  # not hashable
        return False
