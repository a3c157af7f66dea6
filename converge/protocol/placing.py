"""Which lane each node of a traversal is in.

The stack says the queue and the priority; a resource can say another queue. A resource type that
some engines turned out not to have has lanes of its own, so that those engines need not look at its
nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

from converge.model import DEFAULT_QUEUE, Kind
from converge.protocol.plan import Node
from converge.sql.lanes import Course, list_lanes, take_lanes
from converge.sql.survey import ResourceHead
from converge.sql.transaction import Transaction
from converge.template import Definitions
from converge.template.settings import QUEUE


class Placing:
    """The lanes of a traversal's nodes. They are all known before the first node is placed.

    :param queue: of the stack; None: the default one.
    :param priority: of the stack.
    :param format_: of the stack.
    :param definitions: the wanted resources.
    :param heads: the resources that there are.
    """

    def __init__(
        self,
        tx: Transaction,
        queue: str | None,
        priority: int,
        format_: int,
        definitions: Definitions,
        heads: Sequence[ResourceHead],
    ) -> None:
        self._queue = queue or DEFAULT_QUEUE
        self._priority = priority
        self._format = format_
        self._wanted = definitions.queues()
        self._reached = {
            head.id: str(head.settings[QUEUE])
            for head in heads
            if head.settings and QUEUE in head.settings
        }
        known = list_lanes(tx)
        self._special = {one for course in known.values() for one in course.types}
        self._types: dict[str, str] = {}
        self._types_reached: dict[int, str] = {}
        if self._special:
            self._types = {name: definitions.type(name) for name in definitions}
            self._types_reached = {head.id: head.type for head in heads}
        courses = {self._course(), *map(self._wanted_course, {*self._wanted, *self._types})}
        courses.update(map(self._reached_course, {*self._reached, *self._types_reached}))
        self._lanes = take_lanes(tx, courses)
        self._base = self._lanes[self._course()]
        self._is_plain = len(courses) == 1

    def lane(self, node: Node) -> int:
        """The lane of a node."""
        if self._is_plain or node.kind is Kind.STACK:
            return self._base
        if node.kind is Kind.UPDATE and node.name is not None:
            return self._lanes[self._wanted_course(node.name)]
        return self._lanes[self._reached_course(node.resource_id or 0)]

    def _wanted_course(self, name: str) -> Course:
        return self._course(self._wanted.get(name), self._types.get(name))

    def _reached_course(self, id_: int) -> Course:
        return self._course(self._reached.get(id_), self._types_reached.get(id_))

    def _course(self, queue: str | None = None, type_: str | None = None) -> Course:
        types = (type_,) if type_ in self._special and type_ is not None else ()
        return Course(queue or self._queue, types, self._priority, self._format)
