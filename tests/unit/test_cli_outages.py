"""A database that is away while somebody looks: told once, and waited out."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import pytest

from converge.cli import running
from converge.cli.progress import Reporter
from converge.cli.running import Outages, tolerate_outages
from converge.errors import Conflict, StoreError


class Time:
    """What time it is, for the module that is tested."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept = 0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        self.seconds += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(running, "time", time)
    return time


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def outages(written: io.StringIO, time: Time) -> Outages:
    return Outages(Reporter(written))


def after(times: int, answer: bool) -> Callable[[], bool]:
    """A look that fails some times first."""

    def looks() -> Iterator[bool]:
        yield from (False for _ in range(times))
        while True:
            yield True

    found = looks()

    def look() -> bool:
        if not next(found):
            raise StoreError("the database is away")
        return answer

    return look


def test_a_patient_look_says_no_while_the_database_is_away(
    outages: Outages, written: io.StringIO
) -> None:
    look = tolerate_outages(after(3, True), outages)
    assert [look(), look(), look(), look()] == [False, False, False, True]
    assert written.getvalue() == "converge: the database is away; trying again\n"


def test_other_errors_are_not_waited_out(outages: Outages) -> None:
    def look() -> bool:
        raise Conflict("somebody else")

    with pytest.raises(Conflict):
        tolerate_outages(look, outages)()
    with pytest.raises(Conflict):
        outages.wait_out(look)


def test_a_last_look_is_waited_for(outages: Outages, time: Time, written: io.StringIO) -> None:
    assert outages.wait_out(after(100, True))
    assert time.slept == 100
    assert written.getvalue().count("\n") == 1


def test_the_next_outage_is_told_again(outages: Outages, time: Time, written: io.StringIO) -> None:
    for _ in range(2):
        for _ in range(3):
            outages.tell(StoreError("away"))
            time.seconds += running.QUIET
        time.seconds += 1
    assert written.getvalue() == "converge: away; trying again\n" * 2


def test_what_the_engine_logs_of_an_outage_is_told_once(
    outages: Outages, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONVERGE_DEBUG", raising=False)
    log = logging.getLogger("converge.engine")
    with running.log_to(outages):
        for _ in range(3):
            log.warning("%s; trying again", StoreError("away"))
            log.warning("engine %s cannot renew its lease: %s", 3, StoreError("away"))
        log.warning("engine %s lost its lease", 3)
        log.info("not worth a note")
    log.warning("not told any more")
    assert written.getvalue() == (
        "converge: away; trying again\nconverge: engine 3 lost its lease\n"
    )


def test_debugging_tells_everything(
    outages: Outages, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVERGE_DEBUG", "1")
    with running.log_to(outages):
        for _ in range(3):
            logging.getLogger("converge.engine").warning("%s; trying again", StoreError("away"))
    assert written.getvalue().count("away") == 3
