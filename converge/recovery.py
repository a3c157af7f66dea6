"""Recovery: what dead engines, lost wake-ups and passed deadlines left behind.

Every engine sweeps; row locks let one of them win. Each sweep is idempotent and bounded.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from converge.complete import halt
from converge.model import State, TraversalStatus
from converge.points import Commit
from converge.store import engines, resources, sync_points, traversals
from converge.store.database import Database, Transaction

#: How many rows of each sort one sweep looks at.
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep did.

    :ivar engines: dead engines found.
    :ivar nodes: nodes made READY again, or their locks released.
    :ivar unblocked: BLOCKED nodes whose resource was free.
    :ivar overdue: traversals past their deadline.
    """

    engines: int = 0
    nodes: int = 0
    unblocked: int = 0
    overdue: int = 0

    def __bool__(self) -> bool:
        return bool(self.engines or self.nodes or self.unblocked or self.overdue)


def sweep(database: Database) -> Sweep:
    """One round of recovery."""
    dead = nodes = 0
    while True:
        found = database.transact(_recover_one, Commit.RECOVER)
        if found is None:
            break
        dead += 1
        nodes += found
    unblocked = 0
    overdue = 0
    if database.read(_needs_attention):
        unblocked = database.transact(sync_points.unblock_free, Commit.UNBLOCK)
        for traversal_id, reason in database.read(_list_overdue):
            overdue += database.transact(
                lambda tx, which=traversal_id, why=reason: halt(  # type: ignore[misc]
                    tx, which, TraversalStatus.FAILED, why
                ),
                Commit.OVERDUE,
            )
    return Sweep(dead, nodes, unblocked, overdue)


def _recover_one(tx: Transaction) -> int | None:
    """Recover up to a batch of one dead engine's nodes; None if no engine is dead."""
    expired = engines.list_expired(tx, 1)
    if not expired:
        return None
    engine_id = expired[0]
    count = release_engine(tx, engine_id)
    if count < BATCH:
        engines.end_engine(tx, engine_id, engines.DEAD)
    return count


def release_engine(
    tx: Transaction, engine_id: int, *, died: bool = True, keep: Collection[sync_points.Key] = ()
) -> int:
    """Take an engine's work away from it: its nodes are READY again, its locks free.

    :param died: count it as a death against each node.
    :param keep: the nodes that it has in hand and keeps.
    :returns: how many nodes were released.
    """
    held = sync_points.list_engine_nodes(tx, engine_id, BATCH + len(keep))
    nodes = [node for node in held if node.key not in keep]
    if not nodes:
        return 0
    ids = sorted({node.resource_id for node in nodes if node.resource_id is not None})
    locked = resources.lock_states(tx, ids)
    running = [node for node in nodes if node.state is State.RUNNING]
    sync_points.recover_nodes(tx, engine_id, running, died=died)
    sync_points.delete_nodes(tx, [n.key for n in nodes if n.state is State.SUPERSEDED])
    resources.free_engine_locks(tx, engine_id, ids)
    sync_points.unblock(tx, [row.id for row in locked.values() if row.blocking])
    return len(nodes)


def leave(tx: Transaction, engine_id: int) -> None:
    """Let an engine go that stops: hand back what it holds, for any other to take at once."""
    while release_engine(tx, engine_id, died=False) >= BATCH:
        pass
    engines.end_engine(tx, engine_id, engines.STOPPED)


def _needs_attention(tx: Transaction) -> bool:
    counts = sync_points.count_live(tx)
    return State.BLOCKED in counts or bool(traversals.list_overdue(tx, 1))


def _list_overdue(tx: Transaction) -> list[tuple[int, str]]:
    return [
        (row.id, f"timed out after {(row.deadline_at or 0) - row.started_at:g} s")
        for row in traversals.list_overdue(tx, BATCH)
    ]


def recover_dead_neighbours(database: Database) -> int:
    """Recover at once the engines of this host whose process is gone, without waiting for the
    end of their leases.

    :returns: how many there were.
    """
    alive = database.read(engines.list_engines)
    gone = [row.id for row in alive if is_gone(row.process)]
    for engine_id in gone:
        database.transact(
            lambda tx, which=engine_id: engines.expire_lease(tx, which),  # type: ignore[misc]
            Commit.EXPIRE,
        )
    if gone:
        sweep(database)
    return len(gone)


def process_identity(pid: int | None = None) -> str:
    """What tells this process from every other: host, boot, process namespace, pid and start.

    Where the system does not tell, it is the host's name and the pid only, and a leading
    ``?`` says that nothing can be concluded from it.
    """
    pid = os.getpid() if pid is None else pid
    host = _host()
    started = _started(pid)
    if host is None or started is None:
        return f"?{platform.node()}/{pid}"
    return f"{host}/{pid}/{started}"


def is_gone(process: str) -> bool:
    """Whether a process, given by its identity, is known to have ended on this host."""
    host = _host()
    if host is None or process.startswith("?"):
        return False
    theirs, pid, started = process.rsplit("/", 2)
    return theirs == host and _started(int(pid)) != started


def _host() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
    return f"{platform.node()[:64]}/{boot}/{namespace}"


def _started(pid: int) -> str | None:
    """The process's start in ticks since boot; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    after_name = fields.rpartition(")")[2].split()
    return None if after_name[0] in ("Z", "X") else after_name[19]
