"""A batch of messages, from the bus to the ends of the sinks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from converge.errors import BadInput
from converge.pipeline.notification import Message
from converge.pipeline.passage import Passage
from converge.pipeline.pipeline import Pipeline, Sink
from converge.pipeline.record import Partition, prepare, record
from converge.pipeline.work import BatchResult, Guard, Work
from converge.sql.deliveries import list_open
from converge.sql.notifications import read_clock

if TYPE_CHECKING:
    from converge.store import Store

#: Deliveries that the holder of a partition takes at a time.
OPEN = 200


def process_batch(
    store: Store,
    pipeline: Pipeline,
    messages: Sequence[Message],
    *,
    guard: Guard | None = None,
    now: float | None = None,
) -> BatchResult:
    """Handle a batch of messages. When it returns, all of them can be acknowledged: each is
    recorded, and is done with, or will be tried again by a sweep, or is a dead letter.

    It may be called again with messages that it was called with before, say after a death: then
    only what was not done is done.

    :param guard: called first in each transaction that writes.
    :param now: seconds since 1970; None: the database's clock.
    :raises StoreError: the store cannot be used. The messages must come again.
    :raises StaleLock: the guard raised it. The messages belong to another member.
    """
    moment = store.database.read(read_clock) if now is None else now
    started, works = receive(store, pipeline, messages, guard=guard, now=moment)
    return deliver(store, pipeline, works, started, guard=guard, now=moment)


def receive(
    store: Store,
    pipeline: Pipeline,
    messages: Sequence[Message],
    *,
    guard: Guard | None = None,
    now: float | None = None,
    partition: Partition | None = None,
    keep_items: bool = False,
) -> tuple[BatchResult, list[Work]]:
    """The first part of :func:`process_batch`: parse and record.

    For a group whose members share the sinks by partitions: with ``partition`` and ``keep_items``,
    the holder of a partition goes on with :func:`resume`.

    :param partition: gives the partition of an item of a sink; None: there is one, 0.
    :param keep_items: store what is delivered, so that another process can go on.
    :returns: what became of the messages, and what is to be delivered.
    """
    moment = store.database.read(read_clock) if now is None else now
    prepared, letters = prepare(pipeline, messages, moment, partition)
    done = record(store.database, prepared, letters, guard=guard, keep_items=keep_items)
    done.result.received = len(messages)
    done.result.duplicates += len(messages) - len(letters) - len(prepared)
    return done.result, done.works


def deliver(
    store: Store,
    pipeline: Pipeline,
    works: Sequence[Work],
    result: BatchResult | None = None,
    *,
    guard: Guard | None = None,
    now: float | None = None,
) -> BatchResult:
    """The second part of :func:`process_batch`: take deliveries through their sinks.

    :param works: in the order in which their messages came.
    :param result: of the first part; it is added to.
    """
    result = BatchResult() if result is None else result
    moment = store.database.read(read_clock) if now is None else now
    todo: dict[str, list[Work]] = {}
    for work in works:
        todo.setdefault(work.sink, []).append(work)
    # each comes before those that it hands something to
    for name, sink in pipeline.sinks.items():
        mine = todo.pop(name, None)
        if mine is None:
            continue
        passage = Passage(store, sink, moment, result, guard)
        passage.run(mine)
        for work in passage.handed:
            todo.setdefault(work.sink, []).append(work)
    for name, left in todo.items():
        _give_up(store, name, left, moment, result, guard)
    return result


def _give_up(
    store: Store,
    name: str,
    works: Sequence[Work],
    now: float,
    result: BatchResult,
    guard: Guard | None,
) -> None:
    """Deliveries to a sink that the pipeline has no more are dead letters."""
    for work in works:
        work.error = BadInput(f"the pipeline no longer has a sink {name!r}")
    Passage(store, Sink(name, ()), now, result, guard).run(works)


def resume(
    store: Store,
    pipeline: Pipeline,
    shares: Collection[int],
    guard_of: Callable[[Collection[int]], Guard],
    *,
    limit: int = OPEN,
    now: float | None = None,
) -> tuple[BatchResult, bool]:
    """Go on with what :func:`receive` has begun in partitions, oldest first.

    :param shares: the partitions: those that the caller holds.
    :param guard_of: makes what is called first in each transaction, of the partitions that it is
        about.
    :param limit: deliveries.
    :returns: what became of them, and whether there may be more.
    :raises StoreError: the store cannot be used.
    :raises StaleLock: the guard raised it.
    """
    wanted, sinks = sorted(shares), list(pipeline.sinks)
    rows = store.database.read(lambda tx: list_open(tx, sinks, wanted, limit)) if wanted else []
    if not rows:
        return BatchResult(), False
    guard = guard_of({row.share for row in rows})
    works = [Work.of(row) for row in rows]
    return deliver(store, pipeline, works, guard=guard, now=now), len(rows) == limit
