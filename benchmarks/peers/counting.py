"""A graph for what knows only queues: a table of our own that counts what a node waits for."""

from __future__ import annotations

from benchmarks.peers.common import successors

Row = tuple[str, int, list[str]]

SCHEMA = """
CREATE TABLE node (name text PRIMARY KEY, pending integer NOT NULL, successors text[] NOT NULL,
    done boolean NOT NULL DEFAULT false)
"""
COPY = "COPY node (name, pending, successors) FROM STDIN"
LEFT = "SELECT count(*) FROM node WHERE NOT done"
#: The successors of a node, locked in one order by all.
LOCK = """
SELECT name FROM node WHERE name = ANY (ARRAY (
    SELECT unnest(successors) FROM node WHERE name = %(node)s))
ORDER BY name FOR UPDATE
"""
#: Counts once, however often the node is done; returns the successors that wait for nothing more.
FINISH = """
WITH me AS (UPDATE node SET done = true WHERE name = %(node)s AND NOT done RETURNING successors),
    down AS (UPDATE node SET pending = pending - 1
        FROM me WHERE node.name = ANY (me.successors) RETURNING node.name, node.pending)
SELECT name FROM down WHERE pending = 0
"""
#: After a redelivery: the successors that may have been told of already.
AGAIN = """
SELECT name FROM node WHERE pending = 0 AND NOT done AND name = ANY (ARRAY (
    SELECT unnest(successors) FROM node WHERE name = %(node)s))
"""


def rows(requires: dict[str, list[str]]) -> list[Row]:
    """The rows of the table."""
    after = successors(requires)
    return [(node, len(required), after.get(node, [])) for node, required in requires.items()]


def leaves(requires: dict[str, list[str]]) -> list[str]:
    """The nodes that wait for nothing."""
    return [node for node, required in requires.items() if not required]
