"""An agent: it receives messages in batches, and takes each batch through the pipeline before it
acknowledges it.

While the store or the bus cannot be used, nothing is received: what is in hand goes back, the
connection to the bus is closed, and the store is asked again and again, less and less often.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from converge.agent.counts import Counts
from converge.agent.gathering import Batching, gather
from converge.agent.sharing import Sharing
from converge.agent.watcher import Watcher
from converge.bus.carrier import CarrierError
from converge.bus.pace import Backoff
from converge.bus.source import Delivery, Source
from converge.errors import ConvergeError, StaleLock, StoreError
from converge.lease import now as seconds
from converge.pipeline import BatchResult, Message, Pipeline, process_batch, sweep
from converge.pipeline.pruning import NotificationPruner, refuse_old
from converge.sql.notifications import read_clock

if TYPE_CHECKING:
    from converge.store import Store

LOG = logging.getLogger(__name__)

#: Seconds between two looks for what waits for its time.
SWEEP = 1.0
#: Seconds before the first attempt after an outage, and the most before a later one.
FIRST, LONGEST = 0.5, 15.0
#: Seconds between two looks at whether the holders of partitions are still behind.
REST = 0.2


class Agent:
    """An agent. One thread runs it; one of a group has another one, for its partitions.

    :param open_source: connects to the bus; it is called again after an outage.
    :param watcher: is told what the agent does.
    :param share: joins a group; it is given what is told of deliveries that came to their end.
        None: the agent takes what it receives through all sinks itself.
    :param keep: seconds that what notifications leave is kept; what was sent before is not taken
        either. None: for ever.
    """

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline,
        open_source: Callable[[], Source],
        batching: Batching = Batching(),  # noqa: B008
        watcher: Watcher | None = None,
        share: Callable[[Callable[[BatchResult], None]], Sharing] | None = None,
        keep: float | None = None,
    ) -> None:
        self.counts = Counts()
        self._counting = threading.Lock()
        self.stopping = threading.Event()
        self._store = store
        self._pipeline = pipeline
        self._open = open_source
        self._batching = batching
        self._watcher = watcher or Watcher()
        self._source: Source | None = None
        self._swept = 0.0
        self._backoff = Backoff(FIRST, LONGEST)
        self._is_resting = False
        self._failure: BaseException | None = None
        self._pruner: NotificationPruner | None = None
        if keep is not None:
            refuse_old(pipeline, keep)
            self._pruner = NotificationPruner(store.database, keep, pipeline, wait_for_locks=False)
        self.sharing = None if share is None else share(self._add)
        if self.sharing is not None:
            self.counts.group = self.sharing.counts

    def stop(self) -> None:
        """Finish what is in hand, and let :meth:`run` return; from any thread."""
        self.stopping.set()

    @property
    def is_ready(self) -> bool:
        """Whether it receives: it is connected to the bus, and not stopping."""
        return self._source is not None and not self.stopping.is_set()

    def run(self) -> None:
        """Work until :meth:`stop`, or until nothing more can come."""
        if self.sharing is None:
            self._receive_all()
            return
        worker = threading.Thread(target=self._share, args=[self.sharing], name="partitions")
        worker.start()
        try:
            self._receive_all()
            if not self.stopping.is_set():
                self.sharing.finish()
        finally:
            self.sharing.stop()
            worker.join()
            self.sharing.outbox.close()
        if self._failure is not None:
            raise self._failure

    def _receive_all(self) -> None:
        try:
            while not self.stopping.is_set():
                if not self.turn():
                    return
        finally:
            self._close()

    def _share(self, sharing: Sharing) -> None:
        try:
            sharing.run()
        except BaseException as error:
            self._failure = error
            self.stop()

    def turn(self) -> bool:
        """Receive a batch and handle it, or wait out an outage for a while.

        :returns: false if nothing more will come.
        """
        try:
            if self._source is None:
                # before anything is received that could only go back
                self._store.database.read(read_clock)
                self._source = self._open()
            if self.sharing is not None:
                self.sharing.outbox.adopt()
                if self.sharing.is_behind:
                    self._rest(self._source)
                    return True
            if self._is_resting:
                LOG.warning("the agent receives again: few enough deliveries are open")
                self._is_resting = False
            batch = gather(
                self._source.receive,
                self._batching,
                seconds,
                idle=SWEEP,
                stopped=self.stopping.is_set,
            )
            if batch:
                self._handle(self._source, batch)
            self._sweep(force=self._source.ended)
            if self._pruner is not None:
                self.counts.pruned += self._pruner.step().events
        except StaleLock as error:
            LOG.warning("%s", error)
            assert self.sharing is not None
            self.sharing.await_balance()
            return True
        except (StoreError, CarrierError) as error:
            self._wait_out(error)
            return True
        if self._backoff.has_failed:
            LOG.warning("the agent works again")
            self._backoff.reset()
        return not self._source.ended

    def _rest(self, source: Source) -> None:
        """Receive nothing for a moment: the holders of partitions are behind."""
        if not self._is_resting:
            LOG.warning(
                "the agent receives nothing until fewer deliveries are open in the partitions of "
                "its group"
            )
            self._is_resting = True
            assert self.counts.group is not None
            self.counts.group.rests += 1
        source.rest()
        self.stopping.wait(REST)

    def _handle(self, source: Source, batch: Sequence[Delivery]) -> None:
        started = seconds()
        self.counts.received += len(batch)
        buses = Counter(one.bus or source.shown for one in batch)
        for name, number in buses.items():
            self.counts.buses[name] = self.counts.buses.get(name, 0) + number
        self._watcher.gathered(buses, max(0.0, started - batch[0].received))
        try:
            result = self._process([_message(one) for one in batch])
        except BaseException:
            self.counts.given_back += len(batch)
            self._watcher.gave_back(len(batch))
            source.requeue(batch)
            raise
        # counted first: if the acknowledgement fails, what comes again is a duplicate
        self._add(result)
        self.counts.batches += 1
        source.acknowledge(batch)
        self._watcher.acknowledged(seconds() - started)

    def _process(self, messages: Sequence[Message]) -> BatchResult:
        if self.sharing is not None:
            return self.sharing.outbox.process(messages)
        return process_batch(self._store, self._pipeline, messages)

    def _add(self, result: BatchResult) -> None:
        with self._counting:
            self.counts.add(result)
            self._watcher.done(result)

    def _sweep(self, *, force: bool) -> None:
        # in a group, whoever holds a partition sweeps it
        if self.sharing is None and (force or seconds() - self._swept >= SWEEP):
            self._swept = seconds()
            self._add(sweep(self._store, self._pipeline))

    def _wait_out(self, error: ConvergeError | CarrierError) -> None:
        """Receive nothing for a while."""
        self._close()
        if not self._backoff.has_failed:
            self.counts.outages += 1
            self._watcher.outage()
            LOG.warning("the agent receives nothing, and tries again: %s", error)
        self.stopping.wait(self._backoff.next())

    def _close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()


def _message(one: Delivery) -> Message:
    return Message(one.body, one.headers, one.priority, one.fallback_id, one.fallback_time)
