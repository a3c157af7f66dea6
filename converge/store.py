"""The public face: :func:`connect` and :class:`Store`.

What only one of its methods needs is imported by that method: otherwise a program that brings one
stack about would spend a good part of its time on what it never calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from converge.bus.memory import MemoryBus
from converge.crash_points import Commit
from converge.errors import BadInput, Conflict
from converge.inspection.queries import Queries
from converge.model import Json, OnFailure, check_name, check_seconds, make_token
from converge.protocol import answer
from converge.protocol.answer import Answer
from converge.protocol.draft import Draft, draft_first
from converge.protocol.request import Intent, Kept, work_out
from converge.protocol.rollback import check_version
from converge.resources.resource_type import ResourceType
from converge.sql import resources, stacks
from converge.sql.database import Database, repeatable
from converge.sql.events import KEPT_TRAVERSALS
from converge.sql.open_bus import open_bus
from converge.sql.open_database import Url, open_database
from converge.sql.sessions import HOST_SECONDS
from converge.sql.transaction import Transaction
from converge.stack import Stack
from converge.template import Template
from converge.tracing import traced

if TYPE_CHECKING:
    from converge.protocol.adopt import Adopted
    from converge.protocol.forget import Forgotten
    from converge.protocol.move import Moved
    from converge.protocol.prune import Pruned
    from converge.protocol.recover import Sweep
    from converge.sql.transaction import HostTransaction

#: Rounds of recovery by hand at most: each is bounded, and meanwhile more can be left behind.
_ROUNDS = 100
#: How often a limit is set again that others set theirs beside.
_ATTEMPTS = 20


def connect(
    url: Url | None = None,
    *,
    create_schema: bool = False,
    connections: int | None = None,
    clock: Callable[[], float] | None = None,
    bus: str | None = None,
    secret_keys: str | Iterable[str] | None = None,
) -> Store:
    """Open the database that converge's tables live in.

    :param url: an SQLAlchemy URL; default is the environment's ``CONVERGE_DB``, or
        ``sqlite:///converge.db``.
    :param create_schema: make or upgrade converge's tables if need be; otherwise a program
        runs ``converge db upgrade`` first.
    :param connections: how many connections there may be at a time; None: as many as are asked
        for, which is one for each thread that uses the store. A lease has another one, always, and
        on PostgreSQL so has whoever listens.
    :param clock: what tells the time, in seconds since 1970, instead of the database; for tests.
    :param bus: the URL of what wakes engines and those who wait in other processes; default is the
        environment's ``CONVERGE_BUS``, or ``database://``. All processes that work on a database
        are to have the same. It is connected in the background.
    :param secret_keys: one or several keys to encrypt values in the database with, as ``converge db
        new-key`` makes them; default is what the environment's ``CONVERGE_SECRET_KEY`` or
        ``CONVERGE_SECRET_KEY_FILE`` says, or none. All processes must have the same.
    :raises BadInput: a URL or a key is wrong, or its driver is not installed.
    :raises SecretKeyError: values are encrypted with a key that is none of these.
    :raises SchemaError: the tables are missing, too old, too new, or not converge's.
    :raises StoreError: the database cannot be reached or used.
    """
    database = open_database(
        url,
        create_schema=create_schema,
        connections=connections,
        clock=clock,
        secret_keys=secret_keys,
    )
    try:
        database.bus = open_bus(database, bus)
    except BaseException:
        database.close()
        raise
    return Store(database)


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
    :class:`~converge.Conflict`. Without ``expected``, a running traversal is superseded;
    ``queue``, whose engines work on the stack, and ``priority``, from -100 to 100: what is ready
    of a higher one comes first. Both stay as they are unless they are given; at first, they are
    ``"default"`` and 0; ``unprotect``, the names of protected resources that may be deleted or
    replaced: without it, what would delete one is refused with :class:`~converge.Conflict`.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database and to the bus."""
        self.bus.close()
        self.database.close()

    @property
    def bus(self) -> MemoryBus:
        """What tells engines and those who wait of what is committed."""
        return self.database.bus

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

    # -- starting

    @traced
    def create_stack(
        self,
        name: str,
        template: Template,
        *,
        parameters: Mapping[str, Any] | None = None,
        on_failure: OnFailure | str = OnFailure.STOP,
        timeout: float | None = None,
        node_timeout: float | None = None,
        queue: str | None = None,
        priority: int | None = None,
        types: Mapping[str, ResourceType] | None = None,
        actor: str | None = None,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Start to create a stack.

        :param types: check the template against these types first; None checks only what
            does not need them.
        :param actor: who asks for it, for people to see: a name, at most 255 characters.
        :raises Conflict: a stack of that name exists.
        :raises BadInput: the name, the template or a parameter is wrong.
        """
        check_name("stack", name)
        intent = Intent(on_failure, timeout, node_timeout, queue, priority, actor=actor)
        sources = self._sources(transaction)
        wanted = work_out(name, template, parameters, types, read=sources)
        draft = draft_first(wanted.definitions)
        return self._ask(transaction, lambda tx: answer.create(tx, name, wanted, intent, draft))

    @traced
    def update_stack(
        self,
        name: str,
        template: Template,
        *,
        parameters: Mapping[str, Any] | None = None,
        on_failure: OnFailure | str = OnFailure.STOP,
        timeout: float | None = None,
        node_timeout: float | None = None,
        queue: str | None = None,
        priority: int | None = None,
        types: Mapping[str, ResourceType] | None = None,
        expected: int | None = None,
        keep_parameters: bool = False,
        unprotect: Collection[str] = (),
        replace: Collection[str] = (),
        target: Collection[str] = (),
        actor: str | None = None,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Start to bring a stack to another template or other parameters.

        :param keep_parameters: those that are not given keep their values, instead of having
            their defaults again.
        :param replace: names of resources that are replaced although nothing of them changes. It is
            remembered until it is done: after a failure, any update goes on with it, and asked for
            again it does not begin anew before the stack is COMPLETE.
        :param target: names of resources: only these, and what they require, are touched. The stack
            is then at the new version as far as that, as its ``reason`` says, and has not completed
            it: another update does the rest, and a rollback goes to the version before.
        :param actor: see :meth:`create_stack`.
        :raises NotFound: there is no such stack.
        :raises Conflict: ``expected`` is not the current traversal.
        :raises BadInput: the template or a parameter is wrong.
        """
        intent = Intent(on_failure, timeout, node_timeout, queue, priority, replace, target, actor)
        keeps = self._kept(transaction, name) if keep_parameters else None
        sources = self._sources(transaction)
        wanted = work_out(name, template, parameters, types, keeps, sources)
        draft = self._draft(transaction, lambda tx: answer.draft_wanted(tx, name, wanted, intent))
        return self._ask(
            transaction,
            lambda tx: answer.update(tx, name, wanted, intent, draft, expected, unprotect),
        )

    @traced
    def converge_stack(
        self,
        name: str,
        template: Template,
        *,
        parameters: Mapping[str, Any] | None = None,
        on_failure: OnFailure | str = OnFailure.STOP,
        timeout: float | None = None,
        node_timeout: float | None = None,
        queue: str | None = None,
        priority: int | None = None,
        types: Mapping[str, ResourceType] | None = None,
        source: str | None = None,
        any_source: bool = False,
        keep_parameters: bool = False,
        expected: int | None = None,
        unprotect: Collection[str] = (),
        replace: Collection[str] = (),
        target: Collection[str] = (),
        actor: str | None = None,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Bring a stack about, whatever there is of it: create it, update it, or, when a
        traversal to the very same version is running, leave it to go on. When it is there, and
        nothing differs, it is done. Of two callers that are the first, the second does as if it
        had come later.

        :param source: the file that the template is from, which the stack remembers: a template
            from another one is refused.
        :param any_source: take it all the same, and remember the new one.
        :param keep_parameters: see :meth:`update_stack`; ``replace`` and ``target``, too.
        :param expected: 0: the caller believes that there is no such stack.
        :param actor: see :meth:`create_stack`.
        :raises Conflict: ``expected`` is not the current traversal.
        :raises BadInput: the name, the template or a parameter is wrong; or the stack is from
            another file.
        """
        check_name("stack", name)
        intent = Intent(on_failure, timeout, node_timeout, queue, priority, replace, target, actor)
        keeps = self._kept(transaction, name) if keep_parameters else None
        sources = self._sources(transaction)
        wanted = work_out(name, template, parameters, types, keeps, sources)
        draft = self._draft(
            transaction, lambda tx: answer.draft_bringing_about(tx, name, wanted, intent)
        )

        def ask(tx: Transaction) -> Answer:
            return answer.bring_about(
                tx,
                name,
                wanted,
                intent,
                draft,
                source=source,
                any_source=any_source,
                expected=expected,
                unprotect=unprotect,
            )

        return self._ask(transaction, ask)

    @traced
    def rollback_stack(
        self,
        name: str,
        *,
        version: int | Literal["empty"] | None = None,
        on_failure: OnFailure | str = OnFailure.STOP,
        timeout: float | None = None,
        node_timeout: float | None = None,
        expected: int | None = None,
        unprotect: Collection[str] = (),
        actor: str | None = None,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Start to bring a stack back to an earlier version. Asked for again, it goes on, and
        when it has completed it is done.

        Where it goes by default: a stack that is COMPLETE, to the version that completed before
        the wanted one. Any other, to the version that completed last; if none ever did, to the
        one that was wanted before; if there was none, all resources go.

        :param version: its number; ``"empty"``: all resources go; None for the default.
        :param actor: see :meth:`create_stack`.
        :raises NotFound: there is no such stack or version, or none to go back to.
        :raises Conflict: ``expected`` is not the current traversal.
        """
        check_version(version)
        intent = Intent(on_failure, timeout, node_timeout, actor=actor)
        draft = self._draft(transaction, lambda tx: answer.draft_rollback(tx, name, version))
        return self._ask(
            transaction,
            lambda tx: answer.roll_back(tx, name, version, intent, draft, expected, unprotect),
        )

    @traced
    def delete_stack(
        self,
        name: str,
        *,
        on_failure: OnFailure | str = OnFailure.STOP,
        timeout: float | None = None,
        node_timeout: float | None = None,
        expected: int | None = None,
        unprotect: Collection[str] = (),
        despite: Collection[str] = (),
        actor: str | None = None,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Start to delete a stack and all its resources. A delete that runs already goes on, and
        of a stack that is deleted it is done.

        :param despite: names of stacks that read its outputs (``get_output``) and can do without
            it: without it, a stack that others read is not deleted.
        :param actor: see :meth:`create_stack`.
        :raises NotFound: there never was such a stack.
        :raises Conflict: ``expected`` is not the current traversal; or others read its outputs.
        :raises BadInput: a delete cannot be rolled back.
        """
        intent = Intent(on_failure, timeout, node_timeout, actor=actor)
        if intent.on_failure == OnFailure.ROLLBACK:
            raise BadInput("a delete cannot be rolled back; on_failure must be stop or continue")
        draft = self._draft(transaction, lambda tx: answer.draft_delete(tx, name))
        return self._ask(
            transaction,
            lambda tx: answer.delete(tx, name, intent, draft, expected, unprotect, despite),
        )

    @traced
    def check_stack(
        self,
        name: str,
        *,
        timeout: float | None = None,
        node_timeout: float | None = None,
        expected: int | None = None,
        actor: str | None = None,
        transaction: HostTransaction | None = None,
    ) -> Stack:
        """Start to look at the real things. Each resource whose type has a ``read``, and that is
        not what it was made to be, is DRIFTED: the stack's ``reason`` names it, and :meth:`show`
        says under ``drift`` what differs. Each one whose type has a ``check``, and fails it, is
        FAILED. The next update mends both. A check that runs already goes on. What was not
        checked, because its type has neither, the stack's ``reason`` names, and :meth:`show` under
        ``unchecked``.

        :param actor: see :meth:`create_stack`.
        :raises NotFound: there is no such stack.
        :raises Conflict: another traversal is running, or ``expected`` is not the current one.
        """
        intent = Intent(OnFailure.CONTINUE, timeout, node_timeout, actor=actor)
        return self._ask(transaction, lambda tx: answer.check(tx, name, intent, expected))

    @traced
    def cancel_stack(self, name: str, *, transaction: HostTransaction | None = None) -> Stack:
        """End the running traversal: nothing new starts, running handlers are told. A cancel that
        was asked for goes on, or is done.

        :raises NotFound: there is no such stack.
        :raises Conflict: nothing is running.
        """
        stack = self._ask(transaction, lambda tx: answer.cancel(tx, name), Commit.CANCEL)
        if transaction is None:
            # of a host's transaction, a sweep does it when that is committed
            from converge.protocol.cascade import stop_nested

            stop_nested(self.database, stack.id)
        return stack

    def signal(
        self,
        name: str,
        resource: str,
        data: Json = None,
        *,
        signal: str = "signal",
        failure: str | None = None,
        id: str | None = None,
        transaction: HostTransaction | None = None,
    ) -> bool:
        """Send a signal to a resource: one of the type ``signal``, or one whose handler calls
        ``context.wait_signal()``. It is kept until a handler waits for it, and delivered once; with
        the resource it goes.

        :param name: the stack's name.
        :param data: any JSON value, at most 1,048,576 characters; given to the handler.
        :param signal: the signal's name, at most 200 characters.
        :param failure: why what is waited for has failed: then the handler's attempt fails.
        :param id: of two signals of the same name and id to one resource, the second is ignored:
            for a sender who does not know whether the first arrived.
        :param transaction: the caller's own transaction, in which it is sent: that of a move of a
            machine, say, or of a step of a journal.
        :returns: whether it is new; false if there was one with this id.
        :raises NotFound: there is no such stack or resource.
        :raises BadInput: a name, the id or the data cannot be stored.
        """
        from converge.protocol.signal import Signal, send
        from converge.sql import signals

        sent = Signal(signal, make_token() if id is None else id, data, failure)

        def begin(tx: Transaction) -> tuple[int, bool]:
            return send(tx, name, resource, sent)

        def happened(tx: Transaction, done: tuple[int, bool]) -> bool:
            return signals.has_signal(tx, done[0], sent.name, sent.token)

        if transaction is None:
            return self.database.transact(begin, Commit.SIGNAL, happened=happened)[1]
        with self.database.join(transaction) as tx:
            return begin(tx)[1]

    # -- looking after

    def set_limit(
        self,
        *,
        type: str | None = None,
        stack: str | None = None,
        key: str | None = None,
        places: int | None = None,
        rate: str | None = None,
        transaction: HostTransaction | None = None,
    ) -> None:
        """Limit how many nodes of a resource type, of a stack, or of a key of the author's (see
        :meth:`converge.ResourceType.limits`) are worked on at once, by all engines together, and
        how many of them start in a time. It holds for every claim that begins after this is
        committed. Both None remove the limit.

        :param places: how many at once, from 0; None: any number.
        :param rate: so many starts in a time: ``10/s``, ``100/min``, ``5/h``, ``3/10s``; None: any
            number.
        :raises BadInput: not exactly one of type, stack and key is given, or a value is wrong.
        :raises Conflict: another transaction has set one at the same time, and the host's cannot go
            on: set it again in a new one.
        """
        from converge.protocol.places import check_places, which_limit
        from converge.protocol.rates import parse_rate
        from converge.sql import limits

        kind, name = which_limit(type=type, stack=stack, key=key)
        check_places(places)
        parsed = None if rate is None else parse_rate(rate)

        def begin(tx: Transaction) -> None:
            limits.set_limit(tx, kind, name, places, parsed)

        if transaction is None:
            # of several that set one at once, one gets through with each attempt
            for _ in range(_ATTEMPTS - 1):
                with suppress(Conflict):
                    return self.database.transact(begin, Commit.LIMIT, happened=repeatable)
            return self.database.transact(begin, Commit.LIMIT, happened=repeatable)
        with self.database.join(transaction) as tx:
            return begin(tx)

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
        from converge.protocol.forget import forget

        def begin(tx: Transaction) -> Forgotten | None:
            return forget(tx, name, resource, id)

        def happened(tx: Transaction, done: Forgotten | None) -> bool:
            return done is None or not resources.list_existing(tx, [done.id])

        if transaction is None:
            return self.database.transact(begin, Commit.ABANDON, happened=happened)
        with self.database.join(transaction) as tx:
            return begin(tx)

    def adopt_resource(
        self,
        name: str,
        resource: str,
        physical_id: str,
        template: Template | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        types: Mapping[str, ResourceType] | None = None,
        transaction: HostTransaction | None = None,
    ) -> Adopted | None:
        """Take a thing that is there already into a stack, as if converge had made it: from now on
        it is changed, replaced and deleted with the stack. Nothing of it is touched by this call.

        Its type's ``read`` is called here, outside of any transaction. Where the thing differs from
        what the template says, the resource has drifted, and the next update mends it. A type
        without ``read`` cannot look: then it is taken to be as the template says.

        :param physical_id: what the type calls it.
        :param template: what names the resource, and will be wanted next; None: the stack's own.
        :param types: resource types to use instead of installed ones of the same name.
        :returns: what it is now; None if it was adopted before.
        :raises NotFound: there is no such stack.
        :raises Conflict: something is being done to the stack, or it has such a resource.
        :raises BadInput: the template does not name it, or there is no such thing.
        """
        from converge.protocol.adopt import Present, adopt, look, read_present
        from converge.resources import load_types

        known = {**load_types(), **(types or {})}
        present = self.database.read(lambda tx: read_present(tx, name))
        if template is not None:
            wanted = work_out(name, template, parameters, known)
            present = Present(present.rows, wanted.definitions, wanted.directory)
        adoption = look(name, present, resource, physical_id, known)

        def begin(tx: Transaction) -> Adopted | None:
            return adopt(tx, name, adoption)

        def happened(tx: Transaction, done: Adopted | None) -> bool:
            return done is None or done.id in resources.read_resources(tx, [done.id])

        if transaction is None:
            return self.database.transact(begin, Commit.ADOPT, happened=happened)
        with self.database.join(transaction) as tx:
            return begin(tx)

    def move_resource(
        self,
        name: str,
        old: str,
        new: str,
        *,
        to: str | None = None,
        transaction: HostTransaction | None = None,
    ) -> Moved | None:
        """Give a resource of a stack another name, or take it into another stack, and leave all
        else as it is. The next template has it by the new name; of the same stack, one that has it
        by the old name moves it back.

        :param to: the name of the other stack; None: it stays in its own. What it required, and
            what requires it, stays behind: between stacks there is no order.
        :returns: what it is now; None if it was moved already.
        :raises NotFound: there is no such stack or resource.
        :raises Conflict: something is being done to a stack, or there is one of the new name.
        :raises BadInput: it cannot be a name.
        """
        from converge.protocol.move import move

        def begin(tx: Transaction) -> Moved | None:
            return move(tx, name, old, new, to)

        def happened(tx: Transaction, done: Moved | None) -> bool:
            found = {} if done is None else resources.read_resources(tx, [done.id])
            return done is None or (
                done.id in found
                and (found[done.id].name, found[done.id].stack_id) == (done.name, done.stack_id)
            )

        if transaction is None:
            return self.database.transact(begin, Commit.RENAME, happened=happened)
        with self.database.join(transaction) as tx:
            return begin(tx)

    def stack(self, name: str) -> Stack:
        """The live stack of that name.

        :raises NotFound: there is none.
        """

        def read(tx: Transaction) -> Stack:
            stack = Stack(self, stacks.get_stack(tx, name, any_format=True).id, "", None)
            stack._read(tx)
            return stack

        return self.database.read(read)

    def recover(self) -> Sweep:
        """Recover by hand what dead engines, lost wake-ups and passed deadlines left behind, as
        every engine does from time to time.

        :returns: what was done; false if there was nothing to do.
        :raises StoreError: the database cannot be used.
        """
        from converge.protocol.recover import sweep

        found = done = sweep(self.database)
        for _ in range(_ROUNDS):
            if not found:
                break
            found = sweep(self.database)
            done += found
        return done

    def prune(
        self, *, older_than: float, keep: int = KEPT_TRAVERSALS, dry_run: bool = False
    ) -> Pruned:
        """Delete what is old: deleted stacks, with their summaries and events; of live stacks the
        summaries of traversals that are over, with their events, and the versions that nothing
        refers to. What a rollback can go to, and what somebody works on, stays.

        It is done in many short transactions, and may run beside engines and beside another
        prune, to which it leaves what that one has begun.

        :param older_than: only what ended more than this many seconds ago.
        :param keep: how many ended traversals of each live stack stay, however old; the current
            one always does.
        :param dry_run: only count what would be deleted.
        :returns: how many rows of each kind were deleted.
        :raises BadInput: a number is out of range.
        :raises StoreError: the database cannot be used.
        """
        from converge.protocol.prune import Pruner

        pruner = Pruner(self.database, older_than, keep)
        return pruner.look() if dry_run else pruner.prune()

    def notify(self) -> None:
        """Tell engines to look for work, and those who wait to look whether it is over, after a
        commit of the host's own."""
        self.bus.notify()

    # -- helpers

    def _draft(
        self, transaction: HostTransaction | None, draft: Callable[[Transaction], Draft | None]
    ) -> Draft | None:
        """Plan before the stack is locked. Not of a host's transaction: what it has not committed
        cannot be seen from outside, and in it, an early look would be at an old state."""
        return self.database.read(draft) if transaction is None else None

    def _kept(self, transaction: HostTransaction | None, name: str) -> Kept:
        if transaction is None:
            return self.database.read(lambda tx: answer.read_kept(tx, name))
        with self.database.join(transaction) as tx:
            return answer.read_kept(tx, name)

    def _ask(
        self,
        transaction: HostTransaction | None,
        ask: Callable[[Transaction], Answer],
        commit: Commit = Commit.START,
    ) -> Stack:
        def begin(tx: Transaction) -> Stack:
            given = ask(tx)
            stack = Stack(self, given.stack_id, given.outcome, given.superseded)
            stack._read(tx, newest=True)
            return stack

        def happened(tx: Transaction, stack: Stack) -> bool:
            was = answer.was_cancelled if commit is Commit.CANCEL else answer.was_started
            return was(tx, stack.traversal, stack.traversal_mark)

        if transaction is None:
            return self.database.transact(begin, commit, happened=happened)
        with self.database.join(transaction) as tx:
            return begin(tx)
