"""OpenStack Heat: its Dependencies, and a sync point for each node that tells when it is ready.

These are Heat's own, as its convergence engine calls them for each resource that it checks. The
rest of Heat is left out: its RPC, and the resources that it loads and stores.
"""

from __future__ import annotations

import uuid
from collections import deque

from heat.common import context
from heat.db import api, models
from heat.engine import dependencies, sync_point
from heat.objects import raw_template, stack
from oslo_config import cfg

from benchmarks.peers.common import give_up, read, say, work

CASE = read()


def main() -> None:
    if CASE.resume:
        # what is ready is in messages; the parts that are measured here have no way back to them
        give_up("readiness is in RPC messages, which these parts do not keep")
    url = CASE.database.replace("postgresql://", "postgresql+psycopg://")
    cfg.CONF([], project="heat")
    cfg.CONF.set_override("connection", url, "database")
    models.BASE.metadata.create_all(api.get_engine())
    cnxt = context.RequestContext(project_id="peers", is_admin=True)
    say("started")
    traversal = uuid.uuid4().hex
    edges: list[tuple[str, str | None]] = []
    for name, required in CASE.requires.items():
        edges += [(name, one) for one in required] or [(name, None)]
    deps = dependencies.Dependencies(edges)
    empty: dict[str, object] = {"template": {}, "files": {}, "environment": {}}
    template = raw_template.RawTemplate.create(cnxt, empty)
    stored = stack.Stack.create(
        cnxt,
        {
            "name": "peers",
            "raw_template_id": template.id,
            "tenant": "peers",
            "disable_rollback": True,
            "current_traversal": traversal,
            "current_deps": {"edges": edges},
        },
    )
    for node in CASE.requires:
        sync_point.create(cnxt, node, traversal, True, stored.id)
    ready = deque(deps.leaves())

    def trigger(node: str, *rest: object) -> None:
        ready.append(node)

    graph = deps.graph()
    while ready:
        node = ready.popleft()
        work(CASE, node)
        for requirer in deps.required_by(node):
            predecessors = set(graph[requirer])
            sync_point.sync(cnxt, requirer, traversal, True, trigger, predecessors, {node: None})
    sync_point.delete_all(cnxt, stored.id, traversal)
    say("ended")


if __name__ == "__main__":
    main()
