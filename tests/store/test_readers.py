"""What is read of a large stack in parts: pages of its resources, the newest of its events."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import converge
from converge.cli import main
from converge.testing import FakeClock, FakeWorld, StepEngine
from tests.templates import template

#: b cannot be created, so what requires it is not
LEFT = {"a": "COMPLETE", "b": "FAILED", "c": "COMPLETE", "d": "SKIPPED", "e": "COMPLETE"}
#: c is of another type than the others
BODIES: dict[str, Any] = {"e": "", "c": {"type": "fixed"}, "b": "", "d": "b", "a": "e c"}


def fill(store: converge.Store) -> FakeWorld:
    """Leave a stack of five resources, and another with some of the same names."""
    world = FakeWorld()
    world.fail("create b", -1)
    engine = StepEngine(store, world.types())
    store.create_stack("s", template(BODIES), on_failure="continue")
    engine.run()
    store.create_stack("other", template({"a": "", "f": ""}))
    return world


def page(store: converge.Store, **asked: Any) -> tuple[list[str], int]:
    shown = store.show("s", **asked)
    return list(shown["resources"]), shown["more"]


def test_resources_are_shown_in_pages(store: converge.Store) -> None:
    fill(store)
    assert page(store) == (["a", "b", "c", "d", "e"], 0)
    assert page(store, limit=2) == (["a", "b"], 3)
    assert page(store, limit=2, after="b") == (["c", "d"], 1)
    assert page(store, limit=2, after="d") == (["e"], 0)
    # there need not be one of that name
    assert page(store, limit=1, after="bb") == (["c"], 2)
    assert page(store, limit=0) == ([], 5)
    assert page(store, limit=5) == (["a", "b", "c", "d", "e"], 0)

    whole, part = store.show("s"), store.show("s", limit=1)
    assert part == {**whole, "resources": {"a": whole["resources"]["a"]}, "more": 4}
    # those that are required are on other pages
    assert part["resources"]["a"]["requires"] == ["c", "e"]
    assert part["counts"] == {"COMPLETE": 3, "FAILED": 1, "SKIPPED": 1}


def test_resources_are_chosen_by_status_and_type(store: converge.Store) -> None:
    fill(store)
    assert page(store, status="COMPLETE", limit=1) == (["a"], 2)
    assert page(store, status="COMPLETE", limit=1, after="a") == (["c"], 1)
    assert page(store, status=["FAILED", "SKIPPED"]) == (["b", "d"], 0)
    assert page(store, status="IN_PROGRESS") == ([], 0)
    assert page(store, type="fixed") == (["c"], 0)
    assert page(store, type=["fixed", "fake"], limit=4) == (["a", "b", "c", "d"], 1)
    assert page(store, type="fake", status="COMPLETE", limit=0) == ([], 2)
    assert page(store, type="other") == ([], 0)
    # all are counted, whichever are asked for
    assert sum(store.show("s", type="fixed", limit=0)["counts"].values()) == 5

    assert store.statuses("s") == LEFT
    assert store.statuses("s", status="FAILED") == {"b": "FAILED"}
    assert store.statuses("s", resources=["a", "b", "x"]) == {"a": "COMPLETE", "b": "FAILED"}
    many = [f"x{number}" for number in range(1200)]
    assert store.statuses("s", resources=["e", "a", *many]) == {"a": "COMPLETE", "e": "COMPLETE"}
    assert store.statuses("s", resources=[]) == {}
    # what is not created yet will be
    assert store.statuses("other") == {"a": "WAITING", "f": "WAITING"}
    assert store.show("other", limit=0)["counts"] == {"WAITING": 2}


def test_of_several_versions_the_current_one_is_shown_and_counted(store: converge.Store) -> None:
    world = FakeWorld()
    engine = StepEngine(store, world.types())

    def start(size: int) -> None:
        body = {"type": "fixed", "properties": {"size": size}}
        store.converge_stack("s", template({"a": body, "b": ""}))

    start(1)
    engine.run()
    start(2)
    world.fail("create a")
    world.fail("delete a", -1)
    # its replacement fails, so that both versions are there
    engine.run()
    assert store.show("s")["counts"] == {"COMPLETE": 1, "FAILED": 1}
    assert page(store, status="FAILED") == (["a"], 0)
    assert page(store, status="COMPLETE") == (["b"], 0)
    assert page(store, limit=1) == (["a"], 1)
    (answer,) = store.why("s", "a")
    assert answer["state"] == "FAILED"
    # back to the first: what was to replace it is no longer wanted
    start(1)
    engine.run()
    assert store.statuses("s") == {"a": "COMPLETE", "b": "COMPLETE"}
    assert store.show("s")["resources"]["a"]["properties"] == {"size": 1}
    assert page(store, status="FAILED") == ([], 0)


def test_events_are_read_from_a_time_on(store: converge.Store, clock: FakeClock) -> None:
    engine = StepEngine(store, FakeWorld().types())
    store.create_stack("s", template({"a": "", "b": "a"}))
    for _ in range(2):
        clock.advance(10)
        engine.step()
    clock.advance(10)
    whole = store.events("s")
    [first, last] = [one for one in whole if one["resource"] is not None]
    begun = datetime.fromtimestamp(first["time"], UTC)

    def since(when: Any, **more: Any) -> list[int]:
        return [one["id"] for one in store.events("s", since=when, **more)]

    every = [one["id"] for one in whole]
    assert since(1e6) == since(datetime(1970, 1, 1, tzinfo=UTC)) == every
    assert since(20) == since(begun) == [one for one in every if one >= first["id"]]
    assert since(10)[0] == since(begun + timedelta(seconds=0.5))[0] == last["id"]
    assert since(9) == []
    # of those, the newest; or, after an id, the first
    assert since(20, limit=1) == every[-1:]
    assert since(20, limit=1, after=0) == [first["id"]]
    assert since(20, limit=1, after=first["id"]) == [last["id"]]
    assert since(9, after=0) == []


def test_what_cannot_be_asked_for_is_refused(store: converge.Store) -> None:
    for asked, message in (
        ({"limit": -1}, "limit must be a whole number, 0 or more, not -1"),
        ({"limit": "5"}, "not '5'"),
        ({"status": "FAILD"}, "unknown status 'FAILD'; did you mean 'FAILED'?"),
        ({"status": ["FAILED", "INIT"]}, "unknown status 'INIT'"),
    ):
        with pytest.raises(converge.BadInput) as caught:
            store.show("s", **asked)
        assert message in str(caught.value)
    with pytest.raises(converge.BadInput, match="since must have a time zone"):
        store.events("s", since=datetime(2026, 11, 28))
    with pytest.raises(converge.BadInput, match="since must be a number of seconds, 0 or more"):
        store.events("s", since=-1)


# The command line


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_commands_show_parts(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONVERGE_DB", database_url)
    with converge.connect() as store:
        fill(store)
        whole = [one["id"] for one in store.events("s")]

    text = run(capsys, "show", "s", "--limit", "2")
    lines = text.splitlines()
    assert "resources: 3 COMPLETE, 1 FAILED, 1 SKIPPED" in lines
    assert [line.split()[0] for line in lines[6:8]] == ["a", "b"]
    assert lines[-2:] == ["3 more resources", "next: converge show s --limit 2 --after b"]
    text = run(capsys, "show", "s", "--status", "COMPLETE", "--type", "fake", "--limit", "0")
    assert text.endswith(
        "\n2 more resources\nnext: converge show s --status COMPLETE --type fake\n"
    )
    assert "more" not in run(capsys, "show", "s")
    document = json.loads(run(capsys, "show", "s", "--json", "--limit", "1", "--after", "c"))
    assert (list(document["resources"]), document["more"]) == (["d"], 1)
    assert len(json.loads(run(capsys, "show", "s", "--json", "--limit", "all"))["resources"]) == 5

    drawn = run(capsys, "graph", "s", "--status", "FAILED")
    assert drawn.startswith("s, FAILED: 2 resources, 1 dependency, 2 levels\n")
    assert "  b [FAILED]\n" in drawn
    assert "  d [SKIPPED]  requires b\n" in drawn
    drawn = run(capsys, "graph", "s", "--around", "e")
    assert drawn.startswith("s, around e: 2 resources, 1 dependency, 2 levels\n")
    assert "  a [COMPLETE]  requires e\n" in drawn
    assert main(["graph", "s", "--around", "x"]) == 2
    assert "'s' has no resource 'x'" in capsys.readouterr().err

    def listed(*words: str) -> list[int]:
        return [one["id"] for one in json.loads(run(capsys, "events", "s", "--json", *words))]

    assert listed() == listed("--since", "600") == listed("--since", "2001-01-01") == whole
    assert listed("--limit", "3") == whole[-3:]
    assert listed("--since", "2100-01-01T00:00:00Z") == []
    # the action of s has ended, so that following ends, as it did
    assert main(["events", "s", "--follow", "--limit", "2"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["events", "s", "--follow", "--since", "2100-01-01"]) == 1
    assert capsys.readouterr().out == ""
