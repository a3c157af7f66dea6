"""What a journal needs of its backend, of every one of them. With the docstrings of
:class:`converge.journal.Backend` this is their specification."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from converge.errors import BadInput, Busy, NotFound, StaleLock
from converge.journal import Backend, Record, ScopeInfo
from converge.journal.backend import ScopeLock, StepStatus
from converge.journal.values import LENGTH
from tests.journal.places import Place

OPEN = Record("each", 1, status=StepStatus.OPEN)


def plain(records: list[Record]) -> list[Record]:
    """Without what tells the time."""
    return [replace(one, at=0.0, wait=0.0) for one in records]


def finish(backend: Backend, *names: str) -> None:
    for name in names:
        backend.release(backend.take(name).lock, finished=True)


def names(backend: Backend, **limits: Any) -> list[str]:
    return [one.name for one in backend.list_scopes(**limits)]


# -- taking ------------------------------------------------------------------


def test_a_new_scope_is_empty_and_held(anywhere: Place) -> None:
    backend = anywhere.backend()
    taken = backend.take("job")
    assert (taken.records, taken.finished) == ([], False)
    info, records = backend.show("job")
    assert (info.name, info.steps, info.finished, records) == ("job", 0, None, [])
    assert info.owner is not None


def test_a_held_scope_is_busy_for_all_also_for_its_holder(anywhere: Place) -> None:
    first, second = anywhere.backend(), anywhere.backend()
    first.take("job")
    for backend in (first, second):
        with pytest.raises(Busy, match="'job' is being worked on"):
            backend.take("job")
    second.take("another job")


def test_a_scope_that_was_let_go_can_be_taken_by_anybody(anywhere: Place) -> None:
    first, second = anywhere.backend(), anywhere.backend()
    for backend in (first, first, second, first):
        lock = backend.take("job").lock
        backend.release(lock, finished=False)
    assert first.show("job")[0].owner is None


def test_epochs_grow_with_every_taking(anywhere: Place) -> None:
    first, second = anywhere.backend(), anywhere.backend()
    epochs = []
    for backend in (first, second, second):
        lock = backend.take("job").lock
        epochs.append(lock.epoch)
        backend.release(lock, finished=False)
    anywhere.kill(second)
    second.take("job")
    anywhere.kill(second)
    epochs.append(first.take("job").lock.epoch)
    assert epochs == sorted(set(epochs))


def test_a_scope_whose_owners_lease_ended_is_taken_over(anywhere: Place) -> None:
    lost, taker = anywhere.backend(), anywhere.backend()
    lock = lost.take("job").lock
    lost.write(lock, Record("a", 1))
    anywhere.kill(lost)
    assert taker.show("job")[0].owner is None
    taken = taker.take("job")
    assert plain(taken.records) == [Record("a", 1)]
    assert taken.lock != lock


def test_nothing_is_taken_under_a_lease_that_has_ended(anywhere: Place) -> None:
    """As by a process that was suspended, and has not noticed: others would take it at once."""
    late, other = anywhere.backend(), anywhere.backend()
    old = late.take("before").lock
    anywhere.kill(late)
    late.take("job")
    with pytest.raises(Busy):
        other.take("job")
    assert other.take("before").lock.owner != old.owner
    with pytest.raises(StaleLock):
        late.write(old, Record("a", 1))


def test_the_scopes_of_an_owner_that_closed_are_free_at_once(anywhere: Place) -> None:
    first, second = anywhere.backend(), anywhere.backend()
    first.take("job")
    first.close()
    second.take("job")


def test_of_many_takers_at_once_one_wins(anywhere: Place) -> None:
    crowd = [anywhere.backend() for _ in range(6)]
    for backend in crowd:
        finish(backend, "to be ready")
    for name in ("new", "old"):
        if name == "old":
            finish(crowd[0], name)
        assert sorted(take_at_once(crowd, name)) == ["Busy"] * (len(crowd) - 1) + ["taken"]


def take_at_once(crowd: Sequence[Backend], name: str) -> list[str]:
    """What each of several is told that takes a scope in a thread of its own."""
    start = threading.Barrier(len(crowd))
    told: list[str] = []

    def take(backend: Backend) -> None:
        start.wait(60)
        try:
            backend.take(name)
        except Exception as error:
            told.append(type(error).__name__)
        else:
            told.append("taken")

    threads = [threading.Thread(target=take, args=(backend,)) for backend in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_a_taken_scope_tells_whether_it_was_finished(anywhere: Place) -> None:
    backend = anywhere.backend()
    seen = []
    for finished in (False, True, True, False, False):
        taken = backend.take("job")
        seen.append(taken.finished)
        backend.release(taken.lock, finished=finished)
    assert seen == [False, False, True, True, False]


# -- writing -----------------------------------------------------------------


def test_records_come_back_as_they_were_by_number(anywhere: Place) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    records = [
        Record("z", 1, version=2, value='{"a":"\\u2603\\u0000"}', attempts=3),
        Record("a", 2, status=StepStatus.FAILED, value='{"type":"E","message":"m"}'),
        Record("each", 3, status=StepStatus.END, position=10**9),
        Record("nested/jöb/x", 4, value="[" + "1," * 1000 + "1]"),
        Record("Z", 5),
        *(Record(f"{number}", number) for number in range(6, 13)),
    ]
    for record in reversed(records):
        backend.write(lock, record)
    assert plain(backend.show("job")[1]) == records
    backend.release(lock, finished=False)
    assert plain(backend.take("job").records) == records
    assert backend.show("job")[0].steps == len(records)


def test_records_tell_when_they_were_written_and_how_long_a_retry_waits(
    anywhere: Place,
) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    backend.write(lock, Record("a", 1))
    anywhere.pass_time(10)
    backend.write(lock, Record("b", 2, status=StepStatus.RETRY, wait=30.0))
    backend.write(lock, Record("c", 3, status=StepStatus.RETRY, wait=5.0))
    anywhere.pass_time(10)
    for records in (backend.show("job")[1], retaken(backend, lock)):
        a, b, c = records
        assert b.at - a.at == pytest.approx(10, abs=2)
        assert (a.wait, c.wait) == (0, 0)
        assert b.wait == pytest.approx(20, abs=2)


def retaken(backend: Backend, lock: ScopeLock) -> list[Record]:
    backend.release(lock, finished=False)
    return backend.take(str(lock.scope) if isinstance(lock.scope, str) else "job").records


def test_a_record_takes_the_place_of_another(anywhere: Place) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    backend.write(lock, Record("a", 1, status=StepStatus.RETRY, attempts=1, wait=60.0))
    backend.write(lock, Record("b", 2))
    last = Record("a", 1, version=4, value="[1]", attempts=2)
    backend.write(lock, last, replaces=True)
    found = backend.show("job")[1]
    assert plain(found) == [last, Record("b", 2)]
    assert found[0].wait == 0


def test_the_longest_value_is_kept(anywhere: Place) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    record = Record("a", 1, value='"' + "x" * (LENGTH - 2) + '"')
    backend.write(lock, record)
    assert plain(backend.show("job")[1]) == [record]


def test_an_each_advances_and_never_goes_back(anywhere: Place) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    backend.write(lock, OPEN)
    for position in (1, 2, 1000):
        backend.advance(lock, "each", position, f"[{position}]")
    for position in (1000, 999, 0):
        with pytest.raises(StaleLock):
            backend.advance(lock, "each", position, "null")
    assert plain(backend.show("job")[1]) == [replace(OPEN, position=1000, value="[1000]")]


def test_only_an_open_each_advances(anywhere: Place) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    backend.write(lock, Record("each", 1, status=StepStatus.END, position=3))
    for name in ("each", "there is none"):
        with pytest.raises(StaleLock):
            backend.advance(lock, name, 4, "null")
    assert backend.show("job")[1][0].position == 3


def test_a_lost_lock_is_refused_whatever_it_wants(anywhere: Place) -> None:
    lost, taker = anywhere.backend(), anywhere.backend()
    old = lost.take("job").lock
    lost.write(old, OPEN)
    anywhere.kill(lost)
    new = taker.take("job").lock
    with pytest.raises(StaleLock):
        lost.write(old, Record("a", 2))
    with pytest.raises(StaleLock):
        lost.write(old, replace(OPEN, status=StepStatus.END), replaces=True)
    with pytest.raises(StaleLock):
        lost.advance(old, "each", 1, "null")
    lost.release(old, finished=True)
    assert plain(taker.show("job")[1]) == [OPEN]
    assert taker.show("job")[0].finished is None
    taker.advance(new, "each", 1, "null")
    taker.release(new, finished=False)
    # free again, and yet not the loser's
    with pytest.raises(StaleLock):
        lost.advance(old, "each", 2, "null")


def test_a_lost_lock_is_refused_also_by_the_databases_own_clock(real: Place) -> None:
    lost, taker = real.backend(), real.backend()
    old = lost.take("job").lock
    lost.write(old, OPEN)
    lost.write(old, Record("a%s", 2, status=StepStatus.RETRY, wait=60.0))
    lost.advance(old, "each", 1, "null")
    with pytest.raises(StaleLock):
        lost.advance(old, "each", 1, "null")
    real.kill(lost)
    new = taker.take("job").lock
    with pytest.raises(StaleLock):
        lost.write(old, Record("b", 3))
    with pytest.raises(StaleLock):
        lost.advance(old, "each", 2, "null")
    taker.write(new, Record("c", 3, value='"100 % é ?"'.encode("ascii", "replace").decode()))
    found = taker.show("job")[1]
    assert [(one.name, one.position) for one in found] == [("each", 1), ("a%s", 0), ("c", 0)]
    assert (found[2].value, found[0].wait) == ('"100 % ? ?"', 0)
    assert 50 < found[1].wait <= 60


def test_a_hold_that_was_let_go_is_no_hold(anywhere: Place) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    backend.write(lock, OPEN)
    backend.release(lock, finished=False)
    with pytest.raises(StaleLock):
        backend.write(lock, Record("a", 2))
    again = backend.take("job").lock
    with pytest.raises(StaleLock):
        backend.advance(lock, "each", 1, "null")
    backend.release(lock, finished=True)
    backend.advance(again, "each", 1, "null")


def test_a_hold_on_what_was_forgotten_is_refused(anywhere: Place) -> None:
    lost, other = anywhere.backend(), anywhere.backend()
    old = lost.take("job").lock
    anywhere.kill(lost)
    other.forget("job")
    with pytest.raises(StaleLock):
        lost.write(old, Record("a", 1))
    lock = other.take("job").lock
    with pytest.raises(StaleLock):
        lost.write(old, Record("a", 1))
    lost.release(old, finished=True)
    other.write(lock, Record("b", 1))
    assert plain(other.show("job")[1]) == [Record("b", 1)]


def test_what_is_no_transaction_is_refused(anywhere: Place) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    backend.write(lock, OPEN)
    with pytest.raises(BadInput, match="transaction"):
        backend.write(lock, Record("a", 2), object())
    with pytest.raises(BadInput, match="transaction"):
        backend.advance(lock, "each", 1, "null", object())
    assert plain(backend.show("job")[1]) == [OPEN]


def test_keys_of_items_are_kept_and_are_no_steps(anywhere: Place) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    keys = Record("keys\nabc\n1", 1, status=StepStatus.KEYS, value='"k"')
    backend.write(lock, OPEN)
    for value in ('"a"', '"k"'):
        backend.write(lock, replace(keys, value=value), replaces=value == '"k"')
    assert plain(backend.show("job")[1]) == [OPEN, keys]
    assert (backend.show("job")[0].steps, backend.list_scopes()[0].steps) == (1, 1)
    backend.release(lock, finished=False)
    assert plain(backend.take("job").records) == [OPEN, keys]
    anywhere.kill(backend)
    assert backend.forget("job") == 1
    assert backend.take("job").records == []


# -- looking -----------------------------------------------------------------


def test_scopes_are_listed_by_name_in_parts(anywhere: Place) -> None:
    backend = anywhere.backend()
    assert backend.list_scopes() == []
    wanted = ["a", "a 1", "b/c", "job-10", "job-9", "x"]
    finish(backend, *reversed(wanted))
    assert names(backend) == wanted
    assert names(backend, limit=2) == wanted[:2]
    assert names(backend, after="a 1", limit=3) == wanted[2:5]
    assert names(backend, after="bb") == wanted[3:]
    assert names(backend, after="x") == []


def test_a_listed_scope_is_as_it_is_shown(anywhere: Place) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    anywhere.pass_time(10)
    backend.write(lock, Record("a", 1))
    held = backend.show("job")[0]
    assert (held.steps, held.owner is None, held.finished) == (1, False, None)
    anywhere.pass_time(10)
    backend.release(lock, finished=True)
    info = backend.show("job")[0]
    assert backend.list_scopes() == [info]
    assert (info.steps, info.owner) == (1, None)
    assert info.finished is not None
    assert info.finished - info.created == pytest.approx(20, abs=2)
    assert info.updated >= info.finished
    assert isinstance(info, ScopeInfo)


def test_what_is_not_there_is_not_found(anywhere: Place) -> None:
    backend = anywhere.backend()
    for look in (backend.show, backend.forget):
        with pytest.raises(NotFound, match="'job'"):
            look("job")


# -- forgetting --------------------------------------------------------------


def test_a_forgotten_scope_is_gone_with_its_records(anywhere: Place) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    backend.write(lock, Record("a", 1))
    with pytest.raises(Busy):
        backend.forget("job")
    backend.release(lock, finished=True)
    backend.forget("job")
    assert names(backend) == []
    assert backend.take("job").records == []


def test_of_a_scope_the_failed_steps_alone_can_be_forgotten(anywhere: Place) -> None:
    backend = anywhere.backend()
    lock = backend.take("job").lock
    statuses = [StepStatus.DONE, StepStatus.FAILED, StepStatus.RETRY, StepStatus.CAUGHT]
    for number, status in enumerate([*statuses, StepStatus.OPEN], start=1):
        backend.write(lock, Record(f"step {number}", number, status=status, value='"FAILED"'))
    with pytest.raises(Busy):
        backend.forget("job", failed=True)
    backend.release(lock, finished=False)
    assert backend.forget("job", failed=True) == 2
    assert [one.name for one in backend.show("job")[1]] == ["step 1", "step 3", "step 5"]
    assert backend.forget("job", failed=True) == 0
    assert backend.forget("job") == 3


def test_a_scope_of_the_dead_can_be_forgotten(anywhere: Place) -> None:
    lost, other = anywhere.backend(), anywhere.backend()
    lost.take("job")
    anywhere.kill(lost)
    other.forget("job")
    assert names(other) == []


@pytest.fixture
def aged(anywhere: Place) -> Backend:
    """Scopes that finished 40, 30, 20 and 10 seconds ago; one that did not, one held again."""
    backend = anywhere.backend()
    for name in ("d", "c", "b", "a"):
        lock = backend.take(name).lock
        backend.write(lock, Record("step", 1))
        backend.release(lock, finished=True)
        anywhere.pass_time(10)
    backend.release(backend.take("unfinished").lock, finished=False)
    finish(backend, "held")
    backend.take("held")
    anywhere.pass_time(100)
    return backend  # type: ignore[no-any-return]


ALWAYS = ["held", "unfinished"]


@pytest.mark.parametrize(
    ("age", "keep", "left"),
    [
        (1000.0, None, ["a", "b", "c", "d"]),
        (125.0, None, ["a", "b"]),
        (0.0, None, []),
        (None, 9, ["a", "b", "c", "d"]),
        (None, 3, ["a", "b", "c"]),
        (None, 0, []),
        (125.0, 3, ["a", "b", "c"]),
        (125.0, 1, ["a", "b"]),
    ],
)
def test_finished_scopes_are_pruned_by_age_and_number(
    aged: Backend, age: float | None, keep: int | None, left: list[str]
) -> None:
    assert aged.prune(age=age, keep=keep, limit=100) == 4 - len(left)
    assert names(aged) == sorted(left + ALWAYS)
    assert aged.prune(age=age, keep=keep, limit=100) == 0


def test_a_prune_deletes_a_limited_number_oldest_first(aged: Backend) -> None:
    assert aged.prune(age=0.0, keep=None, limit=3) == 3
    assert names(aged) == sorted(["a", *ALWAYS])
    assert aged.prune(age=0.0, keep=None, limit=3) == 1


def test_a_scope_that_is_no_longer_finished_is_not_pruned(anywhere: Place) -> None:
    backend = anywhere.backend()
    finish(backend, "job")
    backend.release(backend.take("job").lock, finished=False)
    anywhere.pass_time(10)
    assert backend.prune(age=0.0, keep=None, limit=10) == 0
    finish(backend, "job")
    anywhere.pass_time(10)
    assert backend.prune(age=5.0, keep=None, limit=10) == 1


def test_a_pruned_scope_leaves_no_records(aged: Backend) -> None:
    aged.prune(age=0.0, keep=None, limit=10)
    assert aged.take("a").records == []


def test_a_closed_backend_can_be_closed_again(anywhere: Place) -> None:
    backend = anywhere.backend()
    backend.take("job")
    backend.close()
    backend.close()
