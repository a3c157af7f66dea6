"""How the call of an action ends: what is written about it, and by whom it was held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from converge.crash_points import Commit
from converge.errors import StaleLock
from converge.machine.action import scope_name
from converge.sql import moves, scopes
from converge.sql.database import Database, repeatable
from converge.sql.transaction import Transaction

if TYPE_CHECKING:
    from converge.sql.transaction import HostTransaction


@dataclass(frozen=True, slots=True)
class ActionLock:
    """The lock on the action of a move."""

    key: str
    row: moves.Lock
    token: str

    def scope(self, machine: str) -> str:
        instance_id, number, *_ = self.row
        return scope_name(machine, self.key, instance_id, number, self.token)


class Endings:
    """The ends of the actions of a machine."""

    def __init__(self, database: Database, machine: str) -> None:
        self._database = database
        self._machine = machine

    def hand_back(self, lock: ActionLock, wait: float) -> None:
        self._database.transact(
            lambda tx: moves.hand_back(tx, lock.row, wait),
            Commit.ACTION,
            happened=repeatable,
            one_statement=True,
        )

    def end_in(self, lock: ActionLock, transaction: HostTransaction, spent: bool) -> bool:
        with self._database.join(transaction) as tx:
            if not self._write(tx, lock, "DONE", None, None, spent):
                raise StaleLock(f"the action of {lock.key!r} is no longer held by this caller")
        return True

    def end(
        self,
        lock: ActionLock,
        status: str,
        *,
        wait: float | None = None,
        reason: str | None = None,
        spent: bool = True,
    ) -> None:
        self._database.transact(
            lambda tx: self._write(tx, lock, status, wait, reason, spent),
            Commit.ACTION,
            happened=repeatable,
            one_statement=not spent or status != "DONE",
        )

    def _write(
        self,
        tx: Transaction,
        lock: ActionLock,
        status: str,
        wait: float | None,
        reason: str | None,
        spent: bool,
    ) -> bool:
        ended = moves.end_action(tx, lock.row, status, wait=wait, reason=reason)
        if ended and spent and status == "DONE":
            scopes.delete_scopes(tx, scopes.find_scopes(tx, [lock.scope(self._machine)]))
        return ended
