"""Instances in the database: to read, retry and delete them without their definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from converge.crash_points import Commit
from converge.errors import BadInput, NotFound, StaleLock
from converge.journal.backend import StepStatus
from converge.journal.values import loads
from converge.machine.action import scope_name
from converge.machine.move import Move
from converge.machine.moving import BATCH
from converge.model import check_age, check_name
from converge.sql import machines, moves, scopes
from converge.sql.machines import InstanceRow
from converge.sql.moves import MoveRow
from converge.sql.transaction import Transaction

if TYPE_CHECKING:
    from converge.sql.database import HasDatabase
    from converge.sql.transaction import HostTransaction

T = TypeVar("T")

#: How often a transaction is tried when other processes move the same instances.
_TRIES = 100


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance, as it was when it was read.

    :ivar state: its state, in ``version``.
    :ivar version: the version of the definition that last moved it.
    :ivar moves: how many moves it has made.
    :ivar payloads: the last payload of each event, by event.
    :ivar timeout: seconds until its timeout, None if it has none.
    :ivar updated: when it last moved, in seconds since 1970.
    """

    key: str
    state: str
    version: int
    moves: int
    payloads: Mapping[str, Any]
    timeout: float | None
    updated: float


class Instances:
    """The instances of a machine.

    :param name: the machine's name.
    """

    def __init__(self, store: HasDatabase, name: str) -> None:
        check_name("machine", name)
        self.name = name
        self._database = store.database

    def get(self, key: str) -> Instance:
        """An instance.

        :raises NotFound: there is no such instance.
        """
        return _instance(self._database.read(lambda tx: self._find(tx, key)))

    def instances(
        self, *, state: str | None = None, after: str = "", limit: int = 1000
    ) -> list[Instance]:
        """Instances, ordered by key.

        :param state: only those in this state.
        :param after: only those after this key.
        :param limit: the most to return.
        """
        rows = self._database.read(
            lambda tx: machines.list_instances(tx, self.name, state, after, limit)
        )
        return [_instance(row) for row in rows]

    def history(self, key: str, *, after: int = 0, limit: int = 1000) -> list[Move]:
        """The moves of an instance, the oldest first.

        :param after: only those with a higher number than this.
        :param limit: the most to return.
        :raises NotFound: there is no such instance.
        """
        rows = self._database.read(
            lambda tx: moves.list_moves(tx, self._find(tx, key).id, after, limit)
        )
        return [_moved(row) for row in rows]

    def failed(self, *, limit: int = 1000) -> list[Move]:
        """At most ``limit`` moves whose action has FAILED and waits for :meth:`retry`."""
        rows = self._database.read(lambda tx: moves.list_failed(tx, self.name, limit))
        return [_moved(row) for row in rows]

    def retry(self, *keys: str) -> int:
        """Have the FAILED actions of instances called again, by the next sweep of any process.
        Steps that are done are not done again; steps that failed for good are.

        :returns: how many actions there were.
        :raises NotFound: one of the instances does not exist; then nothing is done.
        """

        def again(tx: Transaction) -> list[moves.Key]:
            by_id = {row.id: key for key, row in self._lock(tx, keys).items()}
            failed = moves.retry_actions(tx, list(by_id))
            names = [scope_name(self.name, by_id[one[0]], *one) for one in failed]
            scopes.delete_failed(tx, scopes.find_scopes(tx, names), [StepStatus.FAILED])
            return failed

        def done(tx: Transaction, failed: list[moves.Key]) -> bool:
            return not moves.list_failed_of(tx, [one for one, *_ in failed])

        return len(self._run(None, again, Commit.ACTION, done))

    def delete(self, *keys: str, transaction: HostTransaction | None = None) -> int:
        """Delete instances with their history; their pending actions are not called.

        :param transaction: the caller's own transaction, if any.
        :returns: how many were deleted; keys that do not exist are ignored.
        """
        for key in keys:
            check_name("instance", key)

        def remove(tx: Transaction) -> list[int]:
            found = machines.lock_instances(tx, self.name, keys)
            by_id = {row.id: row.key for row in found.values()}
            begun = moves.list_begun(tx, list(by_id))
            names = [scope_name(self.name, by_id[one[0]], *one) for one in begun]
            scopes.delete_scopes(tx, scopes.find_scopes(tx, names))
            machines.delete_instances(tx, list(by_id))
            return list(by_id)

        return len(self._run(transaction, remove, Commit.INSTANCE, self._are_removed))

    def prune(self, age: float, *states: str) -> int:
        """Delete old instances in one of these states, with their history; but none with a timeout,
        or with an action that is pending or has FAILED.

        :param age: only those whose last move was more than this many seconds ago.
        :returns: how many were deleted.
        :raises BadInput: no state is named, or the age is negative.
        """
        if not states:
            raise BadInput(
                f"machine {self.name!r}: prune needs the states of the instances to delete"
            )
        return self._prune(age, {None: states})

    # -- helpers

    def _are_removed(self, tx: Transaction, ids: list[int]) -> bool:
        return not machines.has_instances(tx, ids)

    def _prune(self, age: float, states: Mapping[int | None, Sequence[str]]) -> int:
        """:param states: the states, by version; None for any version."""
        check_age("age", age)
        count = 0
        after = 0
        while states:

            def remove(tx: Transaction, after: int = after) -> list[int]:
                ids = machines.list_at_rest(tx, self.name, states, age, after, BATCH)
                machines.delete_instances(tx, ids)
                return ids

            removed = self._run(None, remove, Commit.INSTANCE, self._are_removed)
            count += len(removed)
            if len(removed) < BATCH:
                break
            after = removed[-1]
        return count

    def _find(self, tx: Transaction, key: str) -> InstanceRow:
        check_name("instance", key)
        found = machines.get_instance(tx, self.name, key)
        if found is None:
            raise self._not_found(key)
        return found

    def _lock(self, tx: Transaction, keys: tuple[str, ...]) -> dict[str, InstanceRow]:
        found = machines.lock_instances(tx, self.name, keys)
        for key in keys:
            if key not in found:
                raise self._not_found(key)
        return found

    def _not_found(self, key: str) -> NotFound:
        return NotFound(f"machine {self.name!r} has no instance {key!r}")

    def _run(
        self,
        transaction: HostTransaction | None,
        function: Callable[[Transaction], T],
        commit: Commit,
        happened: Callable[[Transaction, T], bool] | None = None,
    ) -> T:
        if transaction is not None:
            with self._database.join(transaction) as tx:
                return function(tx)
        for _ in range(_TRIES):
            try:
                return self._database.transact(function, commit, happened=happened)
            except StaleLock as error:
                # another process moved one of them at the same moment
                again = error
        raise again


def list_machines(store: HasDatabase) -> list[str]:
    """The names of the machines that have instances."""
    return store.database.read(machines.list_names)


def _instance(row: InstanceRow) -> Instance:
    payloads = loads(row.payloads)
    return Instance(row.key, row.state, row.version, row.epoch, payloads, row.left, row.updated_at)


def _moved(row: MoveRow) -> Move:
    return Move(
        row.key,
        row.number,
        row.event,
        row.source,
        row.target,
        loads(row.payload),
        row.status,
        row.at,
        row.reason,
    )
