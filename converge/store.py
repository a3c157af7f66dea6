"""The public face: :func:`connect` and :class:`Store`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from converge.bus.memory import MemoryBus
from converge.crash_points import Commit
from converge.errors import BadInput, Conflict, NotFound
from converge.inspection.queries import Queries
from converge.model import Action, OnFailure, Status, TraversalStatus, check_name, check_seconds
from converge.protocol.forget import Forgotten, forget
from converge.protocol.halt import halt
from converge.protocol.recover import Sweep, sweep
from converge.protocol.rollback import check_version, choose_target
from converge.protocol.start import (
    Intent,
    Started,
    check_expected,
    choose_template,
    is_wanted,
    start,
)
from converge.resources.resource_type import ResourceType, check_types
from converge.sql import resources, stacks, traversals
from converge.sql.connections import HOST_SECONDS
from converge.sql.database import Database, Transaction
from converge.sql.opening import Url, open_database
from converge.sql.stacks import StackRow
from converge.sql.types import SOURCE_LENGTH, text
from converge.stack import Stack
from converge.template import Template

if TYPE_CHECKING:
    from converge.sql.database import HostTransaction

#: Rounds of recovery by hand at most: each is bounded, and meanwhile more can be left behind.
_ROUNDS = 100


def connect(
    url: Url | None = None,
    *,
    create_schema: bool = False,
    connections: int | None = None,
    clock: Callable[[], float] | None = None,
) -> Store:
    """Open the database that converge's tables live in.

    :param url: an SQLAlchemy URL; default is the environment's ``CONVERGE_DB``, or
        ``sqlite:///converge.db``.
    :param create_schema: make or upgrade converge's tables if need be; otherwise a program
        runs ``converge db upgrade`` first.
    :param connections: how many connections there may be at a time; None: as many as are asked
        for, which is one for each thread that uses the store. A lease has another one, always.
    :param clock: what tells the time, in seconds since 1970, instead of the database; for tests.
    :raises BadInput: the URL is wrong or its driver is not installed.
    :raises SchemaError: the tables are missing, too old, too new, or not converge's.
    :raises StoreError: the database cannot be reached or used.
    """
    return Store(
        open_database(url, create_schema=create_schema, connections=connections, clock=clock)
    )


class Store(Queries):
    """The stacks of one database. Made by :func:`connect`; safe to share between threads.

    Every method that starts something says what became of it: it returns a :class:`Stack`
    whose ``outcome`` is ``started``, ``superseded``, ``resumed`` or ``done``, or raises
    :class:`~converge.Conflict`. Each takes ``transaction``: the caller's own (from
    :meth:`transaction`, or a SQLAlchemy connection or session), in which the start happens
    beside the caller's rows and is committed by the caller.

    The common parameters are: ``parameters``, values for the template's parameters;
    ``on_failure``, ``"stop"`` (nothing new starts), ``"continue"`` (what does not depend on
    the failed goes on) or ``"rollback"`` (to the last version that completed); ``timeout``,
    seconds for the whole; ``node_timeout``, seconds for each handler call; ``expected``, the
    traversal that the caller believes to be current, so that of two callers one gets
    :class:`~converge.Conflict`. Without ``expected``, a running traversal is superseded.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.bus = MemoryBus()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database."""
        self.database.close()

    @contextmanager
    def transaction(self, *, limit: float = HOST_SECONDS) -> Iterator[Transaction]:
        """A transaction to start stacks in, with ``.connection`` for other statements.

        While it is open, nothing can be written about the stacks that it has started; all others
        go on. On SQLite there is one writer at a time: everything waits for it, and engines lose
        their leases if it takes too long.

        :param limit: seconds for which it may stand still between two statements, and which each
            of them may take; then the server ends it. SQLite knows no such limit.
        :raises StoreError: the database cannot be used, or ended the transaction.
        """
        check_seconds("limit", limit)
        with self.database.transaction(limit=limit) as tx:
            yield tx
        self.notify()

    # -- starting

    def create_stack(
        self,
        name: str,
        template: Template,
        *,
        parameters: Mapping[str, Any] | None = None,
        on_failure: OnFailure | str = OnFailure.STOP,
        timeout: float | None = None,
        node_timeout: float | None = None,
        types: Mapping[str, ResourceType] | None = None,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Start to create a stack.

        :param types: check the template against these types first; None checks only what
            does not need them.
        :raises Conflict: a stack of that name exists.
        :raises BadInput: the name, the template or a parameter is wrong.
        """
        check_name("stack", name)
        intent = Intent(on_failure, timeout, node_timeout)
        values = _checked(template, parameters, types)

        def begin(tx: Transaction) -> Stack:
            row = stacks.insert_stack(tx, name)
            return self._start_wanted(tx, row, Action.CREATE, template, values, intent)

        return self._begin(transaction, begin)

    def update_stack(
        self,
        name: str,
        template: Template,
        *,
        parameters: Mapping[str, Any] | None = None,
        on_failure: OnFailure | str = OnFailure.STOP,
        timeout: float | None = None,
        node_timeout: float | None = None,
        types: Mapping[str, ResourceType] | None = None,
        expected: int | None = None,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Start to bring a stack to another template or other parameters.

        :raises NotFound: there is no such stack.
        :raises Conflict: ``expected`` is not the current traversal.
        :raises BadInput: the template or a parameter is wrong.
        """
        intent = Intent(on_failure, timeout, node_timeout)
        values = _checked(template, parameters, types)

        def begin(tx: Transaction) -> Stack:
            row = stacks.lock_stack(tx, name)
            return self._start_wanted(tx, row, Action.UPDATE, template, values, intent, expected)

        return self._begin(transaction, begin)

    def converge_stack(
        self,
        name: str,
        template: Template,
        *,
        parameters: Mapping[str, Any] | None = None,
        on_failure: OnFailure | str = OnFailure.STOP,
        timeout: float | None = None,
        node_timeout: float | None = None,
        types: Mapping[str, ResourceType] | None = None,
        source: str | None = None,
        any_source: bool = False,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Bring a stack about, whatever there is of it: create it, update it, or, when a
        traversal to the very same version is running, leave it to go on. Of two callers that
        are the first, the second does as if it had come later.

        :param source: the file that the template is from, which the stack remembers: a template
            from another one is refused.
        :param any_source: take it all the same, and remember the new one.
        :raises BadInput: the name, the template or a parameter is wrong; or the stack is from
            another file.
        """
        check_name("stack", name)
        intent = Intent(on_failure, timeout, node_timeout)
        values = _checked(template, parameters, types)

        def begin(tx: Transaction) -> Stack:
            row, new = stacks.take_stack(tx, name)
            if source is not None:
                _remember_source(tx, row, source, any_source=any_source)
            if new:
                return self._start_wanted(tx, row, Action.CREATE, template, values, intent)
            if self._is_on_its_way(tx, row, template, values):
                assert row.traversal_id is not None
                return self._stack(tx, row.id, "resumed", None)
            return self._start_wanted(tx, row, Action.UPDATE, template, values, intent)

        return self._begin(transaction, begin)

    def rollback_stack(
        self,
        name: str,
        *,
        version: int | Literal["empty"] | None = None,
        on_failure: OnFailure | str = OnFailure.STOP,
        timeout: float | None = None,
        node_timeout: float | None = None,
        expected: int | None = None,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Start to bring a stack back to an earlier version. Asked for again, it goes on, and
        when it has completed it is done.

        Where it goes by default: a stack that is COMPLETE, to the version that completed before
        the wanted one. Any other, to the version that completed last; if none ever did, to the
        one that was wanted before; if there was none, all resources go.

        :param version: its number; ``"empty"``: all resources go; None for the default.
        :raises NotFound: there is no such stack or version, or none to go back to.
        :raises Conflict: ``expected`` is not the current traversal.
        """
        check_version(version)
        intent = Intent(on_failure, timeout, node_timeout)

        def begin(tx: Transaction) -> Stack:
            row = stacks.lock_stack(tx, name)
            check_expected(row, expected)
            target = choose_target(tx, row, version)
            if target.reached:
                return self._stack(tx, row.id, "done", None)
            if row.template_id == target.template_id and _is_running(tx, row, Action.ROLLBACK):
                return self._stack(tx, row.id, "resumed", None)
            started = start(tx, row, Action.ROLLBACK, target.template_id, intent)
            return self._started(tx, row.id, started)

        return self._begin(transaction, begin)

    def delete_stack(
        self,
        name: str,
        *,
        on_failure: OnFailure | str = OnFailure.STOP,
        timeout: float | None = None,
        node_timeout: float | None = None,
        expected: int | None = None,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Start to delete a stack and all its resources. A delete that runs already goes on, and
        of a stack that is deleted it is done.

        :raises NotFound: there never was such a stack.
        :raises Conflict: ``expected`` is not the current traversal.
        :raises BadInput: a delete cannot be rolled back.
        """
        intent = Intent(on_failure, timeout, node_timeout)
        if intent.on_failure == OnFailure.ROLLBACK:
            raise BadInput("a delete cannot be rolled back; on_failure must be stop or continue")

        def begin(tx: Transaction) -> Stack:
            try:
                row = stacks.lock_stack(tx, name)
            except NotFound:
                last = stacks.find_last_stack(tx, name)
                if last is None or last.live:
                    raise
                check_expected(last, expected)
                return self._stack(tx, last.id, "done", None)
            check_expected(row, expected)
            if _is_running(tx, row, Action.DELETE):
                return self._stack(tx, row.id, "resumed", None)
            started = start(tx, row, Action.DELETE, None, intent, definitions={})
            return self._started(tx, row.id, started)

        return self._begin(transaction, begin)

    def check_stack(
        self,
        name: str,
        *,
        timeout: float | None = None,
        node_timeout: float | None = None,
        expected: int | None = None,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Start to look at the real things: each resource whose type has a ``check`` and fails
        it becomes FAILED, so that the next update mends it. A check that runs already goes on.
        What was not checked, because its type has no ``check``, the stack's ``reason`` names, and
        :meth:`show` under ``unchecked``.

        :raises NotFound: there is no such stack.
        :raises Conflict: another traversal is running, or ``expected`` is not the current one.
        """
        intent = Intent(OnFailure.CONTINUE, timeout, node_timeout)

        def begin(tx: Transaction) -> Stack:
            row = stacks.lock_stack(tx, name)
            check_expected(row, expected)
            if _is_running(tx, row, Action.CHECK):
                return self._stack(tx, row.id, "resumed", None)
            if row.status is Status.IN_PROGRESS:
                raise Conflict(
                    f"stack {name!r} is busy with its {row.action}; check it when that has ended"
                )
            started = start(tx, row, Action.CHECK, row.template_id, intent)
            return self._started(tx, row.id, started)

        return self._begin(transaction, begin)

    def cancel_stack(self, name: str, *, transaction: HostTransaction | None = None) -> Stack:
        """End the running traversal: nothing new starts, running handlers are told. A cancel that
        was asked for goes on, or is done.

        :raises NotFound: there is no such stack.
        :raises Conflict: nothing is running.
        """

        def begin(tx: Transaction) -> Stack:
            row = stacks.lock_stack(tx, name)
            if _is_cancelled(tx, row):
                ends = row.status is Status.IN_PROGRESS
                return self._stack(tx, row.id, "resumed" if ends else "done", None)
            done = row.traversal_id is not None and halt(
                tx, row.traversal_id, TraversalStatus.CANCELLED, "cancelled by request"
            )
            if not done:
                raise Conflict(
                    f"stack {name!r} has nothing to cancel: its {row.action} is {row.status}"
                    if row.status is not Status.IN_PROGRESS
                    else f"stack {name!r} is being stopped already"
                )
            return self._stack(tx, row.id, "started", None)

        return self._begin(transaction, begin, Commit.CANCEL)

    # -- looking after

    def forget_resource(
        self,
        name: str,
        resource: str,
        *,
        id: int | None = None,
        transaction: HostTransaction | None = None,
    ) -> Forgotten | None:
        """Let a stack forget a resource without deleting it, say as its type is gone or its delete
        can never succeed. What it stands for stays as it is; nobody looks after it any more. If
        the name is still in the wanted template, the next update makes it anew.

        :param id: which version, of a name that has several; see the error that asks for it.
        :returns: what it was; None if the stack has let go of it already.
        :raises NotFound: there is no such stack or resource.
        :raises Conflict: something is being done to the stack or the resource.
        :raises BadInput: there are several versions, and none is named.
        """

        def begin(tx: Transaction) -> Forgotten | None:
            return forget(tx, name, resource, id)

        def happened(tx: Transaction, done: Forgotten | None) -> bool:
            return done is None or not resources.list_there(tx, [done.id])

        if transaction is None:
            return self.database.transact(begin, Commit.ABANDON, happened=happened)
        with self.database.join(transaction) as tx:
            return begin(tx)

    def stack(self, name: str) -> Stack:
        """The live stack of that name.

        :raises NotFound: there is none.
        """

        def read(tx: Transaction) -> Stack:
            return self._stack(tx, stacks.get_stack(tx, name).id, "", None)

        return self.database.read(read)

    def recover(self) -> Sweep:
        """Recover by hand what dead engines, lost wake-ups and passed deadlines left behind, as
        every engine does from time to time.

        :returns: what was done; false if there was nothing to do.
        :raises StoreError: the database cannot be used.
        """
        found = done = sweep(self.database)
        for _ in range(_ROUNDS):
            if not found:
                break
            found = sweep(self.database)
            done += found
        self.notify()
        return done

    def notify(self) -> None:
        """Tell the engines of this process to look for work, after a commit of the host's own."""
        self.bus.notify()

    # -- helpers

    def _begin(
        self,
        transaction: HostTransaction | None,
        begin: Callable[[Transaction], Stack],
        commit: Commit = Commit.START,
    ) -> Stack:
        if transaction is None:
            happened = _was_cancelled if commit is Commit.CANCEL else _was_started
            stack = self.database.transact(begin, commit, happened=happened)
            self.notify()
            return stack
        with self.database.join(transaction) as tx:
            return begin(tx)

    def _start_wanted(
        self,
        tx: Transaction,
        row: StackRow,
        action: Action,
        template: Template,
        values: Mapping[str, Any],
        intent: Intent,
        expected: int | None = None,
    ) -> Stack:
        definitions = template.definitions(values, row.name)
        template_id, versions = choose_template(tx, row, template, values)
        started = start(
            tx,
            row,
            action,
            template_id,
            intent,
            definitions=definitions,
            expected=expected,
            versions=versions,
        )
        return self._started(tx, row.id, started)

    def _is_on_its_way(
        self,
        tx: Transaction,
        row: StackRow,
        template: Template,
        values: Mapping[str, Any],
    ) -> bool:
        if row.status is not Status.IN_PROGRESS or row.traversal_id is None:
            return False
        current = traversals.get_traversal(tx, row.traversal_id)
        if current.halted is not None or current.action not in (Action.CREATE, Action.UPDATE):
            return False
        return is_wanted(tx, row, template, values)

    def _started(self, tx: Transaction, stack_id: int, started: Started) -> Stack:
        outcome = "started" if started.superseded is None else "superseded"
        return self._stack(tx, stack_id, outcome, started.superseded)

    def _stack(self, tx: Transaction, stack_id: int, outcome: str, superseded: int | None) -> Stack:
        stack = Stack(self, stack_id, outcome, superseded)
        stack._read(tx, newest=bool(outcome))
        return stack


def _is_running(tx: Transaction, row: StackRow, action: Action) -> bool:
    """Whether this is being done to a stack, and is not being stopped."""
    if row.action is not action or row.status is not Status.IN_PROGRESS:
        return False
    assert row.traversal_id is not None
    return traversals.get_traversal(tx, row.traversal_id).halted is None


def _remember_source(tx: Transaction, row: StackRow, source: str, *, any_source: bool) -> None:
    kept = text(source, SOURCE_LENGTH)
    if row.source == kept:
        return
    if row.source is not None and not any_source:
        raise BadInput(
            f"stack {row.name!r} was made from {row.source}, not from {kept}; if this is to take "
            f"its place, as when the file was moved, say so: --stack {row.name}, or any_source; "
            "if not, give it another name: --stack NAME"
        )
    stacks.update_stack(tx, row.id, source=kept)


def _is_cancelled(tx: Transaction, row: StackRow) -> bool:
    if row.status is not Status.IN_PROGRESS or row.traversal_id is None:
        return row.status is Status.CANCELLED
    return traversals.get_traversal(tx, row.traversal_id).halted == TraversalStatus.CANCELLED


def _was_started(tx: Transaction, stack: Stack) -> bool:
    """Whether the start that gave this stack was committed."""
    found = traversals.get_traversals(tx, [stack.traversal or 0])
    return any(row.mark == stack.traversal_mark for row in found.values())


def _was_cancelled(tx: Transaction, stack: Stack) -> bool:
    found = traversals.get_traversals(tx, [stack.traversal or 0])
    return any(
        row.mark == stack.traversal_mark and row.halted == TraversalStatus.CANCELLED
        for row in found.values()
    )


def _checked(
    template: Template,
    parameters: Mapping[str, Any] | None,
    types: Mapping[str, ResourceType] | None,
) -> dict[str, Any]:
    """The parameters' values, of a template that these types can bring about.

    :raises TemplateError: the template or a parameter is wrong.
    """
    values = template.resolve_parameters(parameters or {})
    if types is not None:
        check_types(types)
        template.validate(types)
    return values
