"""The nodes of a traversal: a pure function of the wanted definitions and the existing resources.

Every name in the template has an *update* node, in the order of the template's references. Every
existing resource has a *cleanup* node, in the reverse order of what it really requires. A cleanup
comes after the update of its own name, so that everything that depends on a resource is pointed at
its replacement before the old version is deleted. Cleanups depend only on updates and on other
cleanups, so the two halves together have no cycle as long as neither has one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from converge.errors import BadInput, UnresolvedReference
from converge.graph import Graph
from converge.model import Action, Json, Kind, Physical, ResourceDefinition, Status, same
from converge.template.functions import resolve_properties

#: A node that has no number yet: (kind, name or resource id).
Key = tuple[Kind, str | int]

STACK: Key = (Kind.STACK, "")


@dataclass(frozen=True, slots=True)
class Existing:
    """What the plan needs to know about a resource row.

    :ivar requires: ids of the resources that it really depends on.
    :ivar properties: the properties that it last reached.
    :ivar physical: what references to it resolve to, None if it has no physical id.
    """

    id: int
    name: str
    type: str = ""
    action: Action = Action.CREATE
    status: Status = Status.COMPLETE
    template_id: int | None = None
    requires: tuple[int, ...] = ()
    properties: Mapping[str, Json] = field(default_factory=dict)
    physical: Physical | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One sync point to insert.

    :ivar number: its place in topological order; the stack's own node has the highest.
    :ivar name: the resource's name, None for the stack's node.
    :ivar resource_id: its row, None for the stack's node and for rows yet to be inserted.
    :ivar keep: for a cleanup: this version stays, unless the traversal replaces it.
    :ivar definition: the wanted resource of that name; for a cleanup, only if another version of
        the same type stays instead.
    :ivar requires: numbers of the update nodes whose results this node's references read.
    :ivar pending: how many predecessors it waits for.
    :ivar successors: numbers of the nodes that wait for it, in order.
    """

    number: int
    kind: Kind
    name: str | None
    resource_id: int | None
    keep: bool
    definition: ResourceDefinition | None
    requires: tuple[int, ...]
    pending: int
    successors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """:ivar nodes: in order of their numbers.
    :ivar new: names for which a resource row must be inserted.
    :ivar kept: ids of the existing versions that stay.
    :ivar graph: the same nodes under readable names, for people.
    """

    nodes: tuple[Node, ...]
    new: tuple[str, ...]
    kept: frozenset[int]
    graph: Graph[str]


def best_versions(
    existing: Iterable[Existing],
    wanted: int | None,
    previous: int | None,
    definitions: Mapping[str, ResourceDefinition] | None = None,
    alike: Collection[int] = (),
) -> dict[str, Existing]:
    """The version of each name that is kept.

    In this order of preference: one that has not failed; one that has the wanted properties,
    whichever template made it; one of the wanted template; one that has the properties that would
    be wanted if nothing that it refers to changed; one of the previous template; the newest. A
    version whose deletion has begun is never kept.

    :param existing: all the stack's resource rows.
    :param wanted: id of the wanted template, if any.
    :param previous: id of the template wanted before, if any.
    :param definitions: the wanted resources, if they matter.
    :param alike: ids of other templates with the same content as the wanted one.
    """
    versions: dict[str, list[Existing]] = {}
    for resource in existing:
        if resource.action is not Action.DELETE:
            versions.setdefault(resource.name, []).append(resource)
    best = {name: found[0] for name, found in versions.items()}
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
                    wanted is not None and (one.template_id == wanted or one.template_id in alike),
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
    definitions: Mapping[str, ResourceDefinition],
    existing: Sequence[Existing],
    *,
    wanted: int | None = None,
    previous: int | None = None,
    alike: Collection[int] = (),
) -> Plan:
    """Plan how to get from the existing resources to the wanted definitions.

    :param definitions: the wanted resources, each requiring only names among them.
    :param existing: all the stack's resource rows.
    :param wanted: id of the wanted template, None if nothing is wanted.
    :param previous: id of the template wanted before, if any.
    :param alike: ids of other templates with the same content as the wanted one.
    :raises CircularDependency: the definitions (or the rows' ``requires``) have a cycle.
    """
    best = best_versions(existing, wanted, previous, definitions, alike)
    kept = {name: best[name] for name in definitions if name in best}
    return _number(_edges(definitions, existing, kept), definitions, existing, kept)


def plan_check(definitions: Mapping[str, ResourceDefinition], existing: Sequence[Existing]) -> Plan:
    """Plan a check of every existing resource: in no order, inserting and deleting nothing."""
    best = best_versions(existing, None, None)
    kept = {
        name: best[name]
        for name in definitions
        if name in best and best[name].status is not Status.INIT
    }
    edges: list[tuple[Key, Key | None]] = [((Kind.UPDATE, name), None) for name in kept]
    return _number(edges, {name: definitions[name] for name in kept}, existing, kept)


def _edges(
    definitions: Mapping[str, ResourceDefinition],
    existing: Sequence[Existing],
    kept: Mapping[str, Existing],
) -> list[tuple[Key, Key | None]]:
    """The edges of both halves, as pairs: a node, and one that it requires or None."""
    edges: list[tuple[Key, Key | None]] = []
    for name, definition in definitions.items():
        edges.append(((Kind.UPDATE, name), None))
        edges.extend(
            ((Kind.UPDATE, name), (Kind.UPDATE, required)) for required in definition.requires
        )
    ids = {resource.id for resource in existing}
    required_ids = {required for resource in existing for required in resource.requires}
    for resource in existing:
        cleanup: Key = (Kind.CLEANUP, resource.id)
        edges.append((cleanup, None))
        edges.extend(
            ((Kind.CLEANUP, required), cleanup) for required in resource.requires if required in ids
        )
        if resource.name not in definitions:
            continue
        going = resource.action is Action.DELETE
        if going and resource.id not in required_ids and not _was_created(kept.get(resource.name)):
            # half deleted, it may still hold a name or a path that its successor needs
            edges.append(((Kind.UPDATE, resource.name), cleanup))
        else:
            edges.append((cleanup, (Kind.UPDATE, resource.name)))
    return edges


def _was_created(one: Existing | None) -> bool:
    """Whether a version exists and its create has completed."""
    return one is not None and not (
        one.action is Action.CREATE and one.status is not Status.COMPLETE
    )


def _number(
    edges: list[tuple[Key, Key | None]],
    definitions: Mapping[str, ResourceDefinition],
    existing: Sequence[Existing],
    kept: Mapping[str, Existing],
) -> Plan:
    """Add the stack's node, and number all nodes in topological order."""
    roots = Graph(edges).roots()
    edges.append((STACK, None))
    edges.extend((STACK, root) for root in roots)
    graph = Graph(edges)
    order = list(graph)
    numbers = {key: number for number, key in enumerate(order)}
    by_id = {resource.id: resource for resource in existing}
    kept_ids = frozenset(resource.id for resource in kept.values())

    nodes = []
    for number, key in enumerate(order):
        kind, what = key
        name: str | None = None
        resource_id: int | None = None
        definition = None
        requires: tuple[int, ...] = ()
        if kind is Kind.UPDATE:
            name = str(what)
            resource_id = kept[name].id if name in kept else None
            definition = definitions[name]
        elif kind is Kind.CLEANUP:
            resource_id = int(what)
            name = by_id[resource_id].name
            wanted = definitions.get(name)
            if wanted and resource_id not in kept_ids and wanted.type == by_id[resource_id].type:
                # the properties that its delete uses may have changed
                definition = wanted
        if definition is not None:
            requires = tuple(
                numbers[required]
                for other in definition.requires
                if (required := (Kind.UPDATE, other)) in numbers
            )
        nodes.append(
            Node(
                number=number,
                kind=kind,
                name=name,
                resource_id=resource_id,
                keep=resource_id in kept_ids,
                definition=definition,
                requires=requires,
                pending=len(graph.requires(key)),
                successors=tuple(sorted(numbers[other] for other in graph.required_by(key))),
            )
        )

    def label(key: Key) -> str:
        kind, what = key
        if kind is Kind.CLEANUP:
            return f"cleanup {by_id[int(what)].name} #{what}"
        return f"update {what}" if kind is Kind.UPDATE else "stack"

    return Plan(
        nodes=tuple(nodes),
        new=tuple(name for name in definitions if name not in kept),
        kept=kept_ids,
        graph=graph.translate(label),
    )
