"""How many nodes/s fleets of engines would do: a discrete-event simulation of measured costs.

Every engine claims and completes as a real one does, over a real graph. What is simulated is who
waits for whom: an engine's threads for its interpreter, processes for the cores of their machine,
transactions for the rows that another has locked, and commits for the disk, which makes those
durable at once that wait at the same time. A handler takes a given time and nothing else.

It is pure: no database, no clock, no randomness.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.graphs import Requires

#: The time at which a process of the simulation goes on.
Steps = Generator[float, None, None]

#: Seconds of computing after which others get their turn on a core.
SLICE = 0.002


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds, as they were measured.

    :ivar turn: of an engine's processor, for a transaction.
    :ivar turn_node: the same, for a node in it: half when it is claimed, half when it completes.
    :ivar worker_node: of an engine's processor, for calling a handler.
    :ivar server: of the server's processor, for a transaction.
    :ivar server_node: the same, for a node.
    :ivar commit: until a commit is durable.
    """

    turn: float
    turn_node: float
    worker_node: float
    server: float
    server_node: float
    commit: float


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated.

    :ivar fleets: machines with engines.
    :ivar engines: processes on each of them.
    :ivar cores: of each of them.
    :ivar database_cores: of the server's machine; None: it is the machine of the only fleet.
    :ivar workers: threads of an engine that call handlers.
    :ivar window: the most nodes that an engine holds.
    :ivar handler: seconds that a handler takes, without computing.
    """

    fleets: int = 1
    engines: int = 1
    cores: int = 2
    database_cores: int | None = None
    workers: int = 8
    window: int = 1000
    handler: float = 0.0


@dataclass(slots=True)
class Queue:
    """Servers that serve one after the other: the cores of a machine, or an interpreter."""

    servers: int
    _free: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self._free = [0.0] * self.servers

    def serve(self, now: float, seconds: float) -> float:
        """When somebody who comes now has been served for so long."""
        end = max(now, heapq.heappop(self._free)) + seconds
        heapq.heappush(self._free, end)
        return end


@dataclass(slots=True)
class Disk:
    """Makes commits durable. Those that come while it writes are written together, next."""

    seconds: float
    _busy_until: float = 0.0
    _next_until: float = 0.0

    def commit(self, now: float) -> float:
        """When a commit that comes now is durable."""
        if now >= self._next_until:
            self._busy_until = self._next_until = now + self.seconds
        elif now >= self._busy_until:
            # the next write has begun without it
            self._busy_until = self._next_until
            self._next_until = self._busy_until + self.seconds
        elif self._next_until <= self._busy_until:
            self._next_until = self._busy_until + self.seconds
        return self._next_until


class Graph:
    """Which nodes are ready, and which rows are locked."""

    def __init__(self, graphs: Iterable[Requires]) -> None:
        self.pending: list[int] = []
        self.successors: list[list[int]] = []
        for requires in graphs:
            numbers = {name: i for i, name in enumerate(requires, len(self.pending))}
            self.successors += ([] for _ in requires)
            for name, required in requires.items():
                self.pending.append(len(required))
                for one in required:
                    self.successors[numbers[one]].append(numbers[name])
        self.ready = deque(node for node, count in enumerate(self.pending) if not count)
        self.left = len(self.pending)
        self.locked: set[int] = set()

    def rows_of(self, nodes: Sequence[int]) -> set[int]:
        """The rows that the completion of these nodes locks: those of their successors."""
        return {one for node in nodes for one in self.successors[node]}

    def are_locked(self, rows: set[int]) -> bool:
        """Whether a transaction has locked one of these rows."""
        return not self.locked.isdisjoint(rows)

    def arrive(self, nodes: Sequence[int]) -> list[int]:
        """The successors of nodes that are done wait for one less.

        :returns: those that wait for nothing more. Nobody else sees them before the commit.
        """
        found = []
        for node in nodes:
            for one in self.successors[node]:
                self.pending[one] -= 1
                if not self.pending[one]:
                    found.append(one)
        return found

    def claim(self, limit: int) -> list[int]:
        """Take ready nodes."""
        return [self.ready.popleft() for _ in range(min(limit, len(self.ready)))]


class Simulation:
    """One run."""

    def __init__(self, graph: Graph, costs: Costs, setting: Setting) -> None:
        self.graph = graph
        self.costs = costs
        self.setting = setting
        self.now = 0.0
        self.disk = Disk(costs.commit)
        machines = [Queue(setting.cores) for _ in range(setting.fleets)]
        if setting.database_cores is None:
            if setting.fleets != 1:
                raise ValueError("the server's machine can be that of one fleet only")
            self.server = machines[0]
        else:
            self.server = Queue(setting.database_cores)
        self._events: list[tuple[float, int, Steps]] = []
        self._begun = 0
        for machine in machines:
            for _ in range(setting.engines):
                SimulatedEngine(self, machine)

    def begin(self, steps: Steps) -> None:
        """Let a process go on, from now."""
        self._begun += 1
        heapq.heappush(self._events, (self.now, self._begun, steps))

    def run(self) -> float:
        """Until all nodes are done.

        :returns: the seconds that it took.
        """
        while self.graph.left:
            self.now, _, steps = heapq.heappop(self._events)
            at = next(steps, None)
            if at is not None:
                self._begun += 1
                heapq.heappush(self._events, (max(at, self.now), self._begun, steps))
        return self.now


class SimulatedEngine:
    """Two threads that write, and workers, under one interpreter.

    One thread writes what is finished and claims in the same transaction. If more is ready than it
    could take, the other thread claims instead, when there is room enough for a transaction.
    """

    #: Seconds after which an idle thread looks again.
    IDLE = 0.001

    def __init__(self, simulation: Simulation, machine: Queue) -> None:
        self._simulation = simulation
        self._machine = machine
        self._interpreter = Queue(1)
        self._workers = Queue(simulation.setting.workers)
        self._finished: list[int] = []
        self._held = 0
        self._more_ready = False
        simulation.begin(self._turn())
        simulation.begin(self._claim_ahead())

    def _compute(self, seconds: float) -> Steps:
        """Hold the interpreter, and a core for it."""
        while seconds > 0:
            part = min(seconds, SLICE)
            begin = self._interpreter.serve(self._simulation.now, 0.0)
            if begin > self._simulation.now:
                yield begin
                continue
            end = self._machine.serve(self._simulation.now, part)
            self._interpreter.serve(end, 0.0)
            yield end
            seconds -= part

    def _room(self) -> int:
        return self._simulation.setting.window - self._held

    def _turn(self) -> Steps:
        while True:
            finished, self._finished = self._finished, []
            limit = 0 if self._more_ready else self._room() + len(finished)
            if finished or (self._simulation.graph.ready and limit > 0):
                yield from self._transact(finished, limit)
            else:
                yield self._simulation.now + self.IDLE

    def _claim_ahead(self) -> Steps:
        while True:
            room = self._room()
            if self._more_ready and room >= self._simulation.setting.window // 4:
                yield from self._transact([], room)
            else:
                yield self._simulation.now + self.IDLE

    def _transact(self, finished: list[int], limit: int) -> Steps:
        simulation, costs, graph = self._simulation, self._simulation.costs, self._simulation.graph
        rows = graph.rows_of(finished)
        while graph.are_locked(rows):
            yield simulation.now + self.IDLE
        graph.locked |= rows
        found = graph.arrive(finished)
        self._held -= len(finished)
        claimed = graph.claim(limit)
        # what became ready is claimed last
        split = min(len(found), limit - len(claimed))
        claimed += found[:split]
        self._held += len(claimed)
        if limit:
            self._more_ready = len(claimed) == limit
        nodes = (len(finished) + len(claimed)) / 2
        yield from self._compute(costs.turn + costs.turn_node * nodes)
        work = costs.server + costs.server_node * nodes
        while work > 0:
            yield simulation.server.serve(simulation.now, min(work, SLICE))
            work -= SLICE
        yield simulation.disk.commit(simulation.now)
        graph.locked -= rows
        graph.ready += found[split:]
        graph.left -= len(finished)
        if claimed:
            simulation.begin(self._handle(claimed))

    def _handle(self, nodes: list[int]) -> Steps:
        """The workers' part: the handlers are called, and are over some time later."""
        simulation = self._simulation
        pieces = max(1, len(nodes) // simulation.setting.workers)
        for first in range(0, len(nodes), pieces):
            piece = nodes[first : first + pieces]
            yield from self._compute(simulation.costs.worker_node * len(piece))
            if simulation.setting.handler:
                for node in piece:
                    simulation.begin(self._finish(node))
            else:
                self._finished += piece

    def _finish(self, node: int) -> Steps:
        yield self._workers.serve(self._simulation.now, self._simulation.setting.handler)
        self._finished.append(node)


def predict(graphs: Sequence[Requires], costs: Costs, setting: Setting) -> float:
    """Nodes/s.

    :param graphs: of the stacks, which are all there from the beginning.
    """
    graph = Graph(graphs)
    nodes = graph.left
    return nodes / Simulation(graph, costs, setting).run()
