"""Plays a story: callers, engines and a world, with a death at any crash point.

A step of a story is a verb with its object, and options beside it; what verbs there are, the
methods of :class:`Player` with a leading ``do_`` say. After a death the step is played again, as
the others would: a caller repeats the call, and another engine takes the place of the dead one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Column, MetaData, String, Table, delete, func, insert, select, update

import converge
from converge.crash_points import Commit
from converge.model import NodeState
from converge.protocol import recover
from converge.protocol.work import Outcome, Work
from converge.resources import Stack
from converge.sql import engines, schema
from converge.sql.database import repeatable
from converge.testing import FakeClock, StepEngine, label
from converge.wait import FOREVER_INNER
from tests.crash.reaper import gone_identity
from tests.crash.world import RETRY, World

NAME = "shop"
CALLER = "the caller"
LEASE = 60.0
#: Seconds in which the story's clock goes on, so that no engine misses its renewal.
SLICE = 20.0
#: The commits of callers.
CALLS = (
    Commit.START,
    Commit.HOST,
    Commit.CANCEL,
    Commit.ABANDON,
    Commit.LIMIT,
    Commit.RENAME,
    Commit.ADOPT,
    Commit.SIGNAL,
)

#: The verbs of callers that say what they believe to be current.
COMPARING = frozenset({"update", "rollback", "check"})
#: A table of the host that starts stacks.
ORDERS = Table("crash_order", MetaData(), Column("name", String(50)))

Story = Mapping[str, Any]


def load() -> tuple[dict[str, Any], dict[str, Story]]:
    """The templates and the stories, by name."""
    text = (Path(__file__).parent / "stories.yaml").read_text(encoding="utf-8")
    whole = yaml.safe_load(text)
    return whole["templates"], whole["stories"]


TEMPLATES, STORIES = load()


class Player:
    """:param store: an empty one, with the player's clock, or the one that a dead player left.
    :param world: as the store.
    :param clock: what the story's time is; it goes on from what was noted in the world.
    """

    def __init__(self, store: converge.Store, world: World, clock: FakeClock) -> None:
        self.store = store
        self.world = world
        self.clock = clock
        clock.seconds = max(clock.seconds, world.note.get("now", 0.0))
        self.types = {**world.types(RETRY), "stack": Stack()}
        self.engines: dict[str, StepEngine] = {}
        self.hands: dict[str, list[Work | Outcome]] = {}
        #: Who acts at the moment.
        self.actor = CALLER
        #: Somebody died: what was in hand may be gone, and nodes come in another order.
        self.bereaved = False
        #: The traversal that callers believe to be current.
        self.seen: int | None = world.note.get("seen")
        #: Whether a caller's call, which died, was committed; None at the first call.
        self.committed: bool | None = None

    # -- playing

    def play(self, story: Story, first: int = 0) -> None:
        """Play the steps from this one on, to the end of all that they started."""
        for number in range(first, len(story["steps"])):
            self.step(number, story["steps"][number])
        self.settle()

    def step(self, number: int, step: Mapping[str, Any]) -> None:
        """Play one step, and note which it is, for those who find us dead."""
        if not COMPARING.isdisjoint(step):
            self.seen = self.store.stack(NAME).traversal
        self.world.write(note={"step": number, "now": self.clock.seconds, "seen": self.seen})
        self._do(step)

    def _do(self, step: Mapping[str, Any]) -> None:
        (verb, what), *options = step.items()
        self.actor = CALLER
        getattr(self, f"do_{verb}")(what, **dict(options))

    def again(self, step: Mapping[str, Any], point: str) -> None:
        """Play a step again in which somebody died at this point."""
        self.bereaved = True
        if any(point in (commit.before, commit.after) for commit in CALLS):
            self.committed = point.endswith("after_commit")
        elif "cancel" in step and point in (Commit.NEST_STOP.before, Commit.NEST_STOP.after):
            # it comes after the cancel
            self.committed = True
        else:
            self.recover()
        self._do(step)
        self.committed = None

    def bury(self) -> int | None:
        """Forget who died. The id of the engine that it was, None for a caller."""
        self.hands.pop(self.actor, None)
        engine = self.engines.pop(self.actor, None)
        return None if engine is None else engine.id

    def recover(self) -> None:
        """Wait for the end of the leases of the dead, and put right what they left."""
        self.do_advance(LEASE + SLICE)
        recover.sweep(self.store.database)

    def settle(self) -> None:
        """Let the engines work until no traversal runs."""
        for _ in range(20):
            if not self._is_busy():
                return
            assert self.bereaved, "the story ends before its traversals do"
            for name in list(self.engines):
                self.do_write(name)
            self.do_run("all", engine="last")
            self.recover()
        raise AssertionError("something never ends")

    # -- what callers do

    def do_create(self, template: str, **options: Any) -> None:
        self._start(self.store.create_stack, _template(template), **options)

    def do_up(self, template: str, **options: Any) -> None:
        self._start(self.store.converge_stack, _template(template), resumes=True, **options)

    def do_update(self, template: str, **options: Any) -> None:
        options["expected"] = self.seen
        self._start(self.store.update_stack, _template(template), **options)

    def do_rollback(self, version: int | None, **options: Any) -> None:
        options |= {"version": version, "expected": self.seen}
        self._start(self.store.rollback_stack, **options)

    def do_delete(self, _: None, **options: Any) -> None:
        self._start(self.store.delete_stack, resumes=True, **options)

    def do_check(self, _: None, **options: Any) -> None:
        self._start(self.store.check_stack, expected=self.seen, **options)

    def do_cancel(self, _: None, **options: Any) -> None:
        is_over = self.committed and self.store.stack(NAME).status != "IN_PROGRESS"
        over = "done" if is_over else None
        self._start(self.store.cancel_stack, resumes=True, again=over, **options)

    def do_abandon(self, resource: str) -> None:
        done = self.store.forget_resource(NAME, resource)
        assert (done is None) is bool(self.committed)

    def do_limit(self, places: int, **options: Any) -> None:
        """Say how many nodes of a type run at once; whoever does not know whether it did, says it
        again."""
        self.store.set_limit(type="fake", places=places, **options)

    def do_rename(self, names: list[str]) -> None:
        done = self.store.move_resource(NAME, *names)
        assert (done is None) is bool(self.committed)

    def do_adopt(self, resource: str, *, template: str) -> None:
        """A thing that is there becomes a resource."""
        done = self.store.adopt_resource(
            NAME, resource, f"{resource}.0", _template(template), types=self.types
        )
        assert (done is None) is bool(self.committed)

    def do_signal(self, resource: str) -> None:
        """Tell a resource what it waits for; who does not know whether it did, does it again."""
        assert self.store.signal(NAME, resource, id="go") is not bool(self.committed)

    def do_order(self, template: str) -> None:
        """A host's own row and a start, in one transaction; the row tells whether it happened."""
        done = self._has_ordered()
        assert done is bool(self.committed)
        if done:
            return
        with self.store.transaction() as tx:
            tx.execute(insert(ORDERS).values(name=template))
            self.store.converge_stack(NAME, _template(template), transaction=tx)

    def _start(
        self,
        function: Callable[..., converge.Stack],
        *arguments: Any,
        resumes: bool = False,
        outcome: str = "started",
        again: str | None = None,
        **options: Any,
    ) -> None:
        """Call it, also for a caller who called before and does not know what became of it.

        :param resumes: the second call goes on with what runs; otherwise it gets a Conflict.
        :param again: what it says then, if not that it goes on.
        """
        if self.committed and not resumes:
            with pytest.raises(converge.Conflict):
                function(NAME, *arguments, **options)
            return
        stack = function(NAME, *arguments, **options)
        assert stack.outcome == ((again or "resumed") if self.committed else outcome)

    def _has_ordered(self) -> bool:
        return bool(self.store.database.read(lambda tx: tx.execute(select(ORDERS)).all()))

    def _is_busy(self) -> bool:
        nodes = select(func.count()).select_from(schema.sync_point)
        left = self.store.database.read(lambda tx: tx.execute(nodes).scalar_one())
        return bool(left) or any(one["status"] == "IN_PROGRESS" for one in self.store.stacks())

    # -- what engines do

    def engine(self, name: str) -> StepEngine:
        """An engine of the story; it registers when it is first asked for."""
        self.actor = name
        if name not in self.engines:
            self.engines[name] = StepEngine(self.store, self.types, clock=self.clock, lease=LEASE)
            self.hands[name] = []
        return self.engines[name]

    def do_claim(self, node: str, *, engine: str = "one") -> None:
        """Take the next node, and do nothing with it yet."""
        self.clock.advance(0.001)
        works = self.engine(engine).claim()
        assert self.bereaved or [label(work) for work in works] == [node]
        self.hands[engine] += works

    def do_call(self, engine: str) -> None:
        """Call the handlers of what is in hand, and write nothing yet."""
        one = self.engine(engine)
        if self.bereaved and not self.hands[engine]:
            # all that there is: what the dead had in hand is among it
            self.hands[engine] += one.claim(10)
        hand = self.hands[engine]
        hand[:] = [one.call(work) if isinstance(work, Work) else work for work in hand]

    def do_write(self, engine: str) -> None:
        """Write what became of what is in hand."""
        one = self.engine(engine)
        hand, self.hands[engine] = self.hands[engine], []
        assert self.bereaved or hand
        one.write(*(one.call(work) if isinstance(work, Work) else work for work in hand))

    def do_run(self, until: str, *, engine: str = "one", width: int | None = None) -> None:
        """Do nodes until none is ready.

        :param width: hold so many at a time, and claim in the transaction that writes.
        """
        one = self.engine(engine)
        if width is None:
            one.run()
            return
        works: list[Work] = []
        while works := one.core.turn([one.call(work) for work in works], width):
            self.clock.advance(0.001)

    def do_renew(self, engine: str) -> None:
        """Renew the lease. One that has run out is the end of the engine."""
        if not self.engine(engine).renew():
            assert self.bereaved
            self.bury()

    def do_reconcile(self, engine: str) -> None:
        """The reply to a claim was lost: let go of what is held in the database only."""
        one = self.engine(engine)
        self.hands[engine] = []
        one.core.reconcile([])

    def do_leave(self, engine: str) -> None:
        """Stop, and hand back what is in hand."""
        one = self.engine(engine)
        self.store.database.transact(
            lambda tx: recover.leave(tx, one.id, one.core.mark),
            Commit.LEAVE,
            happened=repeatable,
        )
        self.bury()

    def do_sweep(self, engine: str) -> None:
        """One round of recovery."""
        self.engine(engine)
        recover.sweep(self.store.database)

    def do_forget(self, engine: str) -> None:
        """Delete the rows of engines that ended long ago."""
        self.engine(engine)
        self.store.database.transact(engines.delete_old_engines, Commit.FORGET)

    def do_prune(self, engine: str) -> None:
        """Delete what is old of stacks."""
        self.engine(engine)
        self.store.prune(older_than=0.0, keep=1)

    # -- what befalls them

    def do_die(self, engine: str, *, seen: bool = False) -> None:
        """An engine dies, in every run of the story.

        :param seen: its process can be seen to be gone, on its host.
        """
        one = self.engine(engine)
        if seen:
            self._edit(
                update(schema.engine)
                .where(schema.engine.c.id == one.id)
                .values(process=gone_identity())
            )
        self.bury()

    def do_strand(self, engine: str) -> None:
        """An engine is noted as dead, but what it held is not released."""
        one = self.engine(engine)
        row = schema.engine
        self._edit(update(row).where(row.c.id == one.id).values(state=engines.DEAD))
        self.bury()

    def do_lose_wake(self, _: None) -> None:
        """What is ready waits for locks that nobody has."""
        node = schema.sync_point
        blocked = {"state": NodeState.BLOCKED, "ready_at": None}
        self._edit(update(node).where(node.c.state == NodeState.READY).values(blocked))

    def do_oversleep(self, _: None) -> None:
        """Whoever waits for a nested stack does not hear of its end."""
        node = schema.sync_point
        waits = update(node).where(
            node.c.waiting_since.is_not(None), node.c.state == NodeState.READY
        )
        self._edit(waits.values(due_at=self.clock.seconds + FOREVER_INNER))

    def do_leave_over(self, _: None) -> None:
        """A traversal that is over has a sync point."""
        row = schema.traversal
        with self.store.database.engine.begin() as connection:
            over = connection.execute(select(row.c.id).order_by(row.c.id).limit(1)).scalar_one()
            values = {"traversal_id": over, "node": 99, "kind": "update", "keep": False}
            values |= {"state": NodeState.WAITING, "pending": 1, "tainted": False, "attempts": 0}
            values |= {"deaths": 0, "epoch": 0, "requires": [], "successors": []}
            connection.execute(insert(schema.sync_point).values(values))

    def _edit(self, statement: Any) -> None:
        # not by a transaction of converge's, which would have crash points
        with self.store.database.engine.begin() as connection:
            connection.execute(statement)

    def do_fail(self, calls: dict[str, int]) -> None:
        """Let the next so many of these calls fail."""
        self.world.write(fail=calls)

    def do_hand(self, things: dict[str, dict[str, Any] | None]) -> None:
        """Somebody changes these things, and removes others, behind converge's back."""
        self.world.write(hand=things)

    def do_advance(self, seconds: float) -> None:
        """Time passes, and those who live renew their leases."""
        while seconds > 0:
            self.clock.advance(min(SLICE, seconds))
            seconds -= SLICE
            self.world.write(note={**self.world.note, "now": self.clock.seconds})
            for name in list(self.engines):
                self.do_renew(name)

    def do_leap(self, seconds: float) -> None:
        """Time passes while there is no engine."""
        assert not self.engines
        self.clock.advance(seconds)

    # -- what must be so

    def do_expect(self, state: str) -> None:
        """The action and status of the stack; after a death its traversal may take longer."""
        if self.bereaved:
            self.settle()
        stack = self.store.stack(NAME)
        assert f"{stack.action} {stack.status}" == state, stack.reason


def make_orders(store: converge.Store) -> None:
    """Make the host's table, or empty it."""
    with store.database.engine.begin() as connection:
        ORDERS.create(connection, checkfirst=True)
        connection.execute(delete(ORDERS))


def _template(name: str) -> converge.Template:
    resources = {key: {"type": "fake", **value} for key, value in TEMPLATES[name].items()}
    return converge.Template.parse(json.dumps({"resources": resources}), name)
