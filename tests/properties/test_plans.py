"""What a plan says is what the traversal does, on random templates.

A plan is made, the same is asked for, and what was called is compared: all that the plan was sure
of, nothing that it did not name, and no more than it allowed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import converge
from converge.inspection.planning import Preview
from converge.model import Replacing
from converge.protocol.preview import Change, Verb
from converge.testing import FakeType, FakeWorld, FixedType, StepEngine
from tests.stores import Stores

EXAMPLES = int(os.environ.get("CONVERGE_TEST_EXAMPLES", "20"))
NAMES = "ABCDE"
#: One that nobody refers to, and the other name that it can have.
LAST, OTHER = "E", "F"
#: What is there before, and is never touched.
THERE = ["there.0", "there.1"]
TYPES = ["fake", "fixed", "only", "wise", "rigid"]

pytestmark = [pytest.mark.database, pytest.mark.sqlite]


class Wise(FakeType):
    """Its plan knows everything, and that a change of ``note`` is none."""

    def plan(
        self,
        context: converge.Context,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any] | None,
    ) -> converge.Planned:
        how = "update"
        if previous is not None:
            if properties.get("replace") != previous.get("replace"):
                how = "replace"
            elif {**properties, "note": 0} == {**previous, "note": 0}:
                how = "nothing"
        return converge.Planned(how, {"size": properties["size"]})


class Rigid(FakeType):
    """Declares what cannot be changed in place."""

    schema = {  # type: ignore[assignment]  # noqa: RUF012 - never changed
        "size": converge.Property(int),
        "replace": converge.Property(int, immutable=True),
        "note": converge.Property(object),
        "to A": converge.Property(object, immutable=True),
        **{f"to {name}": converge.Property(object) for name in NAMES[1:]},
    }
    delete_properties = ("note",)


class Lone(FixedType):
    """Is deleted before it is replaced. What was left in place is not in its way."""

    replace = Replacing.DELETE_FIRST


def types_of(world: FakeWorld) -> dict[str, converge.ResourceType]:
    policy = converge.RetryPolicy(attempts=1)
    own = {"only": Lone(world, policy), "rigid": Rigid(world, policy)}
    return {**world.types(), **own, "wise": Wise(world, policy)}


Wanted = dict[str, dict[str, Any]]


@st.composite
def resources(draw: st.DrawFn, before: str, may_be_external: bool) -> dict[str, Any]:
    """A resource that may refer to those before it."""
    if may_be_external and draw(st.integers(0, 5)) == 0:
        return {"type": draw(st.sampled_from(TYPES)), "external_id": draw(st.sampled_from(THERE))}
    bit = st.integers(0, 1)
    properties: dict[str, Any] = {"size": draw(bit), "replace": draw(bit), "note": draw(bit)}
    body: dict[str, Any] = {"type": draw(st.sampled_from(TYPES)), "properties": properties}
    for name in draw(st.sets(st.sampled_from(before), max_size=2)) if before else ():
        reference = draw(
            st.sampled_from(
                [
                    {"get_resource": name},
                    {"get_attr": [name, "size"]},
                    {"list_join": ["-", ["x", {"get_attr": [name, "made"]}]]},
                    [{"deep": {"get_attr": [name, "size"]}}, draw(bit)],
                ]
            )
        )
        where = draw(st.sampled_from([f"to {name}", f"to {name}", "note", "triggers", "order"]))
        if where == "triggers":
            body["triggers"] = reference
        elif where == "order":
            body["depends_on"] = [name]
        else:
            properties[where] = reference
    if "get_" not in str(body) and draw(st.integers(0, 3)) == 0:
        body["runs"] = "always"
    if draw(st.booleans()) and "triggers" not in body:
        body["triggers"] = draw(bit)
    if draw(st.integers(0, 3)) == 0 and body["type"] != "only":
        body["deletion_policy"] = draw(st.sampled_from(["retain", "delete"]))
    elif draw(st.integers(0, 4)) == 0 and body["type"] != "only":
        body["replace"] = draw(st.sampled_from(["create_first", "delete_first"]))
    return body


@st.composite
def templates(draw: st.DrawFn) -> list[Wanted]:
    """Templates that follow each other, mostly alike."""
    made: list[Wanted] = [{}]
    for _ in range(draw(st.integers(2, 4))):
        wanted: Wanted = {}
        for place, name in enumerate(NAMES):
            old = made[-1].get(name)
            if name == LAST and old is None:
                # by its other name
                old = made[-1].get(OTHER)
            what = draw(st.sampled_from(["keep", "keep", "keep", "new", "drop"]))
            if what == "keep" and old is not None and _has(old, wanted):
                wanted[name] = old
            elif what != "drop":
                there = "".join(one for one in NAMES[:place] if one in wanted)
                # what was made is not given up for what is there
                wanted[name] = draw(resources(there, old is None or "external_id" in old))
        if LAST in wanted and draw(st.integers(0, 2)) == 0:
            wanted[OTHER] = wanted.pop(LAST)
        made.append(wanted)
    return made[1:]


def _has(body: dict[str, Any], wanted: Wanted) -> bool:
    """Whether all is there that a resource refers to."""
    text = str(body)
    return all(f"'{name}'" not in text or name in wanted for name in NAMES)


def calls(preview: Preview, log: list[str]) -> Iterator[tuple[str, str]]:
    """What was called: the verb, and the resource's name."""
    # a thing is called as its resource was when it was made
    names = {one.physical_id: one.name for one in preview.changes}
    for line in log:
        verb, _, thing = line.partition(" ")
        yield verb, names.get(thing, thing.partition(".")[0])


def allowed(change: Change) -> list[set[str]]:
    """The sets of calls that a change allows."""
    replaced = {"create"} if change.leaves_old else {"create", "delete"}
    most: dict[Verb, list[set[str]]] = {
        Verb.CREATE: [{"create"}],
        Verb.UPDATE: [{"update"}],
        Verb.REPLACE: [replaced],
        Verb.DELETE: [{"delete"}],
        Verb.LEAVE: [set()],
        Verb.USE: [set()],
        Verb.MOVE: [set()],
        Verb.NOTE: [set()],
    }
    found = list(most[change.verb])
    if change.may_replace:
        found.append(replaced)
    if not change.sure:
        # less than that: nothing, or an update that was no replacement after all
        found += [set(), {"update"}]
    return found


def check(preview: Preview, log: list[str]) -> None:
    done: dict[str, set[str]] = {}
    for verb, name in calls(preview, log):
        done.setdefault(name, set()).add(verb)
    planned = {one.name: one for one in preview.changes}
    assert len(planned) == len(preview.changes), preview
    for name in done:
        assert name in planned, f"{name}: {done[name]}, and the plan did not name it: {preview}"
    for name, change in planned.items():
        assert change.verb is not Verb.FAIL, preview
        assert done.get(name, set()) in allowed(change), f"{done.get(name)} is not {change}"
        for verb, other in calls(preview, log):
            # and in that order
            if other == name and done[name] == {"create", "delete"} and change.sure:
                assert verb == ("delete" if change.deletes_first else "create") or (
                    change.verb is not Verb.REPLACE
                )
                break


@settings(
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    templates(),
    st.sampled_from(["none", "rollback", "delete"]),
    st.sets(st.sampled_from(NAMES), max_size=2),
    st.sets(st.sampled_from(NAMES), max_size=2),
)
@pytest.mark.usefixtures("_stores", "_databases")
def test_a_traversal_does_what_its_plan_says(
    request: pytest.FixtureRequest,
    wanted: list[Wanted],
    then: str,
    named: set[str],
    targets: set[str],
) -> None:
    stores: Stores = request.getfixturevalue("_stores")
    store = stores.fresh(request.getfixturevalue("_databases")["sqlite"])
    world = FakeWorld()
    for thing in THERE:
        world.put(thing, size=1)
    types = types_of(world)
    engine = StepEngine(store, types)
    for one in wanted:
        moved = {"moved": {LAST: OTHER}} if OTHER in one else {}
        template = converge.Template.from_dict({"resources": one, **moved})
        target = sorted(targets.intersection(one))
        if target:
            preview = store.plan("s", template, types=types, target=target)
            world.log.clear()
            stack = store.converge_stack("s", template, target=target)
            engine.run()
            assert stack.refresh().status == "COMPLETE", stack.reason
            check(preview, world.log)
            # while others are left, each such request is a traversal, in which that runs
            if not any(body.get("runs") == "always" for body in one.values()):
                again = store.plan("s", template, types=types, target=target)
                # typed twice, it does nothing more, but that old versions go which others used
                assert {one.verb for one in again.changes} <= {Verb.DELETE}
                assert {one.name for one in again.changes} <= one.keys()
                world.log.clear()
                store.converge_stack("s", template, target=target)
                engine.run()
                check(again, world.log)
        asked = [name for name in named if name in one and "external_id" not in one[name]]
        preview = store.plan("s", template, types=types, replace=asked)
        world.log.clear()
        stack = store.converge_stack("s", template, replace=asked)
        engine.run()
        assert stack.refresh().status == "COMPLETE", stack.reason
        if target:
            # an old version that was left goes beside what happens to the new one
            assert not store.plan("s", template, types=types)
            continue
        check(preview, world.log)
        assert preview.unchanged + len({one.name for one in preview.changes} & set(one)) == len(one)
        # what is there is there now: it plans nothing
        assert not store.plan("s", template, types=types)
    if then == "rollback":
        preview = store.plan_rollback("s", version=1, types=types)
        world.log.clear()
        if preview.failures:
            with pytest.raises(converge.Conflict, match="nothing was started"):
                store.rollback_stack("s", version=1)
            return
        store.rollback_stack("s", version=1)
    elif then == "delete":
        preview = store.plan_delete("s", types=types)
        world.log.clear()
        store.delete_stack("s")
    else:
        return
    engine.run()
    check(preview, world.log)
    assert set(THERE) <= set(world.names())
