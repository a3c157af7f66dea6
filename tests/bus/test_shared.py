"""The threads between those who commit, a carrier, and those who are told."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Iterator

import pytest

from converge.bus import shared
from converge.bus.hint import ANY, LOOK, Hint, decode, encode
from converge.bus.shared import SharedBus
from tests.bus.ether import GARBAGE, Ether
from tests.waiting import WAIT, until

READY = Hint(ready=ANY)


@pytest.fixture
def ether() -> Ether:
    return Ether()


@pytest.fixture
def buses(ether: Ether) -> Iterator[list[SharedBus]]:
    """Two processes."""
    made = [ether.bus(), ether.bus()]
    yield made
    ether.open.set()
    for bus in made:
        bus.close()


class Ear:
    """A listener that a test waits for."""

    def __init__(self, bus: SharedBus) -> None:
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()
        bus.add_listener(lambda hint: self._calls.put(None))
        # whoever begins to receive may have missed something
        self.await_call()

    def await_call(self) -> None:
        self._calls.get(timeout=WAIT)

    @property
    def is_silent(self) -> bool:
        return self._calls.empty()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(shared, "MOST_WAIT", 0.001)


def test_a_commit_is_told_of_here_and_in_the_other_process(buses: list[SharedBus]) -> None:
    ears = [Ear(bus) for bus in buses]
    buses[0].committed(READY)
    for ear in ears:
        ear.await_call()


def test_nobody_hears_its_own_messages(ether: Ether, buses: list[SharedBus]) -> None:
    ears = [Ear(bus) for bus in buses]
    buses[0].committed(READY)
    ears[1].await_call()
    ears[0].await_call()
    assert ears[0].is_silent
    assert len(ether.sent) == 1


def test_what_is_nothing_to_an_engine_does_not_wake_it(
    ether: Ether, buses: list[SharedBus]
) -> None:
    ears = [Ear(bus) for bus in buses]
    with buses[1].watching(5) as ends, buses[1].watching(5, events=True) as events:
        buses[0].committed(Hint(changed=frozenset({5})))
        assert events.news.wait(WAIT)
        assert not ends.news.is_set()
        buses[0].committed(Hint(ended=frozenset({6})))
        buses[0].committed(Hint(ended=frozenset({5})))
        assert ends.news.wait(WAIT)
    assert all(ear.is_silent for ear in ears)


def test_hints_of_many_commits_travel_together(ether: Ether, buses: list[SharedBus]) -> None:
    ether.open.clear()
    buses[0].committed(READY)
    for number in range(1, 1001):
        # none of these waits for the message that is on its way
        buses[0].committed(Hint(changed=frozenset({number})))
    ether.open.set()
    until(lambda: len(ether.sent) == 2 or any("any" in text for text in ether.sent))
    buses[0].close()
    assert len(ether.sent) <= 2
    merged = Hint()
    for text in ether.sent:
        merged |= decode(text)[1]
    assert merged == Hint(ready=ANY, changed=ANY)


def test_an_outage_is_said_once_and_what_was_to_be_sent_is_sent_after_it(
    ether: Ether, buses: list[SharedBus], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    ear = Ear(buses[1])
    ether.down = True
    buses[0].committed(READY)
    until(lambda: bool(caplog.records))
    for number in range(1, 51):
        buses[0].committed(Hint(ended=frozenset({number})))
    assert not buses[0].is_connected
    ether.down = False
    ear.await_call()
    until(lambda: len(caplog.records) == 2)
    assert [record.getMessage() for record in caplog.records] == [
        "the bus ether:// does not work: the ether is gone; until it does, engines find work by "
        "polling",
        "the bus ether:// works again",
    ]


def test_who_lost_the_connection_looks_when_it_is_back(
    ether: Ether, buses: list[SharedBus], caplog: pytest.LogCaptureFixture
) -> None:
    ear = Ear(buses[0])
    assert buses[0].is_connected
    with buses[0].watching(9) as watch:
        ether.carriers[0].fail()
        ear.await_call()
        assert watch.news.wait(WAIT)
    until(lambda: buses[0].is_connected)
    assert sum("does not work" in record.getMessage() for record in caplog.records) == 1


def test_what_is_no_message_is_ignored(ether: Ether, buses: list[SharedBus]) -> None:
    ear = Ear(buses[0])
    for garbage in GARBAGE[:6]:
        ether.carriers[0].hear(garbage)
    assert ear.is_silent
    ether.carriers[0].hear(encode(READY, "another"))
    ear.await_call()


def test_closing_sends_what_is_left(ether: Ether, buses: list[SharedBus]) -> None:
    buses[0].committed(READY)
    buses[0].committed(Hint(ended=frozenset({3})))
    buses[0].close()
    merged = Hint()
    for text in ether.sent:
        merged |= decode(text)[1]
    assert merged == Hint(ready=ANY, ended=frozenset({3}))


def test_closing_does_not_wait_for_a_carrier_that_is_down(
    ether: Ether, buses: list[SharedBus], caplog: pytest.LogCaptureFixture
) -> None:
    ether.down = True
    buses[0].committed(READY)
    until(lambda: bool(caplog.records))
    buses[0].close()
    assert ether.sent == []


def test_a_closed_bus_can_be_used_again(ether: Ether, buses: list[SharedBus]) -> None:
    ear = Ear(buses[1])
    for _ in range(2):
        buses[0].committed(READY)
        ear.await_call()
        buses[0].close()


def test_no_thread_is_left(ether: Ether) -> None:
    before = set(threading.enumerate())
    bus = ether.bus()
    Ear(bus)
    bus.committed(LOOK)
    bus.close()
    assert set(threading.enumerate()) <= before


def test_a_forked_process_sends_by_itself(ether: Ether, buses: list[SharedBus]) -> None:
    Ear(buses[0])
    buses[0].committed(READY)
    until(lambda: len(ether.sent) == 1)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            # the parent's threads are not here
            buses[0].committed(LOOK)
            buses[0].close()
            os.write(writing, ether.sent[-1].encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    (parent, _), (child, hint) = decode(ether.sent[0]), decode(text)
    assert hint == LOOK
    assert child != parent
