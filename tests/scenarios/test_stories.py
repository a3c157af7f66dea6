"""Runs the stories of this folder: each on SQLite, and on PostgreSQL or MariaDB in turn. What the
servers do otherwise is tested statement by statement, in tests/store and tests/guards.

A file has ``stories``: a name, and steps. Each step is a verb with its object, and options
beside it; what verbs there are, the methods of :class:`Story` say. At the end of each story,
and wherever one says that its stack is COMPLETE, nothing may be left over.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import func, select

import converge
from converge import errors
from converge.model import Json
from converge.protocol import recover
from converge.protocol.work import Outcome, Work
from converge.sql import schema
from converge.testing import FakeClock, FakeWorld, StepEngine, label

HERE = Path(__file__).parent
NAME = "story"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


TEMPLATES: Mapping[str, Any] = read(HERE / "templates.yaml")
STORIES = {
    f"{path.stem}: {name}": story
    for path in sorted(HERE.glob("*.yaml"))
    if path.stem != "templates"
    for name, story in read(path)["stories"].items()
}
PLACES = [
    pytest.param(
        database,
        story,
        id=f"{database}-{name}",
        marks=[pytest.mark.database, getattr(pytest.mark, database)],
    )
    for number, (name, story) in enumerate(STORIES.items())
    for database in ("sqlite", ("postgresql", "mariadb")[number % 2])
]


def body(name: str) -> dict[str, Any]:
    """A template of ``templates.yaml``, spelled out."""
    own = TEMPLATES[name]
    whole: dict[str, Any] = {"resources": {}, "outputs": {}}
    if "like" in own:
        whole = copy.deepcopy(body(own["like"]))
    whole["outputs"] |= own.get("outputs", {})
    whole["moved"] = own.get("moved", {})
    whole["resources"] |= own.get("resources", {})
    whole["resources"] = {
        name: {"type": "fake", **entry}
        for name, entry in whole["resources"].items()
        if entry is not None
    }
    return whole


class Story:
    """The world of one story, and what its steps do to it."""

    def __init__(self, open_store: Callable[..., converge.Store], story: Mapping[str, Any]) -> None:
        self.clock = FakeClock()
        self.store = open_store(self.clock)
        self.world = FakeWorld()
        self.types = self.world.types(**story.get("retry", {}))
        self.lease = story.get("lease", 100_000.0)
        self.engines: dict[str, StepEngine] = {}
        self.held: dict[str, Work | Outcome] = {}
        self.started: list[int] = []
        self.seen = 0
        self.left: list[str] = []
        self.there: set[str] = set()

    def play(self, steps: list[dict[str, Any]]) -> None:
        for step in steps:
            (verb, what), *options = step.items()
            getattr(self, verb)(what, **dict(options))

    # -- what a caller does; `expected: 0` is the traversal of the first start

    def create(self, template: str, **options: Any) -> None:
        self._begin(self.store.create_stack, self._template(template), **options)

    def update(self, template: str, **options: Any) -> None:
        self._begin(self.store.update_stack, self._template(template), **options)

    def up(self, template: str, **options: Any) -> None:
        self._begin(self.store.converge_stack, self._template(template), **options)

    def rollback(self, version: Any, **options: Any) -> None:
        self._begin(self.store.rollback_stack, version=version, **options)

    def move(self, names: list[str]) -> None:
        """A resource gets another name."""
        self.store.move_resource(NAME, *names)

    def delete(self, _: None, **options: Any) -> None:
        self._begin(self.store.delete_stack, **options)

    def check(self, _: None, **options: Any) -> None:
        self._begin(self.store.check_stack, **options)

    def cancel(self, _: None, **options: Any) -> None:
        self._begin(self.store.cancel_stack, **options)

    def _template(self, name: str) -> converge.Template:
        return converge.Template.parse(json.dumps(body(name)), name)

    def _begin(
        self,
        function: Callable[..., converge.Stack],
        *arguments: Any,
        raises: str | None = None,
        saying: str = "",
        outcome: str = "started",
        expected: int | None = None,
        stack: str = NAME,
        **options: Any,
    ) -> None:
        """:param stack: its name, if it is another one than that which the story is about."""
        if expected is not None:
            options["expected"] = self.started[expected]
        if raises is not None:
            with pytest.raises(getattr(errors, raises), match=saying or None):
                function(stack, *arguments, **options)
            return
        before = self.started[-1] if self.started else None
        found = function(stack, *arguments, **options)
        assert found.outcome == outcome
        if stack != NAME:
            return
        assert found.superseded == (before if outcome == "superseded" else None)
        assert found.traversal is not None
        self.started.append(found.traversal)

    # -- what engines do

    def run(self, until: str | int, *, engine: str = "one", did: list[str] | None = None) -> None:
        """``all`` until nothing is ready, a number of nodes, or until after a node."""
        if isinstance(until, int):
            done = [self._engine(engine).step() for _ in range(until)]
            assert None not in done, f"idle after {done}"
        else:
            done = list(self._engine(engine).run(None if until == "all" else until))
        assert did in (None, done)

    def claim(self, node: str, *, engine: str = "one") -> None:
        """Take the next node, and do nothing with it yet."""
        self.clock.advance(0.001)
        (work,) = self._engine(engine).claim()
        assert label(work) == node
        self.held[engine] = work

    def call(self, _: None, *, engine: str = "one") -> None:
        """Call the handler of the claimed node, and write nothing yet."""
        work = self.held[engine]
        assert isinstance(work, Work)
        self.held[engine] = self._engine(engine).call(work)

    def die(self, before: str, *, engine: str = "one") -> None:
        """Go on with the claimed node until this call, and make it no more."""
        one, work = self._engine(engine), self.held.pop(engine)
        assert isinstance(work, Work)
        while f"{work.decision.operation} {work.row and work.row.name}" != before:
            (work,) = one.core.turn([one.call(work)], 0)

    def write(self, _: None, *, engine: str = "one") -> None:
        """Write what became of the claimed node."""
        if isinstance(self.held[engine], Work):
            self.call(None, engine=engine)
        outcome = self.held.pop(engine)
        assert isinstance(outcome, Outcome)
        self._engine(engine).write(outcome)

    def _engine(self, name: str) -> StepEngine:
        if name not in self.engines:
            self.engines[name] = StepEngine(
                self.store, self.types, clock=self.clock, lease=self.lease
            )
        return self.engines[name]

    def sweep(self, found: dict[str, int]) -> None:
        """A round of recovery, which finds so many of each sort."""
        done = recover.sweep(self.store.database)
        # what is ready is every other step's business
        sorts = set(done.__slots__) - {"ready"} | found.keys()
        assert {sort: n for sort in sorts if (n := getattr(done, sort))} == found

    # -- what the world does

    def fail(self, calls: dict[str, int]) -> None:
        """Let the next so many of these calls fail; -1 for all."""
        for what, times in calls.items():
            self.world.fail(what, times)

    def wait(self, calls: dict[str, int], *, seconds: float = 10) -> None:
        """Let the next so many of these calls ask to be called again after some seconds; -1 for
        all."""
        for what, times in calls.items():
            self.world.wait(what, times, seconds)

    def put(self, things: dict[str, dict[str, Json]]) -> None:
        """Things are there that no stack has made; some have them by their ids."""
        for name, properties in things.items():
            self.world.put(name, **properties)
        self.there = set(things)

    def lose(self, things: list[str]) -> None:
        """Things vanish behind converge's back."""
        for thing in things:
            del self.world.things[thing]

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    def repeat(self, steps: list[dict[str, Any]], *, times: int) -> None:
        for _ in range(times):
            self.play(steps)

    # -- what must be so

    def expect(self, what: dict[str, Any]) -> None:
        for key, value in what.items():
            getattr(self, f"expect_{key}")(value)

    def expect_things(self, ids: list[str]) -> None:
        """Exactly these physical ids exist."""
        assert self.world.names() == sorted(ids)

    def expect_left(self, ids: list[str]) -> None:
        """These exist, and no stack has them any more."""
        assert set(ids) <= set(self.world.names())
        self.left = ids

    def expect_properties(self, wanted: dict[str, dict[str, Json]]) -> None:
        """These things have exactly these properties."""
        found = self.world.properties()
        assert {key: found.get(key) for key in wanted} == wanted

    def expect_log(self, lines: list[str]) -> None:
        """What was done since the last look at the log, in order."""
        found, self.seen = self.world.log[self.seen :], len(self.world.log)
        assert found == lines

    def expect_order(self, chains: list[str]) -> None:
        """``one < other < ...``: each was done, in this order."""
        for chain in chains:
            places = [self.world.log.index(line.strip()) for line in chain.split("<")]
            assert places == sorted(places), f"{chain}: {self.world.log}"

    def expect_stack(self, state: str) -> None:
        shown = self.store.show(NAME)
        assert f"{shown['action']} {shown['status']}" == state
        if state.endswith(" COMPLETE"):
            self.check_tidy()

    def expect_gone(self, _: None) -> None:
        """The stack is deleted, and has left nothing but its summaries."""
        with pytest.raises(converge.NotFound):
            self.store.stack(NAME)
        assert self.world.names() == sorted({*self.left, *self.there})
        rows = {name: self._count(name) for name in ("resource", "template")}
        assert rows == {"resource": 0, "template": 0}
        self.check_tidy()

    def expect_reason(self, words: str) -> None:
        reason = self.store.show(NAME)["reason"] or ""
        assert words in re.sub(r" \(testing\.py:\d+ in \w+\)", "", reason)

    def expect_version(self, number: int | None) -> None:
        assert self.store.show(NAME)["version"] == number

    def expect_progress(self, counts: dict[str, int]) -> None:
        found = self.store.progress(NAME)
        assert {key: found[key] for key in counts} == counts

    def expect_resources(self, wanted: dict[str, str]) -> None:
        """Exactly these names, each with its status and its physical id."""
        found = {
            name: " ".join(filter(None, (one["status"], one["physical_id"])))
            for name, one in self.store.show(NAME)["resources"].items()
        }
        assert found == wanted

    def expect_requires(self, wanted: dict[str, list[str]]) -> None:
        resources = self.store.show(NAME)["resources"]
        assert {name: resources[name]["requires"] for name in wanted} == wanted

    def expect_outputs(self, wanted: dict[str, Json]) -> None:
        assert self.store.show(NAME)["outputs"] == wanted

    def expect_why(self, words: list[str]) -> None:
        """The messages of ``why`` have these words, one each, in any order."""
        messages = [one["message"] for one in self.store.why(NAME)]
        assert len(messages) == len(words), messages
        for part in words:
            assert any(part in message for message in messages), messages

    def expect_events(self, lines: list[str]) -> None:
        """Exactly these are the events of resources, oldest first: ``A WAITING: 1 to go``."""
        found = [
            f"{one['resource']} {one['status']}" + (f": {one['reason']}" if one["reason"] else "")
            for one in self.store.events(NAME)
            if one["resource"] is not None
        ]
        assert found == lines

    def expect_waiting(self, wanted: dict[str, list[Any]]) -> None:
        """Exactly these wait: how far each is, for how many seconds, and in how many again."""
        found = self.store.waiting(NAME)
        names = ("progress", "since_seconds", "again_in_seconds")
        shown = {
            one["resource"]: [
                round(value) if isinstance(value := one[name], float) else value for name in names
            ]
            for one in found
        }
        assert shown == wanted

    def expect_rows(self, wanted: dict[str, int | str]) -> None:
        """So many rows are in these tables; ``up to N`` at most."""
        for name, number in wanted.items():
            found = self._count(name)
            if isinstance(number, int):
                assert (name, found) == (name, number)
            else:
                assert found <= int(number.removeprefix("up to ")), name

    def check_tidy(self) -> None:
        """Nothing of a traversal that is over is left; what is complete is all there is."""
        shown = [self.store.show(one["name"]) for one in self.store.stacks()]
        if self.held or any(one["status"] == "IN_PROGRESS" for one in shown):
            return
        rows = {name: self._count(name) for name in ("sync_point", "progress")}
        assert rows == {"sync_point": 0, "progress": 0}
        with self.store.transaction() as tx:
            locks = tx.execute(select(schema.resource.c.engine_id)).scalars().all()
        assert set(locks) <= {None}
        resources = [each for one in shown for each in one["resources"].values()]
        assert all(each["status"] != "IN_PROGRESS" for each in resources)
        if not all(one["status"] == "COMPLETE" and one["action"] != "CHECK" for one in shown):
            return
        if shown:
            ids = {each["physical_id"] for each in resources}
            assert sorted({*ids, *self.left, *self.there}) == self.world.names()
            assert self._count("resource") == len(resources)
        for one in shown:
            # but for what an update that names its targets has left for another one
            if "left as" not in (one["reason"] or ""):
                assert set(one["resources"]) == set(self.store.graph(one["name"]))

    def _count(self, table: str) -> int:
        rows = schema.metadata.tables[schema.PREFIX + table]
        with self.store.transaction() as tx:
            return int(tx.execute(select(func.count()).select_from(rows)).scalar_one())


@pytest.mark.parametrize(("database", "story"), PLACES, indirect=["database"])
def test_story(fresh_store: Callable[..., converge.Store], story: dict[str, Any]) -> None:
    stage = Story(fresh_store, story)
    stage.play(story["steps"])
    stage.check_tidy()
