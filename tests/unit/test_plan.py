"""The plan is a pure function, so it is tested without a database."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterable, Sequence

import pytest

from converge.errors import CircularDependency
from converge.model import Action, Kind, Physical, ResourceDefinition, Status
from converge.protocol.plan import Existing, Plan, best_versions, plan, plan_check
from converge.template import Definitions


def wanted(**requires: str) -> Definitions:
    """Definitions from ``C="A B"``: C requires A and B."""
    return Definitions.of(
        {
            name: ResourceDefinition("fake", {}, tuple(sorted(r.split())))
            for name, r in requires.items()
        }
    )


def one(id_: int, name: str, *requires: int, **more: object) -> Existing:
    values = {"type": "fake", "requires": requires} | more
    return Existing(id_, name, **values)  # type: ignore[arg-type]


def edges(planned: Plan) -> set[tuple[str, str]]:
    """(requirer, required), by readable names, without those of the stack's node."""
    return {
        (left, right)
        for left, right in planned.graph.edges()
        if right is not None and left != "stack"
    }


def check_consistent(planned: Plan) -> None:
    """The numbers are a topological order, and the rows say the same as the graph."""
    names = list(planned.graph)
    assert [node.number for node in planned.nodes()] == list(range(len(names)))
    arrivals = dict.fromkeys(range(len(names)), 0)
    for node in planned.nodes():
        assert len(set(node.successors)) == len(node.successors)
        assert all(other > node.number for other in node.successors)
        assert list(node.successors) == sorted(node.successors)
        assert all(other < node.number for other in node.requires)
        for other in node.successors:
            arrivals[other] += 1
    assert arrivals == {node.number: node.pending for node in planned.nodes()}
    last = list(planned.nodes())[-1]
    assert (last.kind, last.name, last.resource_id, last.successors) == (Kind.STACK, None, None, ())
    assert [node.number for node in planned.nodes() if not node.successors] == [last.number]


# -- the best version of a name

KEEP_FIRST = [
    ("healthy before failed", {"template_id": 1}, {"template_id": 2, "status": Status.FAILED}),
    ("the wanted before the previous", {"template_id": 2}, {"template_id": 1}),
    ("the previous before others", {"template_id": 1}, {"template_id": 7}),
    ("the wanted before none", {"template_id": 2}, {"template_id": None}),
    ("a failed one before one half gone", {"status": Status.FAILED}, {"action": Action.DELETE}),
    ("not created before half gone", {"status": Status.INIT}, {"action": Action.DELETE}),
]


@pytest.mark.parametrize(
    ("better", "worse"), [case[1:] for case in KEEP_FIRST], ids=[case[0] for case in KEEP_FIRST]
)
@pytest.mark.parametrize("better_is_newer", [False, True])
def test_best_version(
    better: dict[str, object], worse: dict[str, object], better_is_newer: bool
) -> None:
    ids = (2, 1) if better_is_newer else (1, 2)
    first, second = one(ids[0], "A", **better), one(ids[1], "A", **worse)
    for order in ([first, second], [second, first]):
        assert best_versions(order, wanted=2, previous=1) == {"A": first}


def test_best_version_of_equals_is_the_newest() -> None:
    assert best_versions([one(3, "A"), one(9, "A"), one(5, "A")], 1, None)["A"].id == 9


def test_best_version_without_a_wanted_template() -> None:
    found = best_versions([one(1, "A", template_id=None), one(2, "B")], None, None)
    assert {name: best.id for name, best in found.items()} == {"A": 1, "B": 2}


LIKE = {"properties": {"of": "a-1"}, "physical": Physical("b-1")}
OTHER = {"properties": {"of": "a-2"}, "physical": Physical("b-2")}


def kept(first: dict[str, object], second: dict[str, object], **a: object) -> int:
    """Which version of B is kept: 8, or 9. It refers to A, of which there is one."""
    required = {"id_": 1, "name": "A", "physical": Physical("a-1"), **a}
    existing = [one(**required), one(8, "B", **first), one(9, "B", **second)]  # type: ignore[arg-type]
    definitions = {
        "B": ResourceDefinition("fake", {"of": {"get_resource": "A"}}, ("A",)),
        "A": ResourceDefinition("fake"),
    }
    return best_versions(existing, 3, 2, definitions, alike=[1])["B"].id


def test_the_version_that_has_what_is_wanted_is_kept_whichever_template_made_it() -> None:
    assert kept(LIKE, OTHER | {"template_id": 2}) == 8
    assert kept(LIKE, OTHER | {"template_id": 3}) == 8
    assert kept(LIKE, LIKE) == 9
    assert kept(LIKE | {"type": "other"}, OTHER) == 9
    assert kept(LIKE | {"physical": None}, OTHER) == 9


def test_a_failed_version_that_has_what_is_wanted_is_not_better_than_a_healthy_one() -> None:
    assert kept(LIKE | {"status": Status.FAILED}, OTHER) == 9


@pytest.mark.parametrize("a", [{"properties": {"size": 1}}, {"status": Status.FAILED}])
def test_where_what_it_refers_to_will_change_the_template_counts_first(
    a: dict[str, object],
) -> None:
    assert kept(LIKE, OTHER | {"template_id": 3}, **a) == 9
    assert kept(LIKE, OTHER | {"template_id": 1}, **a) == 9
    assert kept(LIKE, OTHER | {"template_id": 2}, **a) == 8


def test_what_is_being_deleted_is_never_kept() -> None:
    going = one(1, "A", action=Action.DELETE, template_id=2)
    assert best_versions([going], 2, 2) == {}
    planned = plan(wanted(A=""), [going], wanted=2, previous=2)
    assert planned.new == ("A",)
    assert planned.kept == frozenset()


# -- the edges


@pytest.mark.parametrize("newer", [None, Status.INIT, Status.IN_PROGRESS, Status.FAILED])
def test_what_is_half_gone_goes_before_its_successor_is_made(newer: Status | None) -> None:
    going = one(1, "A", action=Action.DELETE)
    made = [] if newer is None else [one(2, "A", status=newer)]
    planned = plan(wanted(A=""), [going, *made])
    assert ("update A", "cleanup A #1") in edges(planned)
    check_consistent(planned)


def test_what_is_half_gone_goes_after_a_successor_that_is_there() -> None:
    planned = plan(wanted(A=""), [one(1, "A", action=Action.DELETE), one(2, "A")])
    assert ("cleanup A #1", "update A") in edges(planned)


def test_create() -> None:
    planned = plan(wanted(A="", B="", C="A B", D="C", E="C"), [])
    assert edges(planned) == {
        ("update C", "update A"),
        ("update C", "update B"),
        ("update D", "update C"),
        ("update E", "update C"),
    }
    assert planned.new == ("A", "B", "C", "D", "E")
    assert [node.name for node in planned.nodes()] == ["A", "B", "C", "D", "E", None]
    assert [node.pending for node in planned.nodes()] == [0, 0, 2, 1, 1, 2]
    assert list(planned.nodes())[2].requires == (0, 1)
    assert not any(node.keep for node in planned.nodes())
    assert all(node.resource_id is None for node in planned.nodes())
    check_consistent(planned)


def test_update_cleans_up_in_reverse_after_what_still_requires_it_is_updated() -> None:
    planned = plan(wanted(A="", C="A"), [one(1, "A"), one(2, "C", 1)])
    assert edges(planned) == {
        ("update C", "update A"),
        # so it comes after the update of A, too, which needs no edge
        ("cleanup A #1", "cleanup C #2"),
        ("cleanup C #2", "update C"),
    }
    assert planned.kept == {1, 2}
    assert planned.new == ()
    assert {node.resource_id for node in planned.nodes() if node.keep} == {1, 2}
    check_consistent(planned)


@pytest.mark.parametrize(
    ("template", "version"),
    [
        pytest.param({"A": "", "C": ""}, {}, id="not required any more"),
        pytest.param({"A": ""}, {}, id="not wanted any more"),
        pytest.param({"A": "", "C": "A"}, {"action": Action.DELETE}, id="made after its cleanup"),
    ],
)
def test_a_cleanup_comes_after_its_own_update_where_no_other_does(
    template: dict[str, str], version: dict[str, Action]
) -> None:
    planned = plan(wanted(**template), [one(1, "A"), one(2, "C", 1, **version)])
    assert ("cleanup A #1", "cleanup C #2") in edges(planned)
    assert ("cleanup A #1", "update A") in edges(planned)
    check_consistent(planned)


def test_every_cleanup_comes_after_its_update_and_those_of_what_requires_it() -> None:
    rng = random.Random(5)
    for _ in range(200):
        size = rng.randint(2, 7)
        before = [rng.sample(range(i), rng.randint(0, min(3, i))) for i in range(size)]
        after = [
            now if rng.random() < 0.7 else rng.sample(range(i), rng.randint(0, min(3, i)))
            for i, now in enumerate(before)
        ]
        gone = rng.randint(0, 2 * size)
        template = {
            f"r{i}": " ".join(f"r{n}" for n in ids if n != gone)
            for i, ids in enumerate(after)
            if i != gone
        }
        existing = [one(i + 1, f"r{i}", *(n + 1 for n in ids)) for i, ids in enumerate(before)]
        planned = plan(wanted(**template), existing)
        check_consistent(planned)
        for i in range(size):
            cleanup = f"cleanup r{i} #{i + 1}"
            # those that required it: they may be pointed at something else
            users = [n for n, ids in enumerate(before) if i in ids]
            first = [f"update r{n}" for n in (i, *users) if f"r{n}" in template]
            first += [f"cleanup r{n} #{n + 1}" for n in users]
            assert all(cleanup in planned.graph[name] for name in first)


def test_what_is_not_wanted_is_cleaned_up_before_what_it_requires() -> None:
    planned = plan(wanted(A=""), [one(1, "A"), one(2, "gone", 1)])
    assert ("cleanup A #1", "cleanup gone #2") in edges(planned)
    gone = next(node for node in planned.nodes() if node.name == "gone")
    assert (gone.kind, gone.keep, gone.pending) == (Kind.CLEANUP, False, 0)


def test_delete_is_cleanups_only() -> None:
    planned = plan(wanted(), [one(1, "A"), one(2, "B", 1), one(3, "C", 1, 2)])
    assert [node.name for node in planned.nodes()] == ["C", "B", "A", None]
    assert {node.kind for node in planned.nodes()} == {Kind.CLEANUP, Kind.STACK}
    check_consistent(planned)


def test_both_versions_of_a_name_are_cleaned_up_after_its_update() -> None:
    old = one(1, "C", template_id=1)
    new = one(2, "C", template_id=2)
    dependant = one(3, "D", 1)
    planned = plan(wanted(C="", D="C"), [old, new, dependant], wanted=2, previous=1)
    assert planned.kept == {2, 3}
    assert ("cleanup D #3", "update D") in edges(planned)
    assert ("cleanup C #1", "cleanup D #3") in edges(planned)
    assert ("cleanup C #2", "update C") in edges(planned)
    check_consistent(planned)


def test_rollback_keeps_the_original() -> None:
    original = one(1, "C", template_id=1)
    replacement = one(2, "C", template_id=2)
    planned = plan(wanted(C=""), [original, replacement], wanted=1, previous=2)
    assert planned.kept == {1}
    update = next(node for node in planned.nodes() if node.kind is Kind.UPDATE)
    assert update.resource_id == 1


def test_a_half_gone_version_goes_before_its_successor_is_made() -> None:
    planned = plan(wanted(A=""), [one(1, "A", action=Action.DELETE)])
    assert edges(planned) == {("update A", "cleanup A #1")}
    check_consistent(planned)


def test_a_half_gone_version_that_others_still_need_goes_after_it() -> None:
    existing = [one(1, "A", action=Action.DELETE), one(2, "B", 1)]
    planned = plan(wanted(A="", B="A"), existing)
    assert ("cleanup B #2", "update B") in edges(planned)
    assert ("cleanup A #1", "cleanup B #2") in edges(planned)
    check_consistent(planned)


def test_a_half_gone_version_beside_a_kept_one() -> None:
    existing = [one(1, "A", action=Action.DELETE), one(2, "A")]
    planned = plan(wanted(A=""), existing)
    assert planned.kept == {2}
    assert ("cleanup A #1", "update A") in edges(planned)
    check_consistent(planned)


def test_requirements_that_are_gone_are_passed_over() -> None:
    planned = plan(wanted(A=""), [one(2, "A", 1, 99)])
    assert edges(planned) == {("cleanup A #2", "update A")}


def test_inverted_dependencies_make_no_cycle() -> None:
    planned = plan(wanted(A="", B="A"), [one(1, "B"), one(2, "A", 1)])
    assert edges(planned) == {
        ("update B", "update A"),
        ("cleanup A #2", "update A"),
        ("cleanup B #1", "update B"),
        ("cleanup B #1", "cleanup A #2"),
    }
    check_consistent(planned)


def test_every_inversion_of_four_names_has_a_plan() -> None:
    names = "ABCD"
    pairs = list(itertools.combinations(names, 2))
    for order in itertools.permutations(names):
        ids = {name: number for number, name in enumerate(names, 1)}
        existing = [one(ids[n], n, *(ids[low] for low, high in pairs if high == n)) for n in names]
        chain = {name: order[place - 1] if place else "" for place, name in enumerate(order)}
        check_consistent(plan(wanted(**chain), existing))


def test_nothing_to_do_is_the_stacks_node_alone() -> None:
    planned = plan(wanted(), [])
    assert [(node.kind, node.pending) for node in planned.nodes()] == [(Kind.STACK, 0)]
    assert len(planned.graph) == 1


def test_a_cycle_is_refused() -> None:
    with pytest.raises(CircularDependency):
        plan(wanted(A="B", B="A"), [])
    with pytest.raises(CircularDependency):
        plan(wanted(), [one(1, "A", 2), one(2, "B", 1)])


# -- check


def test_check_looks_at_the_kept_versions_in_no_order() -> None:
    existing = [
        one(1, "A"),
        one(2, "B", 1),
        one(3, "C", status=Status.INIT),
        one(4, "gone"),
        one(5, "A", status=Status.FAILED),
    ]
    planned = plan_check(wanted(A="", B="A", C="B"), existing)
    looks = {(node.kind, node.name, node.resource_id) for node in list(planned.nodes())[:-1]}
    assert looks == {(Kind.UPDATE, "A", 1), (Kind.UPDATE, "B", 2)}
    assert edges(planned) == set()
    check_consistent(planned)


# -- determinism and size


def layered(count: int, seed: int) -> tuple[Definitions, list[Existing]]:
    """A random graph, wanted and existing, with other dependencies each."""
    chance = random.Random(seed)
    names = [f"n{number}" for number in range(count)]

    def before(place: int) -> Sequence[int]:
        return [] if not place else sorted({chance.randrange(place) for _ in range(3)})

    definitions = {
        name: ResourceDefinition("fake", {}, tuple(sorted(names[other] for other in before(place))))
        for place, name in enumerate(names)
    }
    existing = [
        one(count - place, name, *(count - other for other in before(place)))
        for place, name in enumerate(names)
    ]
    return Definitions.of(definitions), existing


def some_of(definitions: Definitions, names: Iterable[str]) -> Definitions:
    return Definitions.of({name: definitions[name] for name in names})


def test_the_same_input_gives_the_same_plan() -> None:
    definitions, existing = layered(50, seed=1)
    first, second = (plan(definitions, list(existing)) for _ in range(2))
    assert list(first.nodes()) == list(second.nodes())
    assert (first.new, first.kept) == (second.new, second.kept)


def test_the_order_of_the_input_changes_only_ties() -> None:
    definitions, existing = layered(50, seed=2)
    other = plan(some_of(definitions, sorted(definitions)), existing[::-1])
    this = plan(definitions, existing)
    check_consistent(other)
    assert this.graph == other.graph
    assert (set(this.new), this.kept) == (set(other.new), other.kept)


def test_random_graphs() -> None:
    for seed in range(20):
        definitions, existing = layered(30, seed)
        half = some_of(definitions, list(definitions)[:15])
        check_consistent(plan(definitions, existing))
        check_consistent(plan(half, existing))
        check_consistent(plan(definitions, [e for e in existing if int(e.name[1:]) % 3 == 0]))


def test_ten_thousand_nodes_are_planned_quickly() -> None:
    definitions, existing = layered(5_000, seed=3)
    start = time.process_time()
    planned = plan(definitions, existing)
    assert len(planned) == 10_001
    assert time.process_time() - start < 5


def test_a_long_chain_needs_no_deep_stack() -> None:
    names = [f"n{number}" for number in range(10_000)]
    chain = {
        name: ResourceDefinition("fake", {}, (names[place - 1],) if place else ())
        for place, name in enumerate(names)
    }
    assert [node.pending for node in plan(Definitions.of(chain), []).nodes()] == [0] + [1] * 10_000
