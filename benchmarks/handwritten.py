"""A limit: the same graph, done by a loop over plain SQL, as one would write it in an afternoon.

Nodes are claimed, locked, marked done, released, and counted down at their successors. There is
nothing that makes it safe: no fencing, no recovery, no events, no types, one traversal.
"""

from __future__ import annotations

import time
from collections import defaultdict

from sqlalchemy.engine import URL

from benchmarks.graphs import Requires
from benchmarks.measuring import connect_raw, fail

_SCHEMA = """
CREATE TABLE plain_node (id integer PRIMARY KEY, name text NOT NULL, status text NOT NULL,
    engine integer);
CREATE TABLE plain_point (node integer PRIMARY KEY, state text NOT NULL, pending integer NOT NULL,
    successors integer[] NOT NULL);
CREATE INDEX plain_ready ON plain_point (node) WHERE state = 'READY'
"""
_CLAIM = """
UPDATE plain_point SET state = 'RUNNING' WHERE node = ANY (ARRAY (
    SELECT node FROM plain_point WHERE state = 'READY' ORDER BY node
    LIMIT %s FOR UPDATE SKIP LOCKED))
RETURNING node, successors
"""
_LOCK = "UPDATE plain_node SET engine = 1, status = 'IN_PROGRESS' WHERE id = ANY (%s)"
_DONE = "UPDATE plain_point SET state = 'DONE' WHERE node = ANY (%s)"
_RELEASE = "UPDATE plain_node SET engine = NULL, status = 'COMPLETE' WHERE id = ANY (%s)"
_ARRIVE = """
UPDATE plain_point SET pending = pending - come.n,
    state = CASE WHEN pending = come.n THEN 'READY' ELSE state END
FROM (SELECT node, count(*) AS n FROM unnest(%s::integer[]) AS node GROUP BY node) AS come
WHERE plain_point.node = come.node
"""


class Handwritten:
    """:param group: the most nodes that it claims at once."""

    def __init__(self, url: URL, group: int) -> None:
        self.group = group
        self.url = url
        self.connect()
        self._connection.execute(_SCHEMA)
        self._connection.commit()

    def connect(self) -> None:
        """Connect."""
        self._connection = connect_raw(self.url)

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    def start(self, requires: Requires) -> float:
        """Copy the rows of a graph into the tables, which are emptied before.

        :returns: the seconds that it took, commit included.
        """
        self._connection.execute("TRUNCATE plain_node, plain_point")
        self._connection.commit()
        begin = time.perf_counter()
        numbers = {name: number for number, name in enumerate(requires)}
        successors: dict[str, list[int]] = defaultdict(list)
        for name, required in requires.items():
            for one in required:
                successors[one].append(numbers[name])
        cursor = self._connection.cursor()
        with cursor.copy("COPY plain_node (id, name, status) FROM STDIN") as copy:
            for name, number in numbers.items():
                copy.write_row((number, name, "INIT"))
        with cursor.copy("COPY plain_point FROM STDIN") as copy:
            for name, number in numbers.items():
                pending = len(requires[name])
                state = "WAITING" if pending else "READY"
                copy.write_row((number, state, pending, successors[name]))
        self._connection.commit()
        return time.perf_counter() - begin

    def run(self) -> float:
        """Do all nodes.

        :returns: the seconds that it took.
        """
        connection = self._connection
        begin = time.perf_counter()
        while claimed := connection.execute(_CLAIM, (self.group,)).fetchall():
            nodes = [node for node, _ in claimed]
            connection.execute(_LOCK, (nodes,))
            connection.commit()
            # here the handlers would be called
            connection.execute(_DONE, (nodes,))
            connection.execute(_RELEASE, (nodes,))
            arrived = [successor for _, successors in claimed for successor in successors]
            connection.execute(_ARRIVE, (arrived,))
            connection.commit()
        taken = time.perf_counter() - begin
        left = connection.execute("SELECT count(*) FROM plain_point WHERE state <> 'DONE'")
        row = left.fetchone()
        if row is None or row[0]:
            fail(f"the hand-written loop left {row} nodes")
        connection.commit()
        return taken
