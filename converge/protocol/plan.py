"""The nodes of a traversal: a pure function of the wanted definitions and the existing resources.

Every name in the template has an *update* node, in the order of the template's references. Every
existing resource has a *cleanup* node, in the reverse order of what it really requires. What is
unchanged (see :mod:`converge.protocol.basis`) has neither; if something else refers to it, it has
an update node that is done from the start, outside of the graph. What requires something that
changes, and is unchanged itself, has both: they are passed over if it need not change. A cleanup
comes after the updates of its own name and of all that depends on it, so that everything is pointed
at a replacement before the old version is deleted; where the cleanups before it see to that, it has
no edge of its own from its update. Cleanups depend only on updates and on other cleanups, so the
two halves together have no cycle as long as neither has one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from converge.errors import BadInput, UnresolvedReference
from converge.graph import Graph
from converge.model import Action, Json, Kind, Physical, ResourceDefinition, Status, same
from converge.template import Definitions, resolve_properties

#: A node that has no number yet. An update: the name of the resource; a cleanup: the id of the
#: version; the stack's own node: STACK.
Key = str | int

# no resource has this name
STACK = ""


@dataclass(slots=True)
class Existing:
    """What the plan needs to know about a resource row.

    :ivar requires: ids of the resources that it really depends on.
    :ivar as_wanted: whether it was last brought to what is wanted of it now; needed if it is
        :func:`compared`.
    :ivar properties: the properties that it last reached; needed if it is compared.
    :ivar physical: what references to it resolve to, None if it has no physical id; needed if it
        is compared.
    """

    id: int
    name: str
    type: str = ""
    action: Action = Action.CREATE
    status: Status = Status.COMPLETE
    template_id: int | None = None
    requires: tuple[int, ...] = ()
    as_wanted: bool = False
    properties: Mapping[str, Json] = field(default_factory=dict)
    physical: Physical | None = None


class Node(NamedTuple):
    """One sync point to insert.

    :ivar number: its place in topological order; the stack's own node has the highest.
    :ivar name: the resource's name, None for the stack's node.
    :ivar resource_id: its row, None for the stack's node and for rows yet to be inserted.
    :ivar keep: for a cleanup: this version stays, unless the traversal replaces it.
    :ivar definition: the wanted resource of that name, as JSON; for a cleanup, only if another
        version of the same type stays instead.
    :ivar requires: numbers of the update nodes whose results this node's references read, in order.
    :ivar pending: how many predecessors it waits for.
    :ivar successors: numbers of the nodes that wait for it, in order.
    :ivar done: it is done from the start; its number is negative.
    :ivar always: it runs whether what it waits for failed or not.
    :ivar passable: nothing is to be done for it: for an update, unless something before it changes;
        for a cleanup, unless its version is replaced.
    """

    number: int
    kind: Kind
    name: str | None
    resource_id: int | None
    keep: bool
    definition: str | None
    requires: tuple[int, ...]
    pending: int
    successors: tuple[int, ...]
    done: bool = False
    always: bool = False
    passable: bool = False


class Plan:
    """What a traversal has to do. Its nodes are made when they are asked for: a million of them
    would take more memory than all they are made from.

    :ivar new: names for which a resource row must be inserted.
    :ivar kept: ids of the existing versions that stay.
    :ivar unchanged: names of the resources that are as they are wanted.
    :ivar passable: names of those that are, too, unless something that they require changes.
    :ivar left: names of those that nobody asked to be touched, whatever is wanted of them.
    :ivar held: ids of the rows that these depend on: if they are replaced, they stay.
    """

    def __init__(
        self,
        graph: Graph[Key],
        definitions: Definitions,
        existing: Sequence[Existing],
        kept: Mapping[str, Existing],
        new: tuple[str, ...] = (),
        unchanged: Collection[str] = (),
        left: Collection[str] = (),
        held: Collection[int] = (),
        passable: Collection[str] = (),
    ) -> None:
        self._graph = graph
        self.unchanged = unchanged
        self.passable = passable
        self.left = left
        self.held = held
        self._done: dict[str, int] = {}
        self._definitions = definitions
        self._always = definitions.always()
        self._by_id = {resource.id: resource for resource in existing}
        self._kept = kept
        self.new = new
        self.kept = frozenset(resource.id for resource in kept.values())

    def __len__(self) -> int:
        """The number of nodes; the stack's own is one of them."""
        return len(self._graph)

    def nodes(self) -> Iterator[Node]:
        """The nodes in order of their numbers, and then those that are done from the start."""
        self._done = {}
        yield from map(self._node, range(len(self._graph)), self._graph)
        for name, number in self._done.items():
            resource_id = self._kept[name].id
            yield Node(number, Kind.UPDATE, name, resource_id, True, None, (), 0, (), done=True)

    @property
    def graph(self) -> Graph[str]:
        """The same nodes under readable names, for people."""
        return self._graph.translate(self._label)

    def graph_to_bytes(self) -> bytes:
        """That graph, serialized."""
        return self._graph.to_bytes(self._label)

    def _label(self, key: Key) -> str:
        if isinstance(key, int):
            return f"cleanup {self._by_id[key].name} #{key}"
        return f"update {key}" if key else "stack"

    def _node(self, number: int, key: Key) -> Node:
        kind = Kind.UPDATE
        name: str | None = None
        resource_id: int | None = None
        is_given = False
        always = False
        if isinstance(key, int):
            kind = Kind.CLEANUP
            resource_id = key
            version = self._by_id[key]
            name = version.name
            # the properties that its delete uses may have changed
            is_given = (
                name in self._definitions
                and key not in self.kept
                and self._definitions.type(name) == version.type
            )
        elif key:
            name = key
            version_kept = self._kept.get(name)
            resource_id = None if version_kept is None else version_kept.id
            is_given = True
            always = name in self._always
        else:
            kind = Kind.STACK
        graph = self._graph
        given = name if is_given else None
        return Node(
            number=number,
            kind=kind,
            name=name,
            resource_id=resource_id,
            keep=resource_id in self.kept,
            definition=None if given is None else self._definitions.text(given),
            requires=() if given is None else tuple(self._requires(number, given)),
            pending=graph.count_required(number),
            successors=tuple(graph.dependants(number)),
            always=always,
            passable=resource_id in self.kept and (kind is Kind.CLEANUP or name in self.passable),
        )

    def _requires(self, number: int, name: str) -> Iterable[int]:
        if not self._by_id:
            # the nodes are those of the wanted graph
            return self._graph.required(number)
        required = self._definitions.requires(name)
        numbers = sorted(self._graph.numbers(required))
        for other in required if self.unchanged else ():
            if other in self.unchanged:
                numbers.append(self._done.setdefault(other, -1 - len(self._done)))
        return numbers


def best_versions(
    existing: Iterable[Existing],
    wanted: int | None,
    previous: int | None,
    definitions: Mapping[str, ResourceDefinition] | None = None,
    alike: Collection[int] = (),
) -> dict[str, Existing]:
    """The version of each name that is kept.

    In this order of preference: one that has not failed; one that has the wanted properties,
    whichever template made it; one of the wanted template; one that was there with the wanted
    template, as an earlier one said the same of it; one that has the properties that would be
    wanted if nothing that it refers to changed; one of the previous template; the newest. A version
    whose deletion has begun is never kept.

    :param existing: all the stack's resource rows.
    :param wanted: id of the wanted template, if any, and if it is stored.
    :param previous: id of the template wanted before, if any.
    :param definitions: the wanted resources, if they matter.
    :param alike: ids of other templates with the same content as the wanted one.
    """
    versions: dict[str, list[Existing]] = {}
    for resource in existing:
        if resource.action is not Action.DELETE:
            versions.setdefault(resource.name, []).append(resource)
    best = {name: found[0] for name, found in versions.items()}
    like_wanted = {wanted, *alike}
    newest = max((id_ for id_ in like_wanted if id_ is not None), default=0)
    several = {name: None for name, found in versions.items() if len(found) > 1}
    settled: set[str] = set()
    for name in _with_required(several, definitions or {}):
        definition = (definitions or {}).get(name)
        content = None if definition is None else _content(definition, best)
        is_sure = definition is not None and settled.issuperset(definition.requires)
        found = versions.get(name, [])
        like = {one.id for one in found if _is_like(one, definition, content)}
        if name in several:

            def rank(
                one: Existing, like: Collection[int] = like, is_sure: bool = is_sure
            ) -> tuple[bool | int, ...]:
                return (
                    one.status is not Status.FAILED and one.action is not Action.REPLACE,
                    is_sure and one.id in like,
                    one.template_id is not None and one.template_id in like_wanted,
                    one.as_wanted and one.template_id is not None and one.template_id <= newest,
                    one.id in like,
                    previous is not None and one.template_id == previous,
                    one.id,
                )

            best[name] = max(found, key=rank)
        chosen = best.get(name)
        if is_sure and chosen and chosen.id in like and chosen.status is Status.COMPLETE:
            settled.add(name)
    return best


def contested(existing: Iterable[Existing]) -> set[int]:
    """The ids of the templates that made the versions of names with several versions."""
    versions: dict[str, list[Existing]] = {}
    for one in existing:
        versions.setdefault(one.name, []).append(one)
    return {
        one.template_id
        for found in versions.values()
        if len(found) > 1
        for one in found
        if one.template_id is not None
    }


def compared(
    existing: Collection[Existing], definitions: Mapping[str, ResourceDefinition]
) -> set[int]:
    """The ids of the resources whose content is compared with the wanted one, to choose between
    the versions of a name: those versions, and all that the wanted resource requires. Of all
    others, a plan does not need to know what they are."""
    if len({one.name for one in existing}) == len(existing):
        return set()
    versions: dict[str, list[int]] = {}
    for one in existing:
        versions.setdefault(one.name, []).append(one.id)
    names = _with_required([name for name, ids in versions.items() if len(ids) > 1], definitions)
    return {id_ for name in names for id_ in versions.get(name, ())}


def _with_required(
    names: Iterable[str], definitions: Mapping[str, ResourceDefinition]
) -> Iterable[str]:
    """The names and everything that they require, each after what it requires."""
    edges: list[tuple[str, str | None]] = []
    stack = list(names)
    seen = set(stack)
    while stack:
        name = stack.pop()
        edges.append((name, None))
        if name in definitions:
            for required in definitions[name].requires:
                edges.append((name, required))
                if required not in seen:
                    seen.add(required)
                    stack.append(required)
    return Graph(edges)


def _content(
    definition: ResourceDefinition, best: Mapping[str, Existing]
) -> Mapping[str, Json] | None:
    """The wanted properties if what they refer to stays as it is; None if that does not exist."""

    def lookup(name: str) -> Physical:
        found = best.get(name)
        if found is None or found.physical is None:
            raise UnresolvedReference(f"resource {name!r} has no physical id yet")
        return found.physical

    try:
        return resolve_properties(definition.properties, lookup)
    except (UnresolvedReference, BadInput):
        return None


def _is_like(
    one: Existing, definition: ResourceDefinition | None, content: Mapping[str, Json] | None
) -> bool:
    """Whether a version has these properties."""
    return (
        definition is not None
        and content is not None
        and one.physical is not None
        and one.type == definition.type
        and same(dict(one.properties), content)
    )


def plan(
    definitions: Definitions,
    existing: Sequence[Existing],
    *,
    wanted: int | None = None,
    previous: int | None = None,
    alike: Collection[int] = (),
    unchanged: Collection[str] = (),
    passable: Collection[str] = (),
    only: Collection[str] | None = None,
) -> Plan:
    """Plan how to get from the existing resources to the wanted definitions.

    :param definitions: the wanted resources.
    :param existing: all the stack's resource rows.
    :param wanted: id of the wanted template, None if nothing is wanted, or if it is not stored.
    :param previous: id of the template wanted before, if any.
    :param alike: ids of other templates with the same content as the wanted one.
    :param unchanged: names of the resources that are left alone, as is all that they require.
    :param passable: names of those that are left alone if nothing that they require changes.
    :param only: names of those that may be touched, with all that they require; None: all. What the
        others use of them stays, too, until these are brought about.
    :raises CircularDependency: the definitions (or the rows' ``requires``) have a cycle.
    """
    best = best_versions(existing, wanted, previous, definitions, alike)
    kept = {name: best[name] for name in definitions if name in best}
    left: set[str] = set()
    held: Collection[int] = ()
    if only is not None:
        left = {*definitions, *(one.name for one in existing)}.difference(only)
        unchanged = set(unchanged) - left
    new = tuple(name for name in definitions if name not in kept and name not in left)
    graph = cast("Graph[Key]", definitions.graph)
    if existing or left:
        skipped = left.union(unchanged) if left else unchanged
        held = _used_by(left, existing)
        graph = Graph.of(_requirements(definitions.graph, existing, kept, skipped, held))
    root = graph.with_root(STACK)
    return Plan(root, definitions, existing, kept, new, unchanged, left, held, passable)


def with_required(graph: Graph[str], names: Iterable[str]) -> set[str]:
    """These names, and all that they require."""
    found = set(names)
    todo = list(found)
    while todo:
        for required in graph.requires(todo.pop()):
            if required not in found:
                found.add(required)
                todo.append(required)
    return found


def _used_by(left: Collection[str], existing: Sequence[Existing]) -> set[int]:
    """The ids of the rows that those of these names depend on."""
    by_id = {one.id: one for one in existing}
    todo = [id_ for one in existing if one.name in left for id_ in one.requires]
    found: set[int] = set()
    while todo:
        id_ = todo.pop()
        if id_ not in found and id_ in by_id:
            found.add(id_)
            todo += by_id[id_].requires
    return found


def plan_check(definitions: Definitions, existing: Sequence[Existing]) -> Plan:
    """Plan a check of every existing resource: in no order, inserting and deleting nothing."""
    best = best_versions(existing, None, None)
    kept = {
        name: best[name]
        for name in definitions
        if name in best and best[name].status is not Status.INIT
    }
    lone: list[tuple[Key, Key | None]] = [(name, None) for name in kept]
    graph = Graph(lone).with_root(STACK)
    return Plan(graph, definitions, existing, kept)


def _requirements(
    wanted: Graph[str],
    existing: Sequence[Existing],
    kept: Mapping[str, Existing],
    unchanged: Collection[str],
    held: Collection[int] = (),
) -> Mapping[Key, Collection[Key]]:
    """What each node of both halves requires.

    :param held: ids of the rows that are not cleaned up.
    """
    found: dict[Key, list[Key]] = {}
    for name in wanted:
        if name not in unchanged:
            found[name] = [one for one in wanted.requires(name) if one not in unchanged]
    planned = [one for one in existing if one.name not in unchanged and one.id not in held]
    required_ids = {required for resource in existing for required in resource.requires}

    def goes_first(one: Existing) -> bool:
        """Whether it is deleted before its successor is made."""
        is_half = one.action is Action.DELETE and one.id not in required_ids
        # half deleted, it may still hold a name or a path that its successor needs
        return is_half and not _was_created(kept.get(one.name))

    names = {one.id: one.name for one in planned}
    # the cleanups that come after the update of their name anyway: that of a dependant is before
    # them, and comes after its own update, which comes after theirs
    implied: set[int] = set()
    for one in planned:
        cleanup = one.id
        found.setdefault(cleanup, [])
        own = found[one.name] if one.name in wanted and not goes_first(one) else ()
        for dependency in dict.fromkeys(one.requires):
            if dependency in names:
                found.setdefault(dependency, []).append(cleanup)
                if names[dependency] in own:
                    implied.add(dependency)
    for one in planned:
        if one.name not in wanted:
            continue
        if goes_first(one):
            found[one.name].append(one.id)
        elif one.id not in implied:
            found[one.id].append(one.name)
    return found


def _was_created(one: Existing | None) -> bool:
    """Whether a version exists and its create has completed."""
    return one is not None and not (
        one.action is Action.CREATE and one.status is not Status.COMPLETE
    )
