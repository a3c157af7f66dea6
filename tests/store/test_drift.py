"""What was changed by hand is found by a check, shown, and mended by the next update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

import converge
from converge.cli.plans import render
from converge.model import same
from converge.protocol.drift import compare
from converge.sql import resources
from converge.testing import FakeWorld, StepEngine
from tests.templates import template

WANTED: dict[str, Any] = {
    "net": {"properties": {"size": 1}},
    "web": {"properties": {"of": {"get_attr": ["net", "made"]}, "size": 2}},
    "log": {"properties": {"size": 3}},
}


class Account(converge.ResourceType):
    """Has a secret, and a zone that cannot be changed."""

    schema: ClassVar[Mapping[str, converge.Property]] = {
        "password": converge.Property(str, secret=True),
        "zone": converge.Property(str, immutable=True),
        "size": converge.Property(int),
    }

    def __init__(self) -> None:
        self.real: dict[str, Any] = {}
        self.updates: list[tuple[Any, Any]] = []
        self.made = 0

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> str:
        self.made += 1
        self.real = dict(properties)
        return f"account-{self.made}"

    def update(
        self,
        context: converge.Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> None:
        self.updates.append((dict(previous), dict(properties)))
        self.real = dict(properties)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        """Do nothing."""

    def read(self, context: converge.Context, physical_id: str) -> converge.Real:
        return converge.Real(dict(self.real))


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def engine(store: converge.Store, world: FakeWorld, account: Account) -> StepEngine:
    return StepEngine(store, {**world.types(attempts=1), "account": account})


def check(store: converge.Store, engine: StepEngine) -> converge.Stack:
    stack = store.check_stack("s")
    engine.run()
    return stack.refresh()


def statuses(store: converge.Store) -> dict[str, str]:
    return dict(store.statuses("s"))


def test_it_is_found_shown_and_mended(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    wanted = template(**WANTED)
    store.create_stack("s", wanted)
    engine.run()
    assert check(store, engine).reason is None
    world.things["log.0"].properties["size"] = 9

    # nothing looks until it is asked to
    assert statuses(store) == dict.fromkeys(WANTED, "COMPLETE")
    stack = check(store, engine)
    assert (stack.status, stack.reason) == ("COMPLETE", "drifted: 'log'")
    assert statuses(store) == {"net": "COMPLETE", "web": "COMPLETE", "log": "DRIFTED"}
    shown = store.show("s", status=["DRIFTED"])
    assert shown["counts"] == {"COMPLETE": 2, "DRIFTED": 1}
    assert list(shown["resources"]) == ["log"]
    one = shown["resources"]["log"]
    assert one["drift"] == {
        "gone": None,
        "said": None,
        "properties": {"size": {"before": 3, "after": 9}},
    }
    assert one["reason"] == "it differs from what it was made to be: size"
    assert one["properties"] == {"size": 3}
    [answer] = store.why("s", "log")
    assert "'log' is DRIFTED: it differs" in answer["message"]
    told = [one for one in store.events("s") if one["status"] == "DRIFTED"]
    assert [(one["resource"], one["action"]) for one in told] == [("log", "CHECK")]

    # a second look finds the same
    assert check(store, engine).reason == "drifted: 'log'"
    preview = store.plan("s", wanted, types=engine.types)
    assert list(render(preview))[:2] == [
        "  ~ log (fake): or replaced, if its type asks for it, "
        "it differs from what it was made to be: size",
        "      size: 9 → 3",
    ]
    store.converge_stack("s", wanted)
    engine.run()
    assert world.things["log.0"].properties == {"size": 3}
    assert statuses(store) == dict.fromkeys(WANTED, "COMPLETE")
    assert store.show("s")["resources"]["log"]["drift"] is None
    assert check(store, engine).reason is None


def test_a_check_says_what_has_drifted(
    store: converge.Store, engine: StepEngine, account: Account
) -> None:
    """A type need not be able to tell its properties."""

    class Gauge(Account):
        read = None  # type: ignore[assignment]
        level = "full"

        def check(
            self, context: converge.Context, physical_id: str, properties: Mapping[str, Any]
        ) -> None:
            if self.level != "full":
                raise converge.Drifted(f"it is {self.level}, and {properties['password']}")

    gauge = Gauge()
    one = StepEngine(store, {"account": gauge})
    wanted = template(g={"type": "account", "properties": {"password": "correct-horse"}})
    store.create_stack("s", wanted)
    one.run()
    gauge.level = "empty"
    stack = store.check_stack("s")
    one.run()
    assert (stack.refresh().status, stack.reason) == ("COMPLETE", "drifted: 'g'")
    shown = store.show("s")["resources"]["g"]
    assert (shown["status"], shown["drift"]["said"]) == ("DRIFTED", "it is empty, and ***")
    assert "it is empty, and ***" in "".join(render(store.plan("s", wanted, types=one.types)))
    gauge.level = "full"
    store.update_stack("s", wanted)
    one.run()
    assert len(gauge.updates) == 1
    assert store.show("s")["resources"]["g"]["drift"] is None


def test_what_is_right_again_has_not_drifted(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    store.create_stack("s", template(**WANTED))
    engine.run()
    world.things["log.0"].properties["size"] = 9
    check(store, engine)
    world.things["log.0"].properties["size"] = 3
    assert check(store, engine).reason is None
    assert statuses(store)["log"] == "COMPLETE"
    assert store.show("s")["resources"]["log"]["drift"] is None
    with store.transaction() as tx:
        assert {row.drift for row in resources.list_resources(tx, store.stack("s").id)} == {None}


def test_what_is_gone_is_made_again_and_what_needs_it_follows(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    wanted = template(**WANTED)
    store.create_stack("s", wanted)
    engine.run()
    world.things.pop("net.0")
    assert check(store, engine).reason == "drifted: 'net'"
    drift = store.show("s")["resources"]["net"]["drift"]
    assert drift == {"gone": "there is no net.0", "said": None, "properties": {}}
    first = next(render(store.plan("s", wanted, types=engine.types)))
    assert first == "-/+ net (fake): it is gone: there is no net.0"
    store.converge_stack("s", wanted)
    engine.run()
    assert statuses(store) == dict.fromkeys(WANTED, "COMPLETE")
    assert world.properties()["web.0"] == {"of": "net.1", "size": 2}
    assert sorted(world.things) == ["log.0", "net.1", "web.0"]


def test_a_delete_does_not_need_it(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    store.create_stack("s", template(**WANTED))
    engine.run()
    world.things.pop("log.0")
    world.things["web.0"].properties["size"] = 7
    check(store, engine)
    stack = store.delete_stack("s")
    engine.run()
    assert stack.refresh().status == "COMPLETE"
    assert not world.things


def test_secrets_are_compared_and_neither_kept_nor_shown(
    store: converge.Store, engine: StepEngine, account: Account
) -> None:
    properties = {"password": "first-word", "zone": "north", "size": 1}
    wanted = template(a={"type": "account", "properties": properties})
    store.create_stack("s", wanted)
    engine.run()
    account.real |= {"password": "by-hand-word", "size": 5}
    check(store, engine)
    document = store.show("s", reveal=True)
    drift = document["resources"]["a"]["drift"]
    assert drift["properties"] == {
        "password": {"before": "***", "after": "***"},
        "size": {"before": 1, "after": 5},
    }
    rows = [document, store.events("s"), store.why("s", "a")]
    assert "by-hand-word" not in str(rows)
    # the type is told that it is not what it was
    store.converge_stack("s", wanted)
    engine.run()
    assert account.updates == [({"password": None, "zone": "north", "size": 5}, properties)]
    assert statuses(store) == {"a": "COMPLETE"}


def test_what_cannot_be_changed_in_place_is_replaced(
    store: converge.Store, engine: StepEngine, account: Account
) -> None:
    wanted = template(a={"type": "account", "properties": {"zone": "north"}})
    store.create_stack("s", wanted)
    engine.run()
    account.real["zone"] = "south"
    check(store, engine)
    first = next(render(store.plan("s", wanted, types=engine.types)))
    assert first == "-/+ a (account): zone cannot be changed in place"
    store.converge_stack("s", wanted)
    engine.run()
    assert account.made == 2
    assert store.show("s")["resources"]["a"]["physical_id"] == "account-2"


def test_what_cannot_be_looked_at_fails(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    store.create_stack("s", template(**WANTED))
    engine.run()
    world.things["log.0"].properties["size"] = 9
    check(store, engine)
    world.fail("read log", times=1)
    stack = check(store, engine)
    assert stack.status == "FAILED"
    assert statuses(store)["log"] == "FAILED"
    assert store.show("s")["resources"]["log"]["drift"] is None


def test_a_failure_in_the_update_forgets_nothing(
    store: converge.Store, engine: StepEngine, world: FakeWorld
) -> None:
    wanted = template(**WANTED)
    store.create_stack("s", wanted)
    engine.run()
    world.things.pop("net.0")
    check(store, engine)
    # the new one cannot be made; the old one is still known to be gone
    world.fail("create net", times=1)
    store.converge_stack("s", wanted)
    engine.run()
    store.converge_stack("s", wanted)
    engine.run()
    assert statuses(store) == dict.fromkeys(WANTED, "COMPLETE")
    assert world.properties()["web.0"]["of"] == store.show("s")["resources"]["net"]["physical_id"]


def test_a_comparison_of_the_same_is_empty() -> None:
    made = {"a": [1, {"b": None}], "c": True}
    assert same(made, dict(made))
    assert compare(made, made) == {}
