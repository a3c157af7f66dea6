"""A scope: a piece of work whose steps are done once each, however often it is started."""

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
from converge.retry import RetryPolicy
from converge.synchronous import deferred_kind

if TYPE_CHECKING:
    from converge.sql.transaction import HostTransaction

T = TypeVar("T")

#: The namespace of idempotency keys, unless a scope has its own.
KEYS = uuid.UUID("6b0fb1a5-7d0c-5c1c-9c5e-2f8f4b7a4a01")
_SEPARATOR = "/"


class _Ledger:
    """What a taken scope shares with its nested ones: the lock, and the records."""

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
        # earlier records, by the path of their nested scope and their number
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
    """A piece of work that only this caller holds. From :meth:`Journal.scope`.

    Its steps must be asked for in the same order each time. It must not be shared between threads;
    give each thread a nested scope.

    :ivar name: its name.
    :ivar finished: whether it was finished before; then all its steps are recorded.
    """

    def __init__(self, ledger: _Ledger, prefix: str = "") -> None:
        self.name = ledger.name if not prefix else f"{ledger.name}{_SEPARATOR}{prefix[:-1]}"
        self.finished = ledger.taken.finished
        self._ledger = ledger
        self._prefix = prefix
        self._count = 0
        # failed steps that are not recorded yet; the program may have caught the exceptions
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
        """Do a step, or return its recorded value if it was done before.

        A process that dies between the effect of the function and its record does the step again
        in its next run. If the function has its effect in ``transaction``, it happens exactly once.
        Otherwise pass the step's idempotency key to the other system: a function with a parameter
        ``idempotency_key`` gets it.

        :param name: unique in the scope.
        :param function: called with ``args`` and ``kwargs``. (Use :func:`functools.partial` for one
            that itself takes ``version``, ``retry`` or ``transaction``.) Without it, a
            :class:`Step` is returned: a context manager and decorator.
        :param version: if higher than the recorded one, the step is done again.
        :param retry: when a failure is tried again; attempts and times are recorded. After the last
            attempt the failure is recorded, and the function is not called again. Without it, a
            failure is recorded if the program catches it and goes on to another step or to its
            end; in its next run, the step fails in the same way without a call. Cannot be combined
            with ``transaction``.
        :param transaction: the caller's own transaction, in which the step is recorded. The caller
            commits it, and takes the scope again after a rollback.
        :returns: what the function returned, after a round trip through its record.
        :raises StepFailed: it failed for good, now or in an earlier run.
        :raises JournalMismatch: the recorded steps are not those that the program asks for.
        :raises BadInput: the name was used before, or the value cannot be stored.
        :raises StaleLock: another caller has taken the scope.
        """
        step = Step(self, name, version, retry, transaction)
        return step if function is None else step.call(function, *args, **kwargs)

    def open_step(self, name: str) -> Step:
        """A step that is asked for: it is done, or to be done with :meth:`Step.call_within`."""
        step = Step(self, name, 1, None, None)
        step._begin()
        return step

    def each(
        self,
        name: str,
        items: Iterable[T] | Callable[[int], Iterable[T]],
        *,
        key: Callable[[T], str | int] | None = None,
        every: int = 1,
    ) -> Iterator[Item[T]]:
        """Iterate over items; an item is done when the next one is asked for. The next run of the
        scope resumes after the last item done.

        :param name: unique in the scope.
        :param items: the same items in the same order each time. Those that are done are skipped,
            and a digest checks that they are the same. (An item that cannot be stored as a value
            is only counted.) Or a function that takes the number of items done and returns the
            rest; then those that are done are not checked.
        :param key: a function that returns the unique key of an item, a string or a whole number.
            The items may then change between runs, in any order: those whose keys are done are
            skipped. Needs the items themselves, not a function.
        :param every: record after this many items, and at the end.
        :returns: items with ``value``, ``index`` and a repeatable unique ``key``. Their
            ``done(transaction=…)`` records them in the caller's transaction, beside their effect.
        :raises JournalMismatch: the first items are not those that were done, or there are fewer;
            or as in :meth:`step`.
        :raises BadInput: two items have the same key, or an argument is not valid.
        """
        if type(every) is not int or every < 1:
            raise BadInput(
                f"each {name!r}: every must be a whole number of at least 1, not {every!r}"
            )
        if key is not None and (callable(items) or not callable(key)):
            raise BadInput(
                f"each {name!r}: key must be a function of an item, and the items "
                "must be given themselves, not as a function that returns them"
            )
        kind = deferred_kind(items) if callable(items) else None
        # a generator function returns its items when they are asked for
        if kind is not None and kind != "a generator":
            raise BadInput(
                f"each {name!r}: {items!r} is {kind}, whose call returns no items; "
                "give it a plain function, such as one that calls asyncio.run()"
            )
        path, number, record = self._ask(name, 1)
        if record is not None and record.status is StepStatus.END:
            return
        if record is not None and record.status is not StepStatus.OPEN:
            raise JournalMismatch(
                f"scope {self.name!r}: {name!r} is recorded as a step, and is an each() now; "
                "give it another name, or forget the scope to start again",
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
        """The idempotency key of a step or item: unique, and the same in every run.

        :param index: the index of the item, None for a step.
        :param version: the version of the step; a step that is done again on purpose has a new key.
        :returns: a UUID (version 5, RFC 9562) made of scope, step, index and version.
        """
        more = [] if index is None else [str(index)]
        if version != 1:
            more.append(f"version {version}")
        return self._make_key(name, *more)

    def _make_key(self, name: str, *more: str) -> str:
        # no name contains the separator, so ("a", "b/c") and ("a/b", "c") differ
        parts = [self._ledger.name, f"{self._prefix}{name}", *more]
        return str(uuid.uuid5(self._ledger.key_namespace, "\n".join(parts)))

    @contextmanager
    def scope(self, name: str) -> Iterator[Scope]:
        """A nested scope: its steps have their own names and order. It shares the lock.

        :raises BadInput: the name was used before, or is not valid.
        :raises JournalMismatch: its block ended without asking for all its recorded steps.
        """
        _check_step_name(name)
        path = self._prefix + name + _SEPARATOR
        if path in self._ledger.asked:
            raise BadInput(
                f"scope {self.name!r} already has a nested scope {name!r}; number the names"
            )
        self._ledger.asked.add(path)
        nested = Scope(self._ledger, path)
        # failures from before count as caught once the nested scope asks for a step
        nested._raised, self._raised = self._raised, []
        try:
            yield nested
            nested._check_all_asked()
        finally:
            # its failures count as caught once the program goes on after it
            self._raised += nested._raised

    # -- helpers

    def _ask(
        self, name: str, version: int, transaction: HostTransaction | None = None
    ) -> tuple[str, int, Record | None]:
        """Register that the program asks for a step.

        :param transaction: the caller's own transaction, in which the step will be recorded.
        :returns: its name with those of the nested scopes, its number, and its record if any.
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
                f"scope {self.name!r} already has a step {name!r}; "
                "number the names, or use each() or a nested scope; "
                "to retry a step that fails, give it retry=converge.RetryPolicy(...)"
            )
        self._record_raised(transaction)
        self._ledger.asked.add(path)
        self._count += 1
        here = self._recorded.get(self._count)
        if record is not here:
            raise self._mismatch(name, here, record)
        if record is not None and version < record.version:
            raise JournalMismatch(
                f"scope {self.name!r}: version {record.version} of step {name!r} is recorded, but "
                f"the program asks for the older version {version}",
                recorded=f"{path} version {record.version}",
                asked=f"{path} version {version}",
            )
        return path, self._count, record

    def _record_raised(self, transaction: HostTransaction | None = None) -> None:
        """Record failed steps whose exceptions the program caught: they must fail again in its
        next run, so that it takes the same path.

        :param transaction: the caller's, if the next step is recorded in it. It may keep others
            from writing; and if it is rolled back, the program did not go on.
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
            f"recorded is {found}. The program has changed; to start again, forget the scope",
            recorded=None if here is None else here.name,
            asked=f"{self._prefix}{name}",
        )

    def _check_end(self) -> None:
        """Check the records when the program ends the scope."""
        self._record_raised()
        self._check_all_asked()

    def _check_all_asked(self) -> None:
        """Check that the program asked for all the recorded steps."""
        ledger = self._ledger
        recorded = self._recorded.values() if self._prefix else ledger.steps
        left = sorted(record.name for record in recorded if record.name not in ledger.asked)
        if left:
            shown = ", ".join(repr(name) for name in left[:5])
            raise JournalMismatch(
                f"scope {self.name!r}: the program ended without asking for recorded steps: "
                f"{shown}. The program has changed; to start again, forget the scope",
                recorded=left[0],
                asked=None,
            )


def _check_step_name(name: object) -> None:
    check_name("step", name)
    if _SEPARATOR in str(name):
        raise BadInput(f"the name of a step must not contain {_SEPARATOR!r}: {name!r}")
