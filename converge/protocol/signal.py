"""Signalling: somebody tells a resource something, and the handler that waits for it is called.

A signal is sent and delivered with the resource's row locked. So either the handler that is about
to wait finds it, or it finds the handler waiting.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from converge.canonical import dump, load
from converge.crash_points import Commit
from converge.errors import BadInput, NotFound, SignalFailed, SignalTimeout, did_you_mean
from converge.model import Json, check_name, check_seconds
from converge.protocol.work import Work
from converge.sql import events, node_moves, resource_views, resources, signals, stacks
from converge.sql.database import Database
from converge.sql.transaction import Transaction
from converge.sql.types import fit_text
from converge.wait import FOREVER, WaitForSignal

if TYPE_CHECKING:
    from converge.resources.resource_type import Context

#: The largest data of one signal, in characters of JSON.
DATA_LENGTH = 1024 * 1024
#: The status in the event.
SIGNALLED = "SIGNAL"


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal to be sent.

    :ivar token: of two with the same one, the second is ignored.
    :ivar failure: why what is waited for has failed; None if it has not.
    """

    name: str
    token: str
    data: Json = None
    failure: str | None = None

    def __post_init__(self) -> None:
        check_signal_name(self.name)
        check_name("signal's id", self.token)
        if self.failure is not None and (not isinstance(self.failure, str) or not self.failure):
            raise BadInput(f"failure must be a text that says why, not {self.failure!r}")
        try:
            size = len(dump(self.data))
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInput(f"the signal's data cannot be stored as JSON: {error}") from error
        if size > DATA_LENGTH:
            raise BadInput(
                f"the signal's data have {size} characters as JSON; at most {DATA_LENGTH} can be "
                "stored"
            )


def check_signal_name(name: object) -> None:
    """Check the name of a signal: with its number it is the name of a step.

    :raises BadInput: it is none.
    """
    check_name("signal", name)
    if "/" in str(name) or len(str(name)) > 200:
        raise BadInput(f"the name of a signal has at most 200 characters, and no '/': {name!r}")


def send(tx: Transaction, stack_name: str, resource: str, signal: Signal) -> tuple[int, bool]:
    """Send a signal to the current version of a resource. Whoever waits for it is READY.

    :returns: the resource's id, and whether the signal is new.
    :raises NotFound: there is no such stack or resource.
    """
    stack = stacks.lock_stack(tx, stack_name)
    found = resources.lock_versions(tx, stack.id, resource)
    if not found:
        names = resource_views.list_names(tx, stack.id)
        hint = did_you_mean(resource, names)
        raise NotFound(f"stack {stack_name!r} has no resource {resource!r}{hint}")
    current = max(found, key=lambda one: (one.replaced_by is None, one.id))
    if not signals.insert_signal(
        tx, current.id, signal.name, signal.token, signal.data, signal.failure
    ):
        return current.id, False
    if current.waiting_traversal is not None and current.waiting_node is not None:
        node_moves.wake_node(tx, (current.waiting_traversal, current.waiting_node))
    reason = repr(signal.name) + (f": {signal.failure}" if signal.failure is not None else "")
    event = {
        "stack_id": stack.id,
        "traversal_id": stack.traversal_id,
        "resource": resource,
        "action": current.action,
        "status": SIGNALLED,
        "reason": fit_text(reason),
    }
    events.insert_events(tx, [event])
    return current.id, True


@dataclass(slots=True)
class Mailbox:
    """What a handler receives signals with. Each one is taken in the transaction that records it
    as a step of the work's journal, so it is delivered once, and every later call has it again."""

    database: Database
    work: Work
    _asked: Counter[str] = field(default_factory=Counter)

    def receive(
        self, context: Context, name: str, timeout: float | None, progress: str | None
    ) -> Json:
        """The next signal of this name; see :meth:`converge.Context.wait_signal`."""
        check_signal_name(name)
        if timeout is not None:
            check_seconds("timeout", timeout)
        while True:
            self._asked[name] += 1
            number = self._asked[name]
            step = context.journal.open_step(f"signal {name} {number}")
            if step.done:
                said: dict[str, Any] | None = step.value
            else:
                said = step.call_within(self._transact, lambda tx: self._take(tx, name))
            if said is None:
                self._wait(context, name, timeout, progress)
            elif said.get("failure") is None:
                return said["data"]
            elif said["told"] == self._attempt:
                raise SignalFailed(f"signal {name!r}: {said['failure']}")
            # otherwise an earlier attempt has failed because of it

    @property
    def _attempt(self) -> list[int]:
        node = self.work.node
        return [node.traversal_id, node.attempts - node.deaths]

    def _transact(self, function: Any) -> Any:
        return self.database.transact(function, Commit.DELIVER)

    def _take(self, tx: Transaction, name: str) -> dict[str, Json] | None:
        assert self.work.row is not None
        found = signals.take_signal(tx, self.work.row.id, name)
        if found is None:
            return None
        if found.failure is None:
            return {"data": load(dump(found.data))}
        return {"failure": found.failure, "told": self._attempt}

    def _wait(
        self, context: Context, name: str, timeout: float | None, progress: str | None
    ) -> None:
        left = FOREVER
        if timeout is not None:
            left = timeout - context.waited
            if left <= 0:
                raise SignalTimeout(f"no signal {name!r} came within {timeout:g} s")
        raise WaitForSignal(name, left, progress or f"waits for signal {name!r}")
