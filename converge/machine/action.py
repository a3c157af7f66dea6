"""What the action of a move is given, and how it is called elsewhere."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from converge.journal.scope import KEYS
from converge.resources.journaled import Journaled

if TYPE_CHECKING:
    from converge.journal import Scope
    from converge.sql.database import HostTransaction


@dataclass(slots=True)
class Action(Journaled):
    """What the action of a move is given.

    :ivar payload: of the event.
    :ivar payloads: the last payload of each event up to this one.
    :ivar attempt: which attempt this is, from 1.
    :ivar id: of this action and no other, the same at each attempt; to hand to the outside.
    """

    no_journal: ClassVar[str] = "this is the action of no machine, and has no journal"

    machine: str
    key: str
    event: str
    source: str
    target: str
    payload: Any = None
    payloads: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 1
    id: str = ""
    open_journal: InitVar[Callable[[], Scope] | None] = None
    _lost: Callable[[], threading.Event] = field(default=threading.Event, repr=False)
    _cancelled: threading.Event | None = field(default=None, init=False, repr=False)
    _over: Callable[[HostTransaction], None] | None = field(default=None, repr=False)

    def __post_init__(self, open_journal: Callable[[], Scope] | None) -> None:
        Journaled.__init__(self, open_journal)

    @property
    def cancelled(self) -> threading.Event:
        """Set when the action should give up, as another process will call it: this one is about
        to lose its lease, or has closed the machine."""
        # most actions never look
        if self._cancelled is None:
            self._cancelled = self._lost()
        return self._cancelled

    def done(self, transaction: HostTransaction) -> None:
        """Record in the caller's transaction that the action is over: beside its effect there,
        which then happens exactly once.

        :raises StaleLock: the action is no longer this process's; roll back.
        """
        if self._over is not None:
            self._over(transaction)


def action_id(machine: str, key: str, instance_id: int, number: int, token: str) -> str:
    """The id of an action: a UUID (version 5, RFC 9562).

    :param token: of the move, which is random: the rest comes again after a database has
        forgotten its last seconds.
    """
    # no name has a line break
    return str(uuid.uuid5(KEYS, f"{machine}\n{key}\n{instance_id}\n{number}\n{token}"))


def scope_name(machine: str, key: str, instance_id: int, number: int, token: str) -> str:
    """The name of the journal's scope of an action."""
    return f"action {action_id(machine, key, instance_id, number, token)}"
