"""A batch of messages, from the bus to the ends of the sinks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from converge.errors import BadInput
from converge.pipeline.notification import Message
from converge.pipeline.passage import Passage
from converge.pipeline.pipeline import Pipeline, Sink
from converge.pipeline.record import Partition, prepare, record
from converge.pipeline.work import BatchResult, Guard, Work
from converge.sql.deliveries import get_deliveries
from converge.sql.notifications import read_clock

if TYPE_CHECKING:
    from converge.store import Store


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
    the works can be handed to others by their ids, which go on with :func:`resume`.

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
        work.error = BadInput(f"the pipeline has no sink {name!r} any more")
    Passage(store, Sink(name, ()), now, result, guard).run(works)


def resume(
    store: Store,
    pipeline: Pipeline,
    ids: Iterable[int],
    *,
    guard: Guard | None = None,
    now: float | None = None,
) -> BatchResult:
    """Go on with deliveries whose items were kept.

    :param ids: of the deliveries, in the order in which their messages came. Those that came to
        their end are left out, so a message that names them may come again.
    """
    wanted = list(ids)
    rows = {row.id: row for row in store.database.read(lambda tx: get_deliveries(tx, wanted))}
    found = [rows[one] for one in wanted if one in rows]
    works = [Work.of(row) for row in found if row.items is not None and row.state == "HELD"]
    return deliver(store, pipeline, works, guard=guard, now=now)
