"""The decision what to do for a node, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from converge.model import (
    Action,
    Kind,
    NodeState,
    OnFailure,
    ResourceDefinition,
    Status,
    TraversalStatus,
    same,
)
from converge.protocol.decide import decide
from converge.protocol.work import Decision, Operation, Work
from converge.resources.resource_type import Property, ResourceType
from converge.retry import RetryPolicy
from converge.sql.resources import Input, ResourceRow
from converge.sql.sync_points import SyncPointRow
from converge.sql.traversals import TraversalRow
from converge.template.definitions import dump_definition, load_definition


class Plain(ResourceType):
    """Cannot be updated, checked or found."""


class Supple(ResourceType):
    def update(self, *_: object) -> None: ...

    def check(self, *_: object) -> None: ...

    def find(self, *_: object) -> None: ...


class Strict(Supple):
    schema = {"size": Property(int, required=True)}  # noqa: RUF012 - never changed


TYPES: dict[str, ResourceType] = {"plain": Plain(), "supple": Supple(), "strict": Strict()}
TRAVERSAL = TraversalRow(
    id=1,
    stack_id=1,
    stack="s",
    action=Action.UPDATE,
    status=TraversalStatus.RUNNING,
    halted=None,
    reason=None,
    from_template_id=None,
    template_id=1,
    version=1,
    on_failure=OnFailure.STOP,
    node_timeout=None,
    deadline_at=None,
    total=1,
    done=0,
    failed=0,
    skipped=0,
    started_at=0.0,
    ended_at=None,
    mark=7,
    stack_mark=8,
)


def node(kind: Kind = Kind.UPDATE, **more: Any) -> SyncPointRow:
    whole = SyncPointRow(
        traversal_id=1,
        node=0,
        kind=kind,
        resource_id=1,
        keep=True,
        state=NodeState.READY,
        pending=0,
        tainted=False,
        attempts=0,
        max_attempts=None,
        deaths=0,
        engine_id=None,
        epoch=0,
        definition={"type": "supple", "properties": {"size": 1}},
        requires=[],
        successors=[],
        mark=7,
        lane=0,
    )
    return replace(whole, **more)


def row(**more: Any) -> ResourceRow:
    whole = ResourceRow(
        id=1,
        stack_id=1,
        name="A",
        type="supple",
        token="t",
        action=Action.CREATE,
        status=Status.COMPLETE,
        reason=None,
        template_id=1,
        physical_id="a-1",
        properties={"size": 1},
        attributes={},
        requires=[],
        replaces=None,
        replaced_by=None,
        engine_id=None,
        epoch=0,
        blocking=False,
        mark=7,
    )
    return replace(whole, **more)


def wants(type_: str = "supple", **properties: Any) -> dict[str, Any]:
    return {"definition": {"type": type_, "properties": properties or {"size": 1}}}


NEW: dict[str, Any] = {"status": Status.INIT, "physical_id": None, "properties": {}}
CREATING: dict[str, Any] = {
    "action": Action.CREATE,
    "status": Status.IN_PROGRESS,
    "physical_id": None,
}
UPDATES = [
    ("unchanged and well", {}, {}, Operation.NOTHING),
    ("not created yet", {}, NEW, Operation.CREATE),
    ("not created yet, of another type", wants("plain"), NEW, Operation.CREATE),
    ("its create failed", {}, CREATING | {"status": Status.FAILED}, Operation.CREATE),
    ("its create was interrupted", {}, CREATING, Operation.CREATE),
    ("its create was interrupted, id known", {}, CREATING | {"physical_id": "a"}, Operation.CREATE),
    ("its create failed, of another type", wants("plain"), CREATING, Operation.REPLACE),
    ("changed", wants(size=2), {}, Operation.UPDATE),
    ("changed type of a value", wants(size=True), {}, Operation.UPDATE),
    ("another type", wants("plain"), {}, Operation.REPLACE),
    ("changed, cannot be updated", wants("plain", size=2), {"type": "plain"}, Operation.REPLACE),
    ("unchanged, cannot be updated", wants("plain"), {"type": "plain"}, Operation.NOTHING),
    ("its update failed", {}, {"action": Action.UPDATE, "status": Status.FAILED}, Operation.UPDATE),
    (
        "its update was interrupted",
        {},
        {"action": Action.UPDATE, "status": Status.IN_PROGRESS},
        Operation.UPDATE,
    ),
    ("its check failed", {}, {"action": Action.CHECK, "status": Status.FAILED}, Operation.UPDATE),
    (
        "its check failed, cannot be updated",
        wants("plain"),
        {"type": "plain", "action": Action.CHECK, "status": Status.FAILED},
        Operation.REPLACE,
    ),
]


@pytest.mark.parametrize(
    ("of_node", "of_row", "operation"),
    [case[1:] for case in UPDATES],
    ids=[case[0] for case in UPDATES],
)
def test_update_nodes(
    of_node: dict[str, Any], of_row: dict[str, Any], operation: Operation
) -> None:
    decision = decide(TRAVERSAL, node(**of_node), row(**of_row), {}, TYPES)
    assert decision.operation is operation
    assert decision.properties == (of_node or wants())["definition"]["properties"]


GONE = {"keep": False}
CLEANUPS = [
    ("kept", {}, {}, Operation.NOTHING),
    ("kept, but replaced on the way", {}, {"replaced_by": 2}, Operation.DELETE),
    ("not wanted", GONE, {}, Operation.DELETE),
    ("not wanted, its create failed, id known", GONE, {"status": Status.FAILED}, Operation.DELETE),
    ("not wanted, never created", GONE, NEW, Operation.DROP),
    ("not wanted, perhaps created, can be found", GONE, CREATING, Operation.DELETE),
    ("not wanted, perhaps created", GONE, CREATING | {"type": "plain"}, Operation.DROP),
    ("not wanted, half gone", GONE, {"action": Action.DELETE}, Operation.DELETE),
]


@pytest.mark.parametrize(
    ("of_node", "of_row", "operation"),
    [case[1:] for case in CLEANUPS],
    ids=[case[0] for case in CLEANUPS],
)
def test_cleanup_nodes(
    of_node: dict[str, Any], of_row: dict[str, Any], operation: Operation
) -> None:
    found = node(Kind.CLEANUP, definition=None, **of_node)
    assert decide(TRAVERSAL, found, row(**of_row), {}, TYPES).operation is operation


def test_cleanup_of_what_is_gone_already() -> None:
    assert decide(TRAVERSAL, node(Kind.CLEANUP), None, {}, TYPES).operation is Operation.NOTHING


def test_the_stacks_node_ends_the_traversal_however_tainted() -> None:
    for tainted in (False, True):
        found = node(Kind.STACK, resource_id=None, tainted=tainted)
        assert decide(TRAVERSAL, found, None, {}, TYPES).operation is Operation.FINISH


@pytest.mark.parametrize("kind", [Kind.UPDATE, Kind.CLEANUP])
def test_a_tainted_node_is_skipped(kind: Kind) -> None:
    found = node(kind, tainted=True, keep=False, deaths=99)
    assert decide(TRAVERSAL, found, row(), {}, TYPES).operation is Operation.SKIP


@pytest.mark.parametrize("kind", [Kind.UPDATE, Kind.CLEANUP])
def test_a_node_that_kills_engines_fails(kind: Kind) -> None:
    deadly = node(kind, keep=False, deaths=RetryPolicy().deaths)
    decision = decide(TRAVERSAL, deadly, row(), {}, TYPES)
    assert decision.operation is Operation.FAIL
    assert f"{RetryPolicy().deaths} engines died" in str(decision.reason)
    spared = decide(TRAVERSAL, replace(deadly, deaths=RetryPolicy().deaths - 1), row(), {}, TYPES)
    assert spared.operation is not Operation.FAIL


@pytest.mark.parametrize(
    ("found", "existing", "words"),
    [
        (node(**wants("supplee")), row(), "no resource type 'supplee'; did you mean 'supple'"),
        (node(Kind.CLEANUP, keep=False), row(type="gone"), "no resource type 'gone'"),
        (node(), None, "row no longer exists"),
        (node(definition=None), row(), "no definition"),
        (node(**wants("strict", size="big")), row(type="strict"), "size"),
        (node(**wants("strict", other=1)), row(type="strict"), "size|other"),
        (node(**wants(size={"get_resource": "B"})), row(), "'B' has no physical id"),
    ],
)
def test_what_cannot_be_done_says_why(
    found: SyncPointRow, existing: ResourceRow | None, words: str
) -> None:
    decision = decide(TRAVERSAL, found, existing, {}, TYPES)
    assert decision.operation is Operation.FAIL
    with pytest.raises(RuntimeError, match=words):
        raise RuntimeError(decision.reason)


def test_references_are_resolved_with_the_inputs() -> None:
    found = node(**wants(b={"get_resource": "B"}, c={"get_attr": ["B", "x", "y"]}))
    other = Input(2, "B", "b-1", {"x": {"y": [1, 2]}}, epoch=1)
    decision = decide(TRAVERSAL, found, row(), {"B": other}, TYPES)
    assert decision == Decision(Operation.UPDATE, {"b": "b-1", "c": [1, 2]})
    missing = decide(TRAVERSAL, found, row(), {"B": replace(other, attributes={"z": 1})}, TYPES)
    assert missing.operation is Operation.FAIL
    assert "'B'" in str(missing.reason)
    assert "'x'" in str(missing.reason)
    assert "z" in str(missing.reason)


def test_an_input_without_a_physical_id_is_none() -> None:
    found = node(**wants(b={"get_resource": "B"}))
    decision = decide(TRAVERSAL, found, row(), {"B": Input(2, "B", None, {}, epoch=1)}, TYPES)
    assert decision.operation is Operation.FAIL


CHECK = replace(TRAVERSAL, action=Action.CHECK)
FAILED = {"status": Status.FAILED, "reason": "it broke"}
CHECKS = [
    ("well", {}, Operation.CHECK),
    ("cannot be checked", {"type": "plain"}, Operation.NOTHING),
    ("of a type that is gone", {"type": "gone"}, Operation.FAIL),
    ("its last check failed", {"action": Action.CHECK} | FAILED, Operation.CHECK),
    ("its create failed", FAILED | {"physical_id": None}, Operation.FAIL),
    ("its update failed", {"action": Action.UPDATE} | FAILED, Operation.FAIL),
]


@pytest.mark.parametrize(
    ("of_row", "operation"), [case[1:] for case in CHECKS], ids=[case[0] for case in CHECKS]
)
def test_check_nodes(of_row: dict[str, Any], operation: Operation) -> None:
    # the definition does not matter: what is there is looked at
    decision = decide(CHECK, node(**wants("strict", bad=1)), row(**of_row), {}, TYPES)
    assert decision.operation is operation
    if (
        operation is Operation.FAIL
        and of_row["type" if "type" in of_row else "reason"] == "it broke"
    ):
        assert decision.reason == "it broke"


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1, True),
        (1, 1.0, False),
        (1, True, False),
        (0, False, False),
        ("1", 1, False),
        (None, None, True),
        (None, False, False),
        ({"a": 1, "b": [1]}, {"b": [1], "a": 1}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ({"a": 1}, {"a": True}, False),
        ([1, 2], [2, 1], False),
        ([1, 2], [1, 2, 3], False),
        ([[1.5]], [[1.5]], True),
        ({}, [], False),
    ],
)
def test_same(one: Any, other: Any, equal: bool) -> None:
    assert same(one, other) is equal
    assert same(other, one) is equal


def test_the_keys_of_an_update_are_those_of_its_traversals_mark() -> None:
    token = "6b0fb1a5-7d0c-5c1c-9c5e-2f8f4b7a4a01"

    def key_namespace(operation: Operation, token: str = token, **traversal: Any) -> Any:
        decision = Decision(operation)
        return Work(
            replace(TRAVERSAL, **traversal), node(), row(token=token), decision, []
        ).key_namespace

    other = token.replace("6", "7")
    assert key_namespace(Operation.CREATE) == key_namespace(Operation.CREATE, id=2, mark=9)
    found = [
        key_namespace(Operation.CREATE),
        key_namespace(Operation.CREATE, other),
        key_namespace(Operation.UPDATE, other),
    ]
    found += [
        key_namespace(operation)
        for operation in (Operation.UPDATE, Operation.DELETE, Operation.CHECK)
    ]
    # the same id in a database that has forgotten the first one; and before there were marks
    found += [
        key_namespace(Operation.UPDATE, mark=9),
        *(key_namespace(Operation.UPDATE, mark=0, id=id) for id in (1, 2)),
    ]
    assert len(set(found)) == len(found)
    assert key_namespace(Operation.UPDATE, id=2) == key_namespace(Operation.UPDATE)


def test_definitions_round_trip_without_what_the_node_has_itself() -> None:
    definition = ResourceDefinition("t", {"a": [1, {"get_resource": "B"}]}, ("B",))
    assert load_definition(dump_definition(definition)) == replace(definition, requires=())
