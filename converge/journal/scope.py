"""A scope: a piece of work whose steps are done once each, however often it is begun."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from converge.errors import BadInput, JournalMismatch
from converge.journal.backend import Backend, Record, StepStatus, Taken
from converge.journal.items import ByKey, InOrder, Item, Progress, sort_keys
from converge.journal.step import Step
from converge.model import NAME_LENGTH, check_name
from converge.plain import lazy_kind
from converge.retry import RetryPolicy

if TYPE_CHECKING:
    from converge.sql.database import HostTransaction

T = TypeVar("T")

#: The name space of idempotency keys, unless a scope has its own.
KEYS = uuid.UUID("6b0fb1a5-7d0c-5c1c-9c5e-2f8f4b7a4a01")
_SEPARATOR = "/"


class _Ledger:
    """What a taken scope and its nested ones share: the hold, and what is recorded."""

    def __init__(
        self,
        backend: Backend,
        name: str,
        taken: Taken,
        pause: Callable[[float], None],
        key_namespace: uuid.UUID = KEYS,
    ) -> None:
        self.backend = backend
        self.name = name
        self.taken = taken
        self.pause = pause
        self.key_namespace = key_namespace
        self.records = {record.name: record for record in taken.records}
        self.written = False
        self.asked: set[str] = set()
        # what was recorded before, by the scopes around it and its number
        self.recorded: dict[str, dict[int, Record]] = {}
        self.keys = sort_keys(taken.records)
        self.steps = [one for one in taken.records if one.status is not StepStatus.KEYS]
        for record in self.steps:
            prefix = record.name[: record.name.rfind(_SEPARATOR) + 1]
            self.recorded.setdefault(prefix, {})[record.number] = record

    def write(self, record: Record, transaction: HostTransaction | None) -> None:
        replaces = record.name in self.records
        self.written = True
        self.backend.write(self.taken.lock, record, transaction, replaces=replaces)
        self.records[record.name] = record


class Scope:
    """A piece of work, taken by this caller and nobody else. From :meth:`Journal.scope`.

    Its steps are asked for in the same order each time. Not to be shared by threads; give
    each a nested scope of its own.

    :ivar name: its name.
    :ivar finished: whether it had come to its end before; all its steps are recorded then.
    """

    def __init__(self, ledger: _Ledger, prefix: str = "") -> None:
        self.name = ledger.name if not prefix else f"{ledger.name}{_SEPARATOR}{prefix[:-1]}"
        self.finished = ledger.taken.finished
        self._ledger = ledger
        self._prefix = prefix
        self._count = 0
        # steps that failed, of which nothing is recorded; the program may have caught that
        self._raised: list[Record] = []
        self._recorded = ledger.recorded.get(prefix, {})

    # -- steps

    @overload
    def step(
        self,
        name: str,
        function: None = None,
        /,
        *,
        version: int = 1,
        retry: RetryPolicy | None = None,
        transaction: HostTransaction | None = None,
    ) -> Step: ...

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., T],
        /,
        *args: Any,
        version: int = 1,
        retry: RetryPolicy | None = None,
        transaction: HostTransaction | None = None,
        **kwargs: Any,
    ) -> T: ...

    def step(
        self,
        name: str,
        function: Callable[..., Any] | None = None,
        /,
        *args: Any,
        version: int = 1,
        retry: RetryPolicy | None = None,
        transaction: HostTransaction | None = None,
        **kwargs: Any,
    ) -> Any:
        """Do a step, unless it is recorded; then give what is.

        Between the effect of the function and its record there is one edge: a process that
        dies there does the step again. With ``transaction``, in which the function has its
        effect, too, there is none, and it happens exactly once. Otherwise hand the step's
        idempotency key to the outside: a function with a parameter ``idempotency_key`` is
        given it.

        :param name: unique in the scope.
        :param function: called with ``args`` and ``kwargs`` (use :func:`functools.partial` for
            one that itself takes ``version``, ``retry`` or ``transaction``). Without it a
            :class:`Step` is returned, a context manager and decorator.
        :param version: a higher one than the recorded does the step again.
        :param retry: when a failure is tried again; the count and the time are recorded. When
            it gives up, the failure is recorded, and the function is not called again. Without
            it, a failure is recorded if the program catches it and goes on to another step, or
            to its end; when it runs again, the step fails in the same way, without a call.
            Not with ``transaction``.
        :param transaction: the caller's own, in which the step is recorded; the caller commits,
            and takes the scope again after a rollback.
        :returns: what the function returned, as its record gives it back.
        :raises StepFailed: it failed for good, now or earlier.
        :raises JournalMismatch: other steps are recorded than the program asks for.
        :raises BadInput: the name was used before, or the value cannot be stored.
        :raises StaleLock: the scope was lost to another caller.
        """
        step = Step(self, name, version, retry, transaction)
        return step if function is None else step.call(function, *args, **kwargs)

    def each(
        self,
        name: str,
        items: Iterable[T] | Callable[[int], Iterable[T]],
        *,
        key: Callable[[T], str | int] | None = None,
        every: int = 1,
    ) -> Iterator[Item[T]]:
        """Go through items; one is done when the next is asked for. A scope that is begun again
        goes on after the last one done.

        :param name: unique in the scope.
        :param items: the same ones in the same order each time: those that are done are passed
            over, and a digest tells whether they are the same. (Of an item that cannot be stored
            as a value, it tells that there is one.) Or a function that is given how many are
            done, and returns the rest; nobody looks then at those that are done.
        :param key: gives the key of an item, a string or a whole number that no other one has.
            The items may then be others each time, in any order: those whose keys are done are
            passed over. Give the items themselves, not a function.
        :param every: record after so many items, and at the end.
        :returns: items with ``value``, ``index`` and a repeatable unique ``key``. Their
            ``done(transaction=…)`` records one in the caller's transaction, beside its effect.
        :raises JournalMismatch: the first items are others than those that are done, or there are
            fewer; or as in :meth:`step`.
        :raises BadInput: two items have one key.
        """
        if type(every) is not int or every < 1:
            raise BadInput(
                f"each {name!r}: every must be a whole number of at least 1, not {every!r}"
            )
        if key is not None and (callable(items) or not callable(key)):
            raise BadInput(
                f"each {name!r}: key must be a function of an item, and the items be given "
                "themselves, not a function that is told how many are done"
            )
        kind = lazy_kind(items) if callable(items) else None
        # a generator gives its items when they are asked for
        if kind is not None and kind != "a generator":
            raise BadInput(
                f"each {name!r}: {items!r} is {kind}, whose call gives no items; "
                "give it a plain function, such as one that calls asyncio.run()"
            )
        path, number, record = self._ask(name, 1)
        if record is not None and record.status is StepStatus.END:
            return
        if record is not None and record.status is not StepStatus.OPEN:
            raise JournalMismatch(
                f"scope {self.name!r}: {name!r} was a step, and is an each() now",
                recorded=f"step {path}",
                asked=f"each {path}",
            )
        where = f"scope {self.name!r}: each {name!r}"
        found = record or Record(path, number, status=StepStatus.OPEN)
        progress: Progress
        if key is None:
            progress = InOrder(self._ledger, where, found, every)
        else:
            progress = ByKey(self._ledger, where, found, every, key)
        if record is None:
            self._ledger.write(found, None)
        for index, value, own in progress.rest(items):
            position = progress.position
            yield Item(value, index, partial(self._make_key, name, own), progress, position)
            progress.reach(position)
        end = progress.position
        self._ledger.write(Record(path, number, status=StepStatus.END, position=end), None)

    def key(self, name: str, index: int | None = None, *, version: int = 1) -> str:
        """The idempotency key of a step or item: the same each time, and no other's.

        :param version: of the step; what is done again on purpose must not be taken for what
            was done before.
        :returns: a UUID (version 5, RFC 9562) of scope, step and index.
        """
        more = [] if index is None else [str(index)]
        if version != 1:
            more.append(f"version {version}")
        return self._make_key(name, *more)

    def _make_key(self, name: str, *more: str) -> str:
        # a separator that no name has keeps ("a", "b/c") and ("a/b", "c") apart
        parts = [self._ledger.name, f"{self._prefix}{name}", *more]
        return str(uuid.uuid5(self._ledger.key_namespace, "\n".join(parts)))

    @contextmanager
    def scope(self, name: str) -> Iterator[Scope]:
        """A nested scope: its steps have their own names and order. It shares the lock."""
        _check_step_name(name)
        path = self._prefix + name + _SEPARATOR
        if path in self._ledger.asked:
            raise BadInput(f"scope {self.name!r} has a nested scope {name!r} already")
        self._ledger.asked.add(path)
        nested = Scope(self._ledger, path)
        # its first step is what the program goes on to
        nested._raised, self._raised = self._raised, []
        try:
            yield nested
            nested._check_all_asked()
        finally:
            # whoever goes on after it has caught that
            self._raised += nested._raised

    # -- helpers

    def _ask(
        self, name: str, version: int, transaction: HostTransaction | None = None
    ) -> tuple[str, int, Record | None]:
        """Note that a step is asked for.

        :param transaction: the caller's own, in which the step is to be recorded.
        :returns: its name with those of the scopes around it, its number, and its record.
        """
        if type(version) is not int or version < 1:
            raise BadInput(f"step {name!r}: version must be a whole number from 1, not {version!r}")
        path = f"{self._prefix}{name}"
        record = self._ledger.records.get(path)
        if record is None or type(name) is not str:
            _check_step_name(name)
            if len(path) > NAME_LENGTH:
                raise BadInput(f"step {path!r} has a name of over {NAME_LENGTH} characters")
        if path in self._ledger.asked:
            raise BadInput(
                f"scope {self.name!r} has a step {name!r} already; "
                "number the names, or use each() or a nested scope; "
                "to have a step that failed tried again, give it retry=converge.RetryPolicy(...)"
            )
        self._record_raised(transaction)
        self._ledger.asked.add(path)
        self._count += 1
        here = self._recorded.get(self._count)
        if record is not here:
            raise self._mismatch(name, here, record)
        if record is not None and version < record.version:
            raise JournalMismatch(
                f"scope {self.name!r}: version {record.version} of step {name!r} is recorded, "
                f"version {version} was asked for",
                recorded=f"{path} version {record.version}",
                asked=f"{path} version {version}",
            )
        return path, self._count, record

    def _record_raised(self, transaction: HostTransaction | None = None) -> None:
        """The program goes on after steps that failed: when it runs again, it must come the same
        way, so they must fail again.

        :param transaction: the caller's, if the next step is recorded in it: it may keep everybody
            else from writing, and what is undone with the next step was not gone on from.
        """
        raised, self._raised = self._raised, []
        for record in raised:
            self._ledger.write(record, transaction)

    def _mismatch(self, name: str, here: Record | None, record: Record | None) -> JournalMismatch:
        if here is None:
            assert record is not None
            found = f"as number {record.number}"
        else:
            found = f"step {here.name[len(self._prefix) :]!r} there"
            if record is not None:
                found += f", and {name!r} as number {record.number}"
        return JournalMismatch(
            f"scope {self.name!r}: the program asked for step {name!r} as number {self._count}; "
            f"recorded is {found}. It has changed since; to begin afresh, forget the scope",
            recorded=None if here is None else here.name,
            asked=f"{self._prefix}{name}",
        )

    def _check_end(self) -> None:
        """The scope comes to its end."""
        self._record_raised()
        self._check_all_asked()

    def _check_all_asked(self) -> None:
        """At the end, all that is recorded must have been asked for."""
        ledger = self._ledger
        recorded = self._recorded.values() if self._prefix else ledger.steps
        left = sorted(record.name for record in recorded if record.name not in ledger.asked)
        if left:
            shown = ", ".join(repr(name) for name in left[:5])
            raise JournalMismatch(
                f"scope {self.name!r}: the program came to its end without asking for recorded "
                f"steps: {shown}. It has changed since; to begin afresh, forget the scope",
                recorded=left[0],
                asked=None,
            )


def _check_step_name(name: object) -> None:
    check_name("step", name)
    if _SEPARATOR in str(name):
        raise BadInput(f"the name of a step must not have a {_SEPARATOR!r}: {name!r}")
