"""What can be asked of a database: each method is one read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from converge.canonical import load
from converge.errors import BadInput, did_you_mean
from converge.inspection import views
from converge.model import SHOWN_STATUSES, check_age, check_name
from converge.sql.database import Database

if TYPE_CHECKING:
    from converge.graph import Graph
    from converge.inspection.planning import Preview
    from converge.resources.resource_type import ResourceType
    from converge.sql.transaction import HostTransaction
    from converge.template import Template
    from converge.template.outputs import Source

#: How many nodes of each engine are listed at most.
_HOLDS = 1000


def _several(given: str | Iterable[str]) -> frozenset[str]:
    return frozenset([given] if isinstance(given, str) else given)


def _statuses(given: str | Iterable[str]) -> frozenset[str]:
    found = _several(given)
    for one in sorted(found.difference(SHOWN_STATUSES)):
        raise BadInput(f"unknown status {one!r}{did_you_mean(one, map(str, SHOWN_STATUSES))}")
    return found


def _check_limit(limit: object) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise BadInput(f"limit must be a whole number, 0 or more, not {limit!r}")


class Queries:
    """The part of :class:`converge.Store` that only reads."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def stacks(self, *, nested: bool = False) -> list[dict[str, Any]]:
        """The live stacks, by name: name, action, status, reason, version, queue, priority,
        actor (who asked for what is or was done last, None if nobody said), created, updated
        (seconds since 1970), and outer (the name of the stack that a nested one belongs to).

        :param nested: also nested stacks.
        """
        return self.database.read(lambda tx: views.list_stacks(tx, nested=nested))

    def show(
        self,
        name: str,
        *,
        reveal: bool = False,
        limit: int | None = None,
        after: str | None = None,
        status: str | Iterable[str] = (),
        type: str | Iterable[str] = (),
    ) -> dict[str, Any]:
        """A stack with its progress, resources and outputs.

        ``resources`` are by name; ``counts`` has how many there are in all of each status, and
        ``more`` how many of those asked for come after these.

        :param reveal: show the values of hidden parameters, which are ``***`` in properties,
            attributes, physical ids and outputs otherwise.
        :param limit: so many resources at most; None: all.
        :param after: only resources whose names come after this one: for the next page, the last
            name of the one before.
        :param status: only resources with this status, or one of these.
        :param type: only resources of this type, or one of these.
        :raises NotFound: there is no such stack.
        :raises BadInput: there is no such status, or the limit is not a number.
        """
        from converge.inspection import contents  # when it is needed: it imports templates

        _check_limit(limit)
        statuses, types = _statuses(status), _several(type)
        return self.database.read(
            lambda tx: contents.show(
                tx, name, reveal=reveal, limit=limit, after=after, status=statuses, type=types
            )
        )

    def outputs(self, name: str) -> dict[str, Any]:
        """The outputs of a stack, by name; None where there is no value yet, and ``***`` for what
        is secret in them. It costs less than :meth:`show`, which has them, too.

        :raises NotFound: there is no such stack.
        """
        from converge.inspection import contents

        return self.database.read(lambda tx: contents.show_outputs(tx, name))

    def statuses(
        self,
        name: str,
        *,
        status: str | Iterable[str] = (),
        resources: Iterable[str] | None = None,
    ) -> dict[str, str]:
        """The status of each resource of a stack, by name. Of a large stack it takes a small part
        of the time of :meth:`show`.

        :param status: only resources with this status, or one of these.
        :param resources: only those of these names.
        :raises NotFound: there is no such stack.
        :raises BadInput: there is no such status.
        """
        from converge.inspection import contents

        wanted, names = _statuses(status), None if resources is None else set(resources)
        return self.database.read(lambda tx: contents.list_statuses(tx, name, wanted, names))

    def progress(self, name: str) -> dict[str, int]:
        """The numbers of nodes of the current traversal: total, done, running, waiting (their
        handlers are called again later), failed, skipped.

        :raises NotFound: there is no such stack.
        """
        return self.database.read(lambda tx: views.progress(tx, name))

    def running(self, name: str) -> list[dict[str, Any]]:
        """The nodes whose handlers are running: resource, kind, engine, since_seconds; oldest
        first.

        :raises NotFound: there is no such stack.
        """
        return self.database.read(lambda tx: views.running(tx, name))

    def waiting(self, name: str, *, limit: int = 1000) -> list[dict[str, Any]]:
        """The nodes whose handlers wait (:class:`~converge.Wait`), the longest first: resource,
        kind, progress (how far it is, None if the handler did not say), since_seconds and
        again_in_seconds; None if it waits for something else than a time, and then ``until`` says
        what for.

        :param limit: the most of them.
        :raises NotFound: there is no such stack.
        """
        return self.database.read(lambda tx: views.waiting(tx, name, limit))

    def events(
        self,
        name: str,
        *,
        after: int | None = None,
        limit: int = 1000,
        since: float | datetime | None = None,
    ) -> list[dict[str, Any]]:
        """The events of a stack, oldest first; if it is deleted, of the last one of that name.

        :param after: only events with a higher id.
        :param limit: the most events: the first after ``after``, or the newest.
        :param since: only events from this time on: so many seconds ago, by the database's clock,
            or a time with its time zone. If that clock has gone back meanwhile, those after the
            last event that is older.
        :raises NotFound: there never was such a stack.
        :raises BadInput: ``since`` or ``limit`` is wrong.
        """
        _check_limit(limit)
        if isinstance(since, datetime):
            if since.tzinfo is None:
                raise BadInput(f"since must have a time zone, and {since.isoformat()} has none")
        elif since is not None:
            since = check_age("since", since)
        return self.database.read(lambda tx: views.events(tx, name, after, limit, since))

    def why(self, name: str | None = None, resource: str | None = None) -> list[dict[str, Any]]:
        """What a stack, or one of its resources, waits for, who holds that, and what failed.

        Without a name: what is stuck in the whole database. That is nodes held by engines whose
        lease has ended, handlers that run for longer than their timeout, traversals past their
        deadline, BLOCKED nodes, and READY nodes that no engine takes. A retry that is not due is
        not stuck.

        Each answer has these keys, of which all but ``message`` can be None:

        - ``message``: the answer in words; what follows are its parts.
        - ``stack``, ``traversal`` (its id), ``resource``, ``kind`` (``update``, ``cleanup`` or
          ``stack``), ``state``, and ``reason``, why it failed last.

        And these, where they apply:

        - ``waits_for``: the names of the resources that it waits for directly.
        - ``engine``, ``host``, ``since_seconds``, ``lease_seconds`` (negative: the lease ended):
          who holds it, or else what it waits for; since when; and how much longer.
        - ``blocked_by``: the id of the older traversal that still works on its resource.
        - ``attempt``, ``max_attempts``, ``deaths`` (of engines while working on it), and
          ``ready_in_seconds`` (negative: it has been ready).
        - ``waiting_seconds``: its handler waits, since its first call; ``reason`` is how far it is.
        - ``queue``, ``types`` and ``engines``, of what is ready: the queue that an engine must
          serve to take it, the resource types that it must have, as far as not every engine has
          them, and how many such engines are alive.
        - ``traceback``: if a resource is named, that of the exception in ``reason``; None if it has
          none, as when converge itself gave the reason. At most 16 KiB, its end.
        - ``more``: in the last answer, how many were left out. There are 100 at most.

        :raises NotFound: there is no such stack or resource.
        :raises BadInput: a resource is given without a stack.
        """
        from converge.inspection import why

        if name is None:
            if resource is not None:
                raise BadInput(f"name the stack that resource {resource!r} belongs to")
            return self.database.read(why.stuck)
        return self.database.read(lambda tx: why.why(tx, name, resource))

    def engines(self, *, ended: bool = False) -> list[dict[str, Any]]:
        """The engines, by id.

        Each has ``id``, ``host``, ``pid``, ``state`` (``ALIVE``; ``EXPIRED``: its lease has ended
        and it is not recovered yet; ``STOPPED`` or ``DEAD``), ``started`` (seconds since 1970),
        ``lease`` (its length in seconds), ``lease_seconds`` (until it ends; negative: ended so
        long ago), ``nodes`` (how many it holds) and ``holds`` (those it has held for longest, 1,000
        at most), each with ``stack``, ``traversal``, ``resource``, ``kind`` and ``since_seconds``.
        ``types`` and ``queues`` are the names of the resource types that it has and of the queues
        that it serves; None of an engine of an earlier version. ``format`` is the highest of what a
        stack's rows say that it understands.

        :param ended: also those that stopped or died within the last day.
        """
        return self.database.read(lambda tx: views.list_engines(tx, ended=ended, limit=_HOLDS))

    def limits(self) -> list[dict[str, Any]]:
        """The limits that are set, by kind and name. Each has ``kind`` (type, stack or key),
        ``name``, ``places``, ``rate``, how many places are ``taken``, and how many nodes are
        ``waiting`` for it (counted up to 10,000). See :meth:`converge.Store.set_limit`.
        """
        from converge.inspection.limited import list_limits

        return self.database.read(list_limits)

    def graph(self, name: str) -> Graph[str]:
        """The graph of the wanted resources.

        :raises NotFound: there is no such stack.
        """
        from converge.inspection import contents

        return self.database.read(lambda tx: contents.graph(tx, name))

    def traversal_graph(self, name: str) -> Graph[str]:
        """The graph that the current traversal walks: ``update NAME``, ``cleanup NAME #ID`` and
        ``stack``, as it was stored when it started.

        :raises NotFound: there is no such stack.
        """
        from converge.inspection import contents

        return self.database.read(lambda tx: contents.traversal_graph(tx, name))

    # -- what would be done

    def plan(
        self,
        name: str,
        template: Template,
        *,
        parameters: Mapping[str, Any] | None = None,
        types: Mapping[str, ResourceType] | None = None,
        keep_parameters: bool = False,
        unprotect: Collection[str] = (),
        replace: Collection[str] = (),
        target: Collection[str] = (),
    ) -> Preview:
        """What :meth:`converge.Store.converge_stack` would do, and why, without doing it: of each
        resource whether it is created, updated, replaced or deleted, with the properties that
        differ. What depends on a value that is not known yet is said to be uncertain; nothing more
        than that will happen, unless somebody changes something in the meantime.

        :param types: resource types to use instead of installed ones of the same name.
        :param keep_parameters: those that are not given keep their values.
        :param replace: names of resources that are to be replaced.
        :param target: names of resources that alone are touched, with what they require.
        :raises BadInput: the name, the template or a parameter is wrong.
        """
        from converge.inspection import planning
        from converge.protocol import answer
        from converge.protocol.request import Intent, work_out
        from converge.resources import load_types

        check_name("stack", name)
        known = {**load_types(), **(types or {})}
        kept = (
            self.database.read(lambda tx: answer.read_kept(tx, name)) if keep_parameters else None
        )
        wanted = work_out(name, template, parameters, known, kept, self._sources())
        hidden = template.hidden_values(load(wanted.parameters))
        return self.database.read(
            lambda tx: planning.preview_wanted(
                tx, name, wanted, hidden, known, unprotect, Intent(replace=replace, target=target)
            )
        )

    def plan_rollback(
        self,
        name: str,
        *,
        version: int | Literal["empty"] | None = None,
        types: Mapping[str, ResourceType] | None = None,
        unprotect: Collection[str] = (),
    ) -> Preview:
        """What :meth:`converge.Store.rollback_stack` would do; see :meth:`plan`.

        :raises NotFound: there is no such stack or version, or none to go back to.
        """
        from converge.inspection import planning
        from converge.protocol.rollback import check_version
        from converge.resources import load_types

        check_version(version)
        known = {**load_types(), **(types or {})}
        return self.database.read(
            lambda tx: planning.preview_rollback(tx, name, version, known, unprotect)
        )

    def plan_delete(
        self,
        name: str,
        *,
        types: Mapping[str, ResourceType] | None = None,
        unprotect: Collection[str] = (),
        despite: Collection[str] = (),
    ) -> Preview:
        """What :meth:`converge.Store.delete_stack` would do; see :meth:`plan`.

        :raises NotFound: there is no such stack.
        :raises Conflict: others read its outputs.
        """
        from converge.inspection import planning
        from converge.resources import load_types

        known = {**load_types(), **(types or {})}
        return self.database.read(
            lambda tx: planning.preview_delete(tx, name, known, unprotect, despite)
        )

    # -- helpers

    def _sources(self, transaction: HostTransaction | None = None) -> Callable[[str], Source]:
        """Reads the outputs of a stack; in a host's transaction, also what that has started."""
        from converge.protocol.outputs import read_source

        def read(other: str) -> Source:
            if transaction is None:
                return self.database.read(lambda tx: read_source(tx, other))
            with self.database.join(transaction) as tx:
                return read_source(tx, other)

        return read
