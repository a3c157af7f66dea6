"""TaskFlow: a graph flow, run by its parallel engine, with its SQL persistence."""

from __future__ import annotations

from contextlib import closing

from taskflow import engines, states, task
from taskflow.patterns import graph_flow
from taskflow.persistence import backends, models

from benchmarks.peers.common import WORKERS, read, say, work

CASE = read()
BOOK = "peers"


class Node(task.Task):  # type: ignore[misc]
    """Its name is the node's."""

    def execute(self, **required: str) -> str:
        """Do the work."""
        work(CASE, self.name)
        return "x"


def make_flow() -> graph_flow.Flow:
    """Every process makes it anew, as TaskFlow keeps no graph, only what became of its tasks."""
    flow = graph_flow.Flow("peers")
    flow.add(
        *(Node(name, provides=name, requires=required) for name, required in CASE.requires.items())
    )
    return flow


def main() -> None:
    url = CASE.database.replace("postgresql://", "postgresql+psycopg2://")
    backend = backends.fetch({"connection": url})
    with closing(backend.get_connection()) as connection:
        connection.upgrade()
        if CASE.resume:
            book = next(iter(connection.get_logbooks()))
            detail = next(iter(book))
        else:
            say("started")
            book = models.LogBook(BOOK)
            detail = models.FlowDetail("peers", "peers")
            book.add(detail)
            connection.save_logbook(book)
    engine = engines.load(
        make_flow(),
        flow_detail=detail,
        book=book,
        backend=backend,
        engine="parallel",
        executor="threads",
        max_workers=WORKERS,
    )
    engine.run()
    assert engine.storage.get_flow_state() == states.SUCCESS
    say("ended")


if __name__ == "__main__":
    main()
