"""DBOS: a workflow whose steps are the nodes. Those of one level run at the same time: the order in
which a workflow starts its steps must be the same when it is recovered."""

from __future__ import annotations

import asyncio
from typing import Any

from dbos import DBOS, SetWorkflowID

from benchmarks.peers.common import levels, read, say, work

CASE = read()


async def do_node(node: str) -> str:
    """Do the work of a node."""
    work(CASE, node)
    return "x"


async def do_node_slowly(node: str) -> str:
    """The same, when it takes time."""
    await asyncio.to_thread(work, CASE, node)
    return "x"


async def do_graph() -> None:
    """All nodes, level by level."""
    for level in levels(CASE.requires):
        await asyncio.gather(*(STEP(node) for node in level))
    say("ended")


DBOS(config={"name": "peers", "system_database_url": CASE.database, "run_admin_server": False})
STEP = DBOS.step()(do_node_slowly if CASE.seconds else do_node)
WORKFLOW = DBOS.workflow()(do_graph)


async def main() -> None:
    DBOS.launch()
    if not CASE.resume:
        say("started")
        with SetWorkflowID("peers"):
            await DBOS.start_workflow_async(WORKFLOW)
    # launch() has begun to recover it if it was there
    handle: Any = await DBOS.retrieve_workflow_async("peers")
    await handle.get_result()
    DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main())
