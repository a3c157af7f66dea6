"""What an agent of a group does with what it receives: it records it, and tells the holders of the
partitions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING

from converge.agent.counts import GroupCounts
from converge.bus.carrier import CarrierError
from converge.bus.post import Post
from converge.group.inbox import Place
from converge.group.keys import partition_of, share_of
from converge.group.member import name_sender
from converge.group.signing import Message as Hint
from converge.group.signing import Secrets
from converge.lease import Lease
from converge.lease import now as seconds
from converge.pipeline import BatchResult, Item, Message, Pipeline, Work, deliver, receive
from converge.pipeline.items import get_value
from converge.sql import groups
from converge.sql.transaction import Transaction

if TYPE_CHECKING:
    from converge.store import Store

LOG = logging.getLogger(__name__)

#: Seconds after which an agent tries to tell the others again, when the bus could not be used.
PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Layout:
    """The partitions that an agent sends to.

    :ivar group_id: of its group.
    :ivar group: its name.
    :ivar key: what is hashed.
    :ivar lease: that of its member.
    """

    group_id: int
    group: str
    generation: int
    partitions: int
    key: str
    lease: Lease

    def number_of(self, item: Item) -> int:
        """The number of the partition of an item."""
        return partition_of(get_value(item, self.key), self.partitions)

    def share_of(self, sink: str, item: Item) -> int:
        """The partition of an item, as deliveries have it."""
        return share_of(self.generation, self.number_of(item))

    def check(self, tx: Transaction) -> None:
        """Check that the member is still one.

        :raises StaleLock: it is not.
        """
        groups.check_member(tx, self.group_id, self.lease.id, self.lease.mark, self.generation)


class Outbox:
    """The sending half of a member. It is used by the thread that receives notifications.

    :param open_post: connects to the queues of the partitions; None: there are none, and their
        holders look into the database from time to time.
    :ivar layout: what it is to send to; set by any thread.
    :ivar sending: the generation that it sends to; nothing that it has in hand goes to another one.
    """

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline,
        secrets: Secrets,
        layout: Layout,
        open_post: Callable[[], Post] | None,
        counts: GroupCounts,
    ) -> None:
        self.layout = layout
        self.sending = layout.generation
        self._used = layout
        self._store = store
        self._pipeline = pipeline
        self._secrets = secrets
        self._open = open_post
        self._counts = counts
        self._post: Post | None = None
        self._sequence = 0
        self._not_before = 0.0

    def adopt(self) -> None:
        """Send to the newest partitions from now on: nothing is in hand."""
        self._used = self.layout
        self.sending = self._used.generation

    def process(self, messages: Sequence[Message]) -> BatchResult:
        """Record a batch, and tell the holders of the partitions. When it returns, all of it can be
        acknowledged.

        :raises StoreError: the store cannot be used. The messages must come again.
        :raises StaleLock: the others take this member for dead. The messages must come again.
        """
        self.adopt()
        layout = self._used
        result, works = receive(
            self._store,
            self._pipeline,
            messages,
            guard=layout.check,
            partition=layout.share_of,
            keep_items=True,
        )
        # what was begun when there was no group belongs to whoever has its message
        own = [work for work in works if work.share == 0]
        if own:
            deliver(self._store, self._pipeline, own, result)
        self._tell(layout, works)
        return result

    def close(self) -> None:
        """Close the connection."""
        post, self._post = self._post, None
        if post is not None:
            post.close()

    def _tell(self, layout: Layout, works: Sequence[Work]) -> None:
        """Send hints. If they are lost, the holders find the deliveries when they look."""
        if self._open is None or seconds() < self._not_before:
            return
        first = share_of(layout.generation, 0)
        hints: dict[tuple[int, str], list[int]] = {}
        for work in works:
            # what was begun with another number of partitions is found by looking
            if 0 <= work.share - first < layout.partitions:
                hints.setdefault((work.share - first, work.sink), []).append(work.id)
        messages = [self._sign(layout, *place, ids) for place, ids in hints.items()]
        try:
            if self._post is None:
                self._post = self._open()
            self._post.send(messages)
        except CarrierError as error:
            self.close()
            self._counts.unsent += len(messages)
            self._not_before = seconds() + PAUSE
            LOG.warning(
                "hints cannot be sent; the next look into the database finds the deliveries: %s",
                error,
            )

    def _sign(
        self, layout: Layout, number: int, sink: str, ids: Sequence[int]
    ) -> tuple[str, bytes]:
        self._sequence += 1
        hint = Hint(
            layout.group,
            layout.generation,
            number,
            sink,
            name_sender(layout.lease),
            self._sequence,
            time(),
            list(ids),
        )
        place = Place(layout.group, layout.generation, number, sink)
        return place.queue, self._secrets.sign(hint)
