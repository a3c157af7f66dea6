"""What only the journal in Redis has: its lease, its URL, and calls that are made twice."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from converge.errors import BadInput, Busy, StaleLock, StoreError
from converge.journal import Journal, Record
from converge.journal.backend import StepStatus
from converge.journal.redis import RedisBackend, _identity
from converge.process import process_identity
from tests import backends

LEASE = 3600.0


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.redis)])
def url(request: pytest.FixtureRequest, _databases: dict[str, backends.Backend]) -> str:
    return _databases[request.param].empty()


@pytest.fixture
def backend(url: str) -> Iterator[RedisBackend]:
    one = RedisBackend.open(url, LEASE)
    yield one
    one.close()


class Pauses:
    """Stands for the event that ends the thread: so often it is waited for in vain."""

    over: Any = None

    def __init__(self, *between: Any) -> None:
        self._between = list(between)
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> bool:
        """Do what is to happen next, instead of waiting."""
        self.seconds.append(seconds)
        if not self._between:
            return True
        self._between.pop(0)()
        return False

    def is_set(self) -> bool:
        """Nothing but the waiting ends it."""
        return False

    def set(self) -> None:
        """The lease is lost: the next wait is the last."""
        self._between.clear()


def keep(backend: RedisBackend, pauses: Pauses) -> None:
    """Renew the lease, in this thread."""
    lease = backend.owner.current_lease()
    pauses.over, lease._over = lease._over, pauses  # type: ignore[assignment]
    lease.keep(partial(backend.owner._after, lease))
    lease._over = pauses.over


def test_the_lease_is_renewed_at_a_third(backend: RedisBackend) -> None:
    owner = backend.owner.current_id()
    client, key = backend._client, f"{backend._prefix}owner:{owner}"
    pauses = Pauses(lambda: client.pexpire(key, 1_000_000))
    keep(backend, pauses)
    assert pauses.seconds == [LEASE / 3] * 2
    assert client.pttl(key) > 3_500_000
    assert backend.owner.current_id() == owner


def test_who_lost_the_lease_goes_on_under_another_number(backend: RedisBackend) -> None:
    lock = backend.take("job").lock
    client, key = backend._client, f"{backend._prefix}owner:{lock.owner}"
    keep(backend, Pauses(lambda: client.delete(key)))
    assert backend.owner.current_id() != lock.owner
    again = backend.take("job").lock
    with pytest.raises(StaleLock):
        backend.write(lock, Record("a", 1))
    backend.write(again, Record("a", 1))


def test_a_call_whose_answer_was_lost_is_made_again(backend: RedisBackend) -> None:
    lease = backend.owner.current_lease()
    owner, identity = lease.id, _identity(lease)
    first = backend._call("take", "job", owner, "mark", identity)
    again = backend._call("take", "job", owner, "mark", identity)
    assert (first[0], first[1]) == (again[0], again[1]) == ("taken", "1")
    assert backend._call("take", "job", owner, "another mark", identity)[0] == "busy"
    lock = ("job", owner, "1", "mark")
    record = ("each", "null", 1, 1, "OPEN", 1, 0.0, 0)
    assert [backend._call("write", *lock, *record) for _ in range(2)] == [1, 1]
    assert [backend._call("advance", *lock, "each", 5, "[5]", "mark") for _ in range(2)] == [1, 1]
    assert backend._call("advance", *lock, "each", 5, "[6]", "another mark") == 0
    (found,) = backend.show("job")[1]
    assert replace(found, at=0.0) == Record(
        "each", 1, status=StepStatus.OPEN, value="[5]", position=5
    )


def test_the_scope_of_a_process_that_is_gone_is_free_at_once(
    backend: RedisBackend, url: str
) -> None:
    child = os.fork()
    if child == 0:
        try:
            RedisBackend.open(url, LEASE).take("job")
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert backend.show("job")[0].owner is not None
    assert backend.take("job").lock.epoch == 2


def test_each_prefix_is_another_journal(url: str) -> None:
    other = f"{url}_other"
    with Journal(url) as journal, journal.scope("job") as scope:
        scope.step("a", int)
        with Journal(other) as second:
            assert second.scopes() == []
    with Journal(url) as journal:
        assert [info.name for info in journal.scopes()] == ["job"]
        key = f"{journal.backend._prefix}owner:1"  # type: ignore[attr-defined]
        assert journal.backend._client.exists(key) == 0  # type: ignore[attr-defined]


def test_an_owner_is_a_process(backend: RedisBackend) -> None:
    lease = backend.owner.current_lease()
    key = f"{backend._prefix}owner:{lease.id}"
    assert backend._client.get(key) == f"{process_identity()} {lease.mark}"


def owner_of(backend: RedisBackend, scope: str) -> str | None:
    owner: str | None = backend._client.hget(f"{backend._prefix}scope:{scope}", "owner")
    return owner


def test_scopes_that_their_holder_does_not_know_are_let_go_of(
    backend: RedisBackend, url: str
) -> None:
    """Left by a server that has forgotten that they were released; those that it knows are kept."""
    kept, lock = (backend.take(name).lock for name in ("kept", "job"))
    backend.write(lock, Record("a", 1))
    backend.release(replace(lock, mark=lock.mark + 1), finished=True)
    assert owner_of(backend, "job") is not None
    backend._own_marks.discard(lock.mark)
    with closing(RedisBackend.open(url, LEASE)) as other, pytest.raises(Busy):
        other.take("job")
    keep(backend, Pauses(lambda: None))
    assert (owner_of(backend, "job"), owner_of(backend, "kept")) == (None, str(kept.owner))
    assert backend.show("job")[0].finished is None
    backend.release(kept, finished=True)
    assert not backend._own_marks
    with pytest.raises(StaleLock):
        backend.write(lock, Record("b", 2))
    assert [one.name for one in backend.take("job").records] == ["a"]


def test_what_belongs_to_a_forgotten_scope_is_not_written_to_one_with_its_numbers(
    backend: RedisBackend,
) -> None:
    lock = backend.take("job").lock
    backend.write(lock, Record("each", 1, status=StepStatus.OPEN))
    backend._client.hset(f"{backend._prefix}scope:job", "mark", "1")
    with pytest.raises(StaleLock):
        backend.write(lock, Record("a", 2))
    with pytest.raises(StaleLock):
        backend.advance(lock, "each", 1, "null")
    backend.release(lock, finished=True)
    assert owner_of(backend, "job") is not None


def test_an_owner_whose_number_is_another_ones_takes_and_lets_go_of_nothing(
    backend: RedisBackend,
) -> None:
    lock = backend.take("job").lock
    lease = backend.owner.current_lease()
    key = f"{backend._prefix}owner:{lease.id}"
    # another journal of this process
    backend._client.set(key, f"{process_identity()} 1")
    backend._own_marks.clear()
    backend.reconcile(lease)
    assert owner_of(backend, "job") == str(lock.owner)
    assert backend.take("another").lock.owner != lock.owner
    assert not lease.leases.prolong(lease.id, lease.mark)
    lease.leases.leave(lease.id, lease.mark)
    assert backend._client.get(key) == f"{process_identity()} 1"


def test_a_server_that_is_not_there_is_named_so() -> None:
    with pytest.raises(StoreError, match="the Redis server cannot be reached"):
        Journal("redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("redis://127.0.0.1:6379/0?prefix={a}", "must not be empty or contain braces"),
        ("redis://127.0.0.1:port/0", "not the URL of a Redis"),
    ],
)
def test_a_wrong_url_is_named(address: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Journal(address)


def test_without_its_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(BadInput, match="type: pip install redis"):
        Journal("redis://127.0.0.1")
