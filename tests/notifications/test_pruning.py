"""What notifications leave goes when it is old, and nothing counts a second time for that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

import converge
from converge import Store, crash_points
from converge.cli import main
from converge.crash_points import Commit
from converge.pipeline import DeadLetters, Message, PrunedNotifications, prune, pruning, refuse_old
from converge.pipeline.pruning import MARGIN, NotificationPruner
from converge.sql import notifications, schema
from converge.testing import FakeClock
from tests.notifications.samples import message, volume
from tests.notifications.world import NOTE, World, handle, pipeline

DAY = 86_400.0
NOTHING = PrunedNotifications()


def sent(number: int, day: int = 1, **payload: Any) -> Message:
    return message(volume(number, **payload) | {"timestamp": f"2026-11-{day:02}T00:00:00"})


def count(store: Store, table: Any) -> int:
    query = select(func.count()).select_from(table)
    return int(store.database.read(lambda tx: tx.execute(query).scalar_one()))


def counts(store: Store) -> tuple[int, int, int]:
    """Notifications, traits and samples."""
    return (
        count(store, schema.notification),
        count(store, schema.trait),
        count(store, schema.sample),
    )


def stored(*steps: Any) -> Any:
    return pipeline(*steps, kind="meters", publishers=["database"])


def test_what_was_sent_long_ago_goes_with_its_traits_and_samples(
    store: Store, clock: FakeClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BATCH", 2)
    handle(store, stored(), [sent(1), sent(2), sent(3)])
    clock.advance(5 * DAY)
    handle(store, stored(), [sent(4, 6)])
    (all_events, traits, all_samples) = counts(store)
    assert (all_events, all_samples) == (4, 4)
    # not a moment too early
    clock.advance(MARGIN)
    assert prune(store, older_than=5 * DAY, dry_run=True) == NOTHING
    clock.advance(1)
    told = prune(store, older_than=5 * DAY, dry_run=True)
    assert told == PrunedNotifications(3, 3)
    assert counts(store) == (4, traits, 4)
    points: list[str] = []
    monkeypatch.setattr(crash_points, "hook", points.append)
    assert prune(store, older_than=5 * DAY) == told
    # no transaction deletes more than a batch: two of notifications, two of samples, and a look
    assert points.count(Commit.PRUNE_NOTIFICATIONS.after) == 5
    assert counts(store) == (1, traits // 4, 1)
    assert prune(store, older_than=5 * DAY) == NOTHING
    (left,) = store.database.read(lambda tx: notifications.list_events(tx, [], []))
    assert left.message_id == "m-4"


def test_what_is_on_its_way_stays(store: Store, clock: FakeClock, world: World) -> None:
    given = pipeline(NOTE, attempts=1)
    world.fails = {"m-1"}
    handle(store, given, [sent(1), sent(2)])
    clock.advance(9 * DAY)
    assert prune(store, older_than=DAY) == PrunedNotifications(events=1)
    # the dead letter is for a person, however old
    (letter,) = DeadLetters(store).list()
    assert letter.origin == "m-1"
    DeadLetters(store).drop(converge.pipeline.Filter(ids=[letter.id]), limit=1)
    assert prune(store, older_than=DAY) == PrunedNotifications(events=1)
    assert counts(store)[:2] == (0, 0)


def test_what_comes_again_after_it_was_pruned_is_refused(
    store: Store, clock: FakeClock, world: World
) -> None:
    given = pipeline()
    refuse_old(given, 2 * DAY)
    handle(store, given, [sent(1)])
    clock.advance(2 * DAY - 1)
    assert handle(store, given, [sent(1)]).duplicates == 1
    # from here on it is too old, and its row is still there
    clock.advance(2)
    assert handle(store, given, [sent(1)]).refused == 1
    assert prune(store, older_than=2 * DAY) == NOTHING
    clock.advance(MARGIN)
    assert prune(store, older_than=2 * DAY).events == 1
    assert handle(store, given, [sent(1)]).refused == 1
    assert world.names() == ["m-1"]
    assert [one.reason for one in DeadLetters(store).list()] == ["ancient"]
    # a limit that is stricter stays
    refuse_old(given, 9 * DAY)
    assert given.limits.age == 2 * DAY


def test_steps_that_forget_forget_keys_of_which_nothing_came(
    store: Store, clock: FakeClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BATCH", 2)
    sums = stored({"aggregate": {"by": "resource_id", "count": 10}})
    for given in (stored({"rate_of_change": {"grace": 0}}), sums):
        handle(store, given, [sent(number + 10 * (given is sums)) for number in range(5)])
    clock.advance(5 * DAY)
    rates = stored({"rate_of_change": {"grace": 0}})
    # one of them goes on
    handle(store, rates, [sent(20, 6, volume_id="vol-1")])
    assert count(store, schema.step_state) == 10
    assert prune(store, older_than=DAY, pipeline=rates).states == 4
    # a count that is not complete is not lost
    assert count(store, schema.step_state) == 6
    assert prune(store, older_than=DAY, pipeline=sums).states == 0


def test_a_step_is_one_transaction_and_a_round_has_an_end(
    store: Store, clock: FakeClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BATCH", 2)
    monkeypatch.setattr(pruning, "PAUSE", 1e9)
    handle(store, pipeline(), [sent(number) for number in range(3)])
    clock.advance(9 * DAY)
    pruner = NotificationPruner(store.database, DAY)
    points: list[str] = []
    monkeypatch.setattr(crash_points, "hook", points.append)
    assert [pruner.step().events for _ in range(4)] == [2, 1, 0, 0]
    handle(store, pipeline(), [sent(8, 10)])
    clock.advance(9 * DAY)
    points.clear()
    # the next round is later
    assert (pruner.step(), points) == (NOTHING, [])
    pruner._rounds.due = 0.0
    assert pruner.step().events == 1


def test_one_that_is_pruned_while_it_comes_again_is_recorded(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first statement finds it there, and when the second one reads it, it is gone."""
    real, skipped = notifications._INSERT, [True]

    class Skipping:
        def execute(self, tx: Any, rows: Any, **more: Any) -> Any:
            return None if skipped.pop() else real.execute(tx, rows, **more)

    skipped = [False, True]
    monkeypatch.setattr(notifications, "_INSERT", Skipping())
    assert handle(store, pipeline(), [sent(1)]).recorded == 1
    assert (skipped, world.names()) == ([], ["m-1"])


def run(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(words) == status
    out, err = capsys.readouterr()
    return out if status == 0 else err


def test_a_person_prunes_with_a_word_that_names_the_age(
    tmp_path: Path,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"sqlite:///{tmp_path}/n.db"
    with converge.connect(url, create_schema=True) as store:
        handle(store, stored(), [sent(1), sent(2)])
    db = ("--db", url)
    prune_words = ("event-store", "prune", *db, "--older-than", "60")
    assert run(capsys, *prune_words, "--dry-run") == "would prune 2 events, 2 samples\n"
    assert json.loads(run(capsys, *prune_words, "--json")) == {
        "events": 2,
        "samples": 2,
        "dry_run": False,
    }
    assert run(capsys, *prune_words) == "nothing to prune\n"
    told = run(capsys, "event-store", "prune", *db, status=2)
    assert "prune needs --older-than SECONDS" in told
    told = run(capsys, "event-store", "list", "--dry-run", status=2)
    assert "--dry-run is an option of prune" in told
    told = run(capsys, *prune_words, "--limit", "5", status=2)
    assert "--limit is an option of list" in told
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    assert run(capsys, "event-store", "prune", "--older-than", "60") == "nothing to prune\n"
