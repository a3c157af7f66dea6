"""What only the journal in Redis has: its lease, its URL, and calls that are made twice."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from converge.errors import BadInput, StaleLock, StoreError
from converge.journal import Journal, Record
from converge.journal.backend import StepStatus
from converge.journal.redis import RedisBackend
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
    lease.keep()
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
    hold = backend.take("job").hold
    client, key = backend._client, f"{backend._prefix}owner:{hold.owner}"
    keep(backend, Pauses(lambda: client.delete(key)))
    assert backend.owner.current_id() != hold.owner
    again = backend.take("job").hold
    with pytest.raises(StaleLock):
        backend.write(hold, Record("a", 1))
    backend.write(again, Record("a", 1))


def test_a_call_whose_answer_was_lost_is_made_again(backend: RedisBackend) -> None:
    owner = backend.owner.current_id()
    first = backend._call("take", "job", owner, "mark")
    again = backend._call("take", "job", owner, "mark")
    assert (first[0], first[1]) == (again[0], again[1]) == ("taken", "1")
    assert backend._call("take", "job", owner, "another mark")[0] == "busy"
    hold = ("job", owner, "1")
    record = ("each", "null", 1, 1, "OPEN", 1, 0.0, 0)
    assert [backend._call("write", *hold, *record) for _ in range(2)] == [1, 1]
    assert [backend._call("advance", *hold, "each", 5, "mark") for _ in range(2)] == [1, 1]
    assert backend._call("advance", *hold, "each", 5, "another mark") == 0
    (found,) = backend.show("job")[1]
    assert replace(found, at=0.0) == Record("each", 1, status=StepStatus.OPEN, position=5)


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
    assert backend.take("job").hold.epoch == 2


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
    key = f"{backend._prefix}owner:{backend.owner.current_id()}"
    assert backend._client.get(key) == process_identity()


def test_a_server_that_is_not_there_is_named_so() -> None:
    with pytest.raises(StoreError, match="the Redis server cannot be reached"):
        Journal("redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("redis://127.0.0.1:6379/0?prefix={a}", "must not be empty, nor have braces"),
        ("redis://127.0.0.1:port/0", "not the URL of a Redis"),
    ],
)
def test_a_wrong_url_is_named(address: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Journal(address)


def test_without_its_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(BadInput, match=r"install converge\[redis\]"):
        Journal("redis://127.0.0.1")
