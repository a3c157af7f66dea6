"""Engines with different resource types, and queues, on one database: who takes what."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from sqlalchemy import select

import converge
from converge.bus.hint import ANY, Hint
from converge.model import NodeState
from converge.protocol import claim
from converge.sql.lanes import Course, list_lanes, take_lanes
from converge.sql.schema import sync_point
from converge.testing import FakeWorld, StepEngine
from tests.templates import template

GPU = {"type": "gpu"}
#: ``fake`` is what every engine has, ``gpu`` is not
MIXED = {"a": [], "g": GPU, "b": ["g"]}


class Fleet:
    """Engines of one world, each with some of its types."""

    def __init__(self, store: converge.Store) -> None:
        self.store = store
        self.world = FakeWorld()
        types = self.world.types()
        self.types = {**types, "gpu": types["fake"], "fpga": types["only"]}

    def engine(self, *types: str, queues: Collection[str] = ("default",)) -> StepEngine:
        mine = {name: self.types[name] for name in types or ("fake",)}
        return StepEngine(self.store, mine, queues=queues)

    def why(self, *names: str) -> list[str]:
        return [one["message"] for one in self.store.why(*names)]

    def lanes(self) -> set[Course]:
        with self.store.transaction() as tx:
            return set(list_lanes(tx).values())


@pytest.fixture
def fleet(store: converge.Store) -> Fleet:
    return Fleet(store)


# Types


def test_a_node_is_left_to_an_engine_that_has_its_type(fleet: Fleet) -> None:
    plain, special = fleet.engine(), fleet.engine("gpu")
    stack = fleet.store.create_stack("s", template(MIXED))
    assert plain.run() == ["update a"]
    assert special.run() == ["update g"]
    # the end is for whoever is there
    assert plain.run() == ["update b", "stack"]
    assert stack.refresh().status == "COMPLETE"


def test_what_nobody_alive_can_take_waits_and_says_for_whom(fleet: Fleet) -> None:
    plain = fleet.engine()
    fleet.store.create_stack("s", template(g=GPU))
    assert plain.run() == []
    (answer,) = fleet.store.why("s")
    assert answer["message"].endswith("and waits for an engine with type 'gpu'; none is alive")
    assert (answer["queue"], answer["types"], answer["engines"]) == ("default", ["gpu"], 0)
    fleet.engine("fake", "gpu")
    assert fleet.why("s", "g")[0].endswith("with type 'gpu'; 1 is alive")
    assert fleet.store.show("s")["progress"]["failed"] == 0


def test_what_was_left_to_others_once_is_given_to_them_at_once(fleet: Fleet) -> None:
    plain = fleet.engine()
    fleet.store.create_stack("s", template(g=GPU))
    plain.run()
    fleet.store.create_stack("t", template(MIXED))
    # nothing of it is looked at in vain
    assert [one.row.name for one in plain.claim(9) if one.row] == ["a"]
    assert _count_ready(fleet.store, lane=0) == 0
    assert sorted(fleet.engine("gpu").run()) == ["stack", "update g", "update g"]


def test_a_delete_waits_for_an_engine_that_has_the_type(fleet: Fleet) -> None:
    every = fleet.engine("fake", "gpu")
    stack = fleet.store.create_stack("s", template(MIXED))
    every.run()
    plain, special = fleet.engine(), fleet.engine("gpu")
    fleet.store.delete_stack("s")
    assert sorted(plain.run()) == ["cleanup a", "cleanup b"]
    assert fleet.why("s")[0].startswith("the cleanup of resource 'g' has been ready for ")
    # it takes the end, as it is the one that is there
    assert special.run() == ["cleanup g", "stack"]
    assert stack.refresh().live is False
    assert fleet.world.names() == []


def test_a_check_waits_for_an_engine_that_has_the_type(fleet: Fleet) -> None:
    fleet.store.create_stack("s", template(g=GPU))
    fleet.engine("gpu").run()
    fleet.store.check_stack("s")
    assert fleet.engine().run() == []
    assert fleet.engine("gpu").run() == ["update g", "stack"]


def test_a_replacement_that_takes_two_types_waits_for_an_engine_with_both(fleet: Fleet) -> None:
    stack = fleet.store.create_stack("s", template(g={"type": "fpga"}))
    fleet.engine("fpga").run()
    fleet.store.update_stack("s", template(g={"type": "gpu", "replace": "delete_first"}))
    for _ in range(2):
        assert fleet.engine("gpu").run() == []
        assert fleet.engine("fpga").run() == []
    assert "with types 'fpga' and 'gpu'; none is alive" in fleet.why("s")[0]
    fleet.engine("fpga", "gpu").run()
    assert stack.refresh().status == "COMPLETE"
    assert fleet.world.names() == ["g.1"]


def test_names_that_are_too_long_for_a_lane_fail_as_they_did(fleet: Fleet) -> None:
    types = [letter * 255 for letter in "ab"]
    fleet.types |= dict.fromkeys(types, fleet.types["fake"])
    stack = fleet.store.create_stack("s", template(g={"type": types[0]}))
    fleet.engine(types[0]).run()
    fleet.store.update_stack("s", template(g={"type": types[1], "replace": "delete_first"}))
    fleet.engine(types[1]).run()
    assert stack.refresh().status == "FAILED"
    assert f"no resource type '{types[0]}'" in str(stack.reason)


def test_an_engine_passes_by_many_nodes_that_are_not_for_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "_MANY", 4)
    heard: list[Hint] = []
    monkeypatch.setattr(
        fleet.store.bus, "committed", lambda hint, **sent: heard.append(hint), raising=True
    )
    fleet.store.create_stack("s", template({f"g{n:02}": GPU for n in range(30)}))
    plain = fleet.engine()
    heard.clear()
    # a bounded number at a time; whoever can take them is told, and so is this engine
    assert plain.claim(1) == []
    assert _count_ready(fleet.store, lane=0) == 30 - (1 + 4 * 4)
    assert heard == [Hint(ready=ANY)]
    assert plain.claim(1) == []
    assert _count_ready(fleet.store, lane=0) == 0


def test_what_is_taken_for_oneself_does_not_hide_what_is_left_to_others(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, far = fleet.engine(), fleet.engine(queues=["far"])
    wanted = template({"a": [], "b": {"queue": "far", "depends_on": "a"}, "c": []})
    fleet.store.create_stack("s", wanted)
    (work,) = plain.claim(1)
    heard: list[Hint] = []
    monkeypatch.setattr(fleet.store.bus, "committed", lambda hint, **sent: heard.append(hint))
    # in one transaction it makes one ready for others, and takes another one
    plain.core.turn([plain.call(work)], 1)
    with fleet.store.transaction() as tx:
        lanes = list_lanes(tx)
    (hint,) = heard
    assert isinstance(hint.ready, frozenset)
    assert [lanes[number].queue for number in hint.ready] == ["far"]
    assert not plain.core.may_take(hint.ready)
    assert far.core.may_take(hint.ready)


def test_an_engine_that_left_some_to_others_takes_the_rest(fleet: Fleet) -> None:
    fleet.store.create_stack("s", template(a=[], f=GPU, g=GPU, h=[]))
    # as many as it has room for are looked at; those are told of that it leaves
    assert [one.row.name for one in fleet.engine().claim(2) if one.row] == ["a"]
    found = fleet.engine("gpu").claim(2)
    assert sorted(one.row.name for one in found if one.row) == ["f", "g"]
    assert [one.row.name for one in fleet.engine().claim(2) if one.row] == ["h"]


def test_a_stack_that_is_stopped_waits_for_nobody(fleet: Fleet) -> None:
    plain = fleet.engine()
    stack = fleet.store.create_stack("s", template(MIXED))
    plain.run()
    fleet.store.cancel_stack("s")
    plain.run()
    assert stack.refresh().status == "CANCELLED"


def test_what_is_skipped_needs_no_type(fleet: Fleet) -> None:
    plain = fleet.engine()
    fleet.store.create_stack("other", template(g=GPU))
    plain.run()
    fleet.world.fail("create a")
    body = template(a=[], g={**GPU, "depends_on": "a"}, h={**GPU, "depends_on": "g"})
    stack = fleet.store.create_stack("s", body, on_failure="continue")
    assert plain.run() == ["update a", "update g", "update h", "stack"]
    assert stack.refresh().status == "FAILED"


# Queues


def test_an_engine_serves_its_queues_only(fleet: Fleet) -> None:
    plain, far = fleet.engine(), fleet.engine(queues=["far"])
    both = fleet.engine(queues=["far", "default"])
    near = fleet.store.create_stack("near", template(a=[]))
    away = fleet.store.create_stack("away", template(a=[], b=["a"]), queue="far")
    assert far.run("update a") == ["update a"]
    assert plain.run() == ["update a", "stack"]
    assert sorted(both.run()) == ["stack", "update b"]
    assert near.refresh().status == away.refresh().status == "COMPLETE"
    assert far.run() == []


def test_a_queue_that_nobody_serves_is_named(fleet: Fleet) -> None:
    fleet.store.create_stack("s", template(a=[]), queue="far")
    assert fleet.why("s")[0].endswith("waits for an engine of queue 'far'; none is alive")
    fleet.store.create_stack("t", template(a=[]))
    assert fleet.why("t")[0].endswith("waits for an engine; none is alive")
    fleet.engine(queues=["far"]).run()
    assert fleet.why("t")[0].endswith("waits for an engine of queue 'default'; none is alive")
    fleet.store.create_stack("u", template(g=GPU), queue="far")
    fleet.engine(queues=["far"]).run()
    assert fleet.why("u")[0].endswith("of queue 'far' with type 'gpu'; none is alive")


def test_a_stack_keeps_its_queue_until_another_one_is_given(fleet: Fleet) -> None:
    plain, far = fleet.engine(), fleet.engine(queues=["far"])
    fleet.store.create_stack("s", template(a=[]), queue="far", priority=3)
    far.run()
    fleet.store.update_stack("s", template(a=[], b=[]))
    assert plain.run() == []
    assert far.run() == ["update b", "stack"]
    fleet.store.rollback_stack("s")
    assert plain.run() == []
    assert far.run() == ["cleanup b", "stack"]
    (row,) = fleet.store.stacks()
    assert (row["queue"], row["priority"]) == ("far", 3)
    fleet.store.converge_stack("s", template(a=[], c=[]), queue="default", priority=0)
    assert far.run() == []
    assert plain.run() == ["update c", "stack"]
    (row,) = fleet.store.stacks()
    assert (row["queue"], row["priority"]) == ("default", 0)


def test_a_stack_that_runs_goes_to_another_queue(fleet: Fleet) -> None:
    wanted = template(a=[])
    stack = fleet.store.converge_stack("s", wanted)
    assert fleet.store.converge_stack("s", wanted, queue="default").outcome == "resumed"
    assert fleet.store.converge_stack("s", wanted, queue="far").outcome == "superseded"
    assert fleet.engine().run() == []
    fleet.engine(queues=["far"]).run()
    assert stack.refresh().status == "COMPLETE"


def test_the_queue_of_a_resource_counts_before_that_of_its_stack(fleet: Fleet) -> None:
    plain, far = fleet.engine(), fleet.engine(queues=["far"])
    stack = fleet.store.create_stack("s", template(a=[], f={"queue": "far", "depends_on": "a"}))
    assert far.run() == []
    assert plain.run() == ["update a"]
    # it takes the end, as it is the one that is there
    assert far.run() == ["update f", "stack"]
    # its own things are there: so is its delete
    fleet.store.delete_stack("s")
    assert plain.run() == []
    assert far.run() == ["cleanup f"]
    assert plain.run() == ["cleanup a", "stack"]
    assert stack.refresh().live is False


def test_the_queue_of_a_resource_can_be_a_parameter(fleet: Fleet) -> None:
    body = {
        "parameters": {"where": {"type": "string"}},
        "resources": {"a": {"type": "fake", "queue": {"get_param": "where"}}},
    }
    wanted = converge.Template.from_dict(body)
    fleet.store.create_stack("s", wanted, parameters={"where": "far"})
    assert fleet.engine().run() == []
    assert fleet.engine(queues=["far"]).run() == ["update a", "stack"]


def test_a_property_that_is_called_queue_is_no_queue(fleet: Fleet) -> None:
    fleet.store.create_stack("s", template(a={"properties": {"queue": "far"}}))
    assert fleet.engine().run() == ["update a", "stack"]


def test_two_starts_make_a_lane_once(fleet: Fleet) -> None:
    course = Course("far", (), 2)
    with fleet.store.transaction() as tx:
        first = take_lanes(tx, [course])
    with fleet.store.transaction() as tx:
        assert take_lanes(tx, [course, Course()]) == {**first, Course(): 0}
    assert fleet.lanes() == {course, Course()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"queue": ""}, "queue"),
        ({"queue": " far"}, "must not start or end with white space"),
        ({"priority": 101}, "priority must be a whole number from -100 to 100, not 101"),
        ({"priority": True}, "priority must be a whole number"),
    ],
)
def test_what_is_no_queue_or_priority_is_refused(
    fleet: Fleet, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(converge.BadInput, match=message):
        fleet.store.create_stack("s", template(a=[]), **given)
    assert fleet.store.stacks() == []


def test_engines_say_what_they_have(fleet: Fleet) -> None:
    fleet.engine("gpu", "fake", queues=["near", "far"])
    (one,) = fleet.store.engines()
    assert (one["types"], one["queues"]) == (["fake", "gpu"], ["far", "near"])


def _count_ready(store: converge.Store, lane: int) -> int:
    ready = select(sync_point).where(
        sync_point.c.state == NodeState.READY, sync_point.c.lane == lane
    )
    with store.transaction() as tx:
        return len(tx.execute(ready).all())
