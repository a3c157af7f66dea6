"""One stack, as the caller of :class:`~converge.Store` holds it."""

from __future__ import annotations

import logging
import time
from typing import Protocol

from converge.awaiting import Blocking, Doing, Until, run_async, run_plain
from converge.bus.memory import MemoryBus
from converge.errors import NotFound, StoreError
from converge.model import Action, Status
from converge.sql import stacks
from converge.sql.database import Database
from converge.sql.transaction import Transaction

LOG = logging.getLogger(__name__)

#: Seconds between two reads of a stack that is waited for, unless there is a hint.
_LOOK = 0.25
#: The same where the hints of other processes arrive, too.
_LOOK_CONNECTED = 2.0


class _Store(Protocol):
    """What a stack needs of its store."""

    database: Database

    @property
    def bus(self) -> MemoryBus:
        """Who tells of its end."""

    def cancel_stack(self, name: str) -> object:
        """End its running traversal."""


class Stack:
    """A stack as it was when last read; :meth:`refresh` reads it again.

    :ivar outcome: the outcome of the call that returned it: ``started``; ``superseded`` (started,
        and a running traversal was superseded); ``resumed`` (the same was already running);
        ``done`` (it was already complete); empty if the call started nothing.
    :ivar superseded: the id of the traversal that was superseded, None if there was none.
    :ivar action: what its current traversal is for.
    :ivar status: IN_PROGRESS, COMPLETE, FAILED or CANCELLED.
    :ivar traversal: the id of its current traversal.
    :ivar version: the number of the wanted template version, None if nothing is wanted.
    :ivar live: False once it is deleted.
    """

    def __init__(self, store: _Store, stack_id: int, outcome: str, superseded: int | None) -> None:
        self._store = store
        self.id = stack_id
        self.outcome = outcome
        self.superseded = superseded
        self.name = ""
        self.action: str = ""
        self.status: str = ""
        self.reason: str | None = None
        self.traversal: int | None = None
        self.version: int | None = None
        self.live = True
        self._mark: int | None = None
        # id and mark of the traversal that was seen last
        self._seen: tuple[int, int | None] | None = None

    @property
    def traversal_mark(self) -> int | None:
        """The random number that stands beside the id of its traversal."""
        return None if self._seen is None else self._seen[1]

    def __repr__(self) -> str:
        return f"<Stack {self.name!r} {self.action} {self.status}>"

    def _read(self, tx: Transaction, *, newest: bool = False) -> None:
        found = stacks.get_standing(tx, self.id, newest=newest)
        if found is None and self.action == Action.DELETE:
            raise NotFound(
                f"stack {self.name!r} is no longer in the database: it was deleted and pruned, or "
                "the database has lost its latest commits"
            )
        if found is None or self._mark not in (None, found.stack.mark):
            raise NotFound(
                f"stack {self.name!r} is no longer in the database, which has lost its latest "
                "commits; if it is still wanted, start it again"
            )
        row = found.stack
        before, seen = self._seen, (row.traversal_id or 0, found.traversal_mark)
        self._mark, self._seen = row.mark, seen
        if before is not None and (
            seen[0] < before[0] or (seen[0] == before[0] and seen != before)
        ):
            raise NotFound(
                f"the {self.action} of stack {self.name!r} (traversal {before[0]}) is no longer in "
                "the database, which has lost its latest commits; if it is still wanted, start it "
                "again"
            )
        self.name = row.name
        self.action = row.action
        self.status = row.status
        self.reason = row.reason
        self.traversal = row.traversal_id
        self.version = found.version
        self.live = row.live

    def refresh(self) -> Stack:
        """Read it again.

        :returns: itself.
        :raises NotFound: it, or its traversal, is no longer in the database, which was restored
            from an older copy. If it is the traversal, the stack can be read again.
        """
        self._store.database.read(self._read)
        return self

    def wait(self, timeout: float | None = None) -> str:
        """Wait until nothing is in progress, rollback included. An outage of the database is
        waited out.

        :param timeout: seconds to wait at most, None for no limit. While the database is down,
            each attempt to read it takes some seconds.
        :returns: its status.
        :raises TimeoutError: it is still in progress.
        :raises NotFound: it is no longer in the database; see :meth:`refresh`.
        """
        return run_plain(self._waiting(timeout))

    async def wait_async(self, timeout: float | None = None) -> str:
        """The same as :meth:`wait`, for a caller on an event loop, which is not blocked."""
        return await run_async(self._waiting(timeout))

    def _waiting(self, timeout: float | None) -> Doing[str]:
        end = None if timeout is None else time.monotonic() + timeout
        outage: StoreError | None = None
        bus = self._store.bus
        with bus.watching(self.id) as watch:
            while True:
                # before the look: no end is missed between it and the wait
                watch.news.clear()
                try:
                    yield Blocking(self.refresh)
                except StoreError as error:
                    # it could be read before, so the database is expected to come back
                    if outage is None:
                        LOG.warning("%s; still waiting for stack %r", error, self.name)
                    outage = error
                else:
                    outage = None
                    if self.status != Status.IN_PROGRESS:
                        return self.status
                left = _LOOK_CONNECTED if bus.is_connected else _LOOK
                if end is not None:
                    left = min(left, end - time.monotonic())
                    if left <= 0:
                        raise TimeoutError(
                            f"the {self.action} of stack {self.name!r} is still in progress "
                            f"after {timeout:g} s"
                        ) from outage
                yield Until(watch.news, left)

    def cancel(self) -> Stack:
        """End its running traversal; see :meth:`~converge.Store.cancel_stack`."""
        self._store.cancel_stack(self.name)
        return self.refresh()
