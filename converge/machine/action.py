"""What the action of a move gets, and the ids of actions and of their scopes."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from converge.awaiting import run_here
from converge.errors import ConvergeError, StaleLock
from converge.journal.scope import KEYS
from converge.resources.asynchronous import AsyncJournaled
from converge.resources.journaled import Journaled

#: Seconds between two looks whether an async action is to stop.
_LOOK = 0.25

if TYPE_CHECKING:
    from converge.journal import Scope
    from converge.sql.transaction import HostTransaction


@dataclass(slots=True)
class Action(Journaled):
    """What the action of a move gets.

    :ivar key: the key of the instance.
    :ivar source: the state before the move.
    :ivar target: the state after the move.
    :ivar payload: the payload of the event.
    :ivar payloads: the last payload of each event up to this one, by event.
    :ivar attempt: the number of this attempt, from 1.
    :ivar id: a unique id, the same at each attempt; to pass to other systems.
    """

    no_journal: ClassVar[str] = "this action was not called by a machine, so it has no journal"

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
        """Set when the action should stop, as another process will call it: this process is about
        to lose its lease, or has closed the machine."""
        # most actions never look
        if self._cancelled is None:
            self._cancelled = self._lost()
        return self._cancelled

    def done(self, transaction: HostTransaction) -> None:
        """Record in the caller's transaction that the action is done. Its effect in the same
        transaction then happens exactly once.

        :raises StaleLock: this process no longer holds the action; roll back.
        """
        if self._over is not None:
            self._over(transaction)


class AsyncAction(AsyncJournaled[Action]):
    """What an ``async def`` action gets: an :class:`~converge.machine.action.Action` whose ``step``
    and ``each`` are awaited. Where a plain action looks at ``cancelled``, an async one gets
    :class:`asyncio.CancelledError`. Its ``plain.done(transaction)`` is for
    ``AsyncSession.run_sync()``."""


def call_async(function: Callable[[AsyncAction], Any], action: Action, origin: object) -> Any:
    """Call an ``async def`` action on a loop of its own, in this thread.

    :param origin: the database, whose error it is if the action is cancelled: that is no failure.
    :raises StaleLock: it was cancelled, as another process will call it.
    """
    return run_here(_run(function, action, origin))


async def _run(function: Callable[[AsyncAction], Any], action: Action, origin: object) -> Any:
    import asyncio

    task = asyncio.ensure_future(function(AsyncAction(action)))
    while not task.done():
        await asyncio.wait([task], timeout=_LOOK)
        if not task.done() and action.cancelled.is_set():
            task.cancel()
    try:
        return task.result()
    except asyncio.CancelledError:
        if not action.cancelled.is_set():
            raise ConvergeError("the action was cancelled by its own code") from None
        error = StaleLock("the lease is lost, or the machine is being closed")
        error.origin = origin
        raise error from None


def action_id(machine: str, key: str, instance_id: int, number: int, token: str) -> str:
    """The id of an action: a UUID (version 5, RFC 9562).

    :param token: the random token of the move: the other values are used again after a database
        lost its last seconds.
    """
    # no name contains a line break
    return str(uuid.uuid5(KEYS, f"{machine}\n{key}\n{instance_id}\n{number}\n{token}"))


def scope_name(machine: str, key: str, instance_id: int, number: int, token: str) -> str:
    """The name of the journal's scope of an action."""
    return f"action {action_id(machine, key, instance_id, number, token)}"
