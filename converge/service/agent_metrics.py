"""Metrics of agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from converge.agent.watcher import Watcher
from converge.pipeline import BatchResult
from converge.service.metrics import ProcessMetrics

if TYPE_CHECKING:
    from converge.agent.agent import Agent
    from converge.agent.sharing import Sharing
    from converge.store import Store

_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000)
_TIMES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class AgentMetrics(ProcessMetrics, Watcher):
    """What the agent of this process does.

    :param registry: where others read it; None if a parent does.
    """

    READY = "converge_agents_ready"
    WHAT = "Agents that receive: not stopping, and not in an outage"

    def __init__(self, registry: CollectorRegistry | None) -> None:
        super().__init__(registry)
        self._registry = registry
        self._agent: Agent | None = None
        self._store: Store | None = None
        self._received = Counter(
            "converge_messages_received", "Messages received, by bus", ["bus"], registry=registry
        )
        self._results = Counter(
            "converge_messages",
            "What became of messages: new, known, given_back",
            ["result"],
            registry=registry,
        )
        self._sizes = Histogram(
            "converge_batch_messages", "Messages of a batch", buckets=_SIZES, registry=registry
        )
        self._ages = Histogram(
            "converge_batch_age_seconds",
            "How long the first message of a batch waited for others, in seconds",
            buckets=_TIMES,
            registry=registry,
        )
        self._batches = Histogram(
            "converge_batch_seconds",
            "How long it took to handle a batch and to acknowledge it, in seconds",
            buckets=_TIMES,
            registry=registry,
        )
        self._sinks = Histogram(
            "converge_sink_seconds",
            "How long a sink took for its part of a batch, in seconds",
            ["sink"],
            buckets=_TIMES,
            registry=registry,
        )
        self._delivered = Counter(
            "converge_delivered", "What came to the end of a sink", ["sink"], registry=registry
        )
        self._dead = Counter(
            "converge_dead_letters",
            "Dead letters: messages, and deliveries that failed for good",
            registry=registry,
        )
        self._outages = Counter(
            "converge_agent_outages", "Outages of the bus or the database", registry=registry
        )
        self._last = Gauge(
            "converge_agent_last_batch_timestamp_seconds",
            "When the last batch was acknowledged, in seconds since 1970; 0: none yet",
            multiprocess_mode="livemax",
            registry=registry,
        )

        self._partitions = self._of_group("partitions", "Partitions that are held", "livesum")
        self._lag = self._of_group(
            "lag", "Open deliveries of the partitions held, 10,000 at most", "livesum"
        )
        self._lag_seconds = self._of_group(
            "lag_seconds", "How long ago the oldest open delivery was recorded; 0: none", "livemax"
        )
        self._resting = self._of_group(
            "resting", "Agents that receive nothing, as too many deliveries are open", "livesum"
        )
        self._group = Counter(
            "converge_group_messages",
            "Messages of the group: opened, redelivered, unsent, and those refused, by reason",
            ["result"],
            registry=registry,
        )
        self._told: dict[str, int] = {}

    def _of_group(self, name: str, what: str, mode: Literal["livesum", "livemax"]) -> Gauge:
        return Gauge(
            f"converge_group_{name}", what, multiprocess_mode=mode, registry=self._registry
        )

    def watch(self, agent: Agent, store: Store) -> None:
        """Look at this agent from now on."""
        self._agent, self._store = agent, store
        self.begin()

    @property
    def is_ready(self) -> bool:
        """Whether the agent receives."""
        return self._agent is not None and self._agent.is_ready

    def look(self) -> None:
        """Look at the agent now."""
        if self._store is not None:
            self._ready.set(self.is_ready)
            self._connections.set(self._store.database.connections_used)
        if self._agent is not None and self._agent.sharing is not None:
            self._look_at_group(self._agent.sharing)

    def _look_at_group(self, sharing: Sharing) -> None:
        counts = sharing.counts
        self._partitions.set(counts.partitions)
        self._lag.set(counts.lag)
        self._lag_seconds.set(counts.lag_seconds)
        self._resting.set(sharing.is_behind)
        now = {"opened": counts.hints, "redelivered": counts.redelivered, "unsent": counts.unsent}
        for result, number in {**now, **counts.refused}.items():
            self._group.labels(result).inc(number - self._told.get(result, 0))
            self._told[result] = number

    # -- as a watcher

    def gathered(self, buses: Mapping[str, int], age: float) -> None:
        for bus, count in buses.items():
            self._received.labels(bus).inc(count)
        self._sizes.observe(sum(buses.values()))
        self._ages.observe(age)

    def done(self, result: BatchResult) -> None:
        self._results.labels("new").inc(result.recorded)
        self._results.labels("known").inc(result.duplicates)
        self._dead.inc(result.dead_letters)
        for sink, number in result.delivered.items():
            self._delivered.labels(sink).inc(number)
        for sink, seconds in result.seconds.items():
            self._sinks.labels(sink).observe(seconds)

    def acknowledged(self, seconds: float) -> None:
        self._batches.observe(seconds)
        self._last.set_to_current_time()

    def gave_back(self, messages: int) -> None:
        self._results.labels("given_back").inc(messages)

    def outage(self) -> None:
        self._outages.inc()
