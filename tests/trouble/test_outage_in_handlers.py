"""An outage that passes through a handler is no failure of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

import converge
from converge.errors import StoreError
from converge.sql import repeat
from tests.templates import template
from tests.trouble.faults import only
from tests.trouble.handlers import Calls, Disk
from tests.trouble.proxy import Mode
from tests.trouble.troubled import Troubled
from tests.waiting import WAIT

LONG = 60.0


class Recorder(Calls):
    """A handler that uses its context while the database is away."""

    def __init__(self, use: Callable[[converge.Context], object]) -> None:
        super().__init__()
        self.use = use
        self.began = threading.Semaphore(0)
        self.raised: list[BaseException] = []
        self.attempts: list[int] = []
        self.retry = converge.RetryPolicy(attempts=1)  # type: ignore[misc]

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> str:
        self.calls.append(context.name)
        self.attempts.append(context.attempt)
        if len(self.calls) == 1:
            self.during()
        try:
            self.use(context)
        except BaseException as error:
            self.raised.append(error)
            self.began.release()
            raise
        return "made"


def wrapped(context: converge.Context) -> None:
    try:
        context.step("one", int)
    except StoreError as error:
        raise RuntimeError("something of mine went wrong") from error


USES: dict[str, Callable[[converge.Context], object]] = {
    "record": lambda context: context.record("made"),
    "step": lambda context: context.step("one", int),
    "each": lambda context: list(context.each("all", [1, 2])),
    "wrapped": wrapped,
}


@pytest.mark.parametrize("on_failure", ["stop", "rollback"])
@pytest.mark.parametrize("use", USES)
def test_an_outage_that_passes_through_a_handler_is_no_failure_of_it(
    troubled: Troubled, use: str, on_failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is: here it ends before the lease does."""
    monkeypatch.setattr(repeat, "RETRIES", 1)
    handler = Recorder(USES[use])
    handler.during = lambda: troubled.proxy.set(Mode.REFUSE)
    engine = converge.Engine(troubled.store, {"uses": handler}, lease=LONG, poll=0.05)
    with engine:
        stack = troubled.store.create_stack(
            "s", converge.Template.parse("resources: {a: {type: uses}}"), on_failure=on_failure
        )
        try:
            assert handler.began.acquire(timeout=WAIT)
        finally:
            troubled.proxy.set(Mode.PASS)
        assert stack.wait(WAIT) == "COMPLETE"
    assert stack.action == "CREATE"
    assert handler.attempts == [1, 1]
    assert [one["status"] for one in troubled.store.events("s") if one["resource"]] == ["COMPLETE"]


LARGE = "x" * 100_000
FILLS: dict[str, Callable[[converge.Context], object]] = {
    # the properties are recorded with it
    "record": USES["record"],
    "step": lambda context: context.step("one", str, LARGE),
    # what one of them records may find room on a page
    "each": lambda context: [
        list(context.each(f"{number} {'x' * 200}", [1])) for number in range(60)
    ],
}


@pytest.mark.parametrize("database", [only("sqlite")], indirect=True)
@pytest.mark.parametrize("on_failure", ["stop", "rollback"])
@pytest.mark.parametrize("use", FILLS)
def test_a_disk_that_is_full_in_the_middle_of_a_handler_is_no_failure_of_it(
    database_url: str, use: str, on_failure: str
) -> None:
    with converge.connect(database_url) as store:
        disk = Disk(store)
        handler = Recorder(FILLS[use])
        handler.during = disk.fill
        wanted = template(a={"type": "uses", "properties": {"large": LARGE}})
        with converge.Engine(store, {"uses": handler}, lease=LONG, poll=0.05) as engine:
            stack = store.create_stack("s", wanted, on_failure=on_failure)
            try:
                assert handler.began.acquire(timeout=WAIT)
                assert "full" in str(handler.raised[0])
            finally:
                disk.full = False
            assert stack.wait(WAIT) == "COMPLETE"
            assert engine.error is None
        assert stack.action == "CREATE"
        assert handler.attempts[0] == handler.attempts[-1] == 1
        assert [one["status"] for one in store.events("s") if one["resource"]] == ["COMPLETE"]


def test_a_pool_that_times_out_is_no_failure_of_a_handler(troubled: Troubled) -> None:
    with converge.connect(troubled.proxy.url(), connections=5) as store:
        store.database.engine.pool._timeout = 0.1  # type: ignore[attr-defined]
        hands: list[Any] = []

        def take_all() -> None:
            while len(hands) < 5:
                one = store.database.transaction(write=False)
                try:
                    one.__enter__()
                except StoreError:
                    return
                hands.append(one)

        handler = Recorder(USES["step"])
        handler.during = take_all
        with converge.Engine(store, {"uses": handler}, workers=1, lease=LONG, poll=0.05):
            stack = store.create_stack("s", converge.Template.parse("resources: {a: {type: uses}}"))
            assert handler.began.acquire(timeout=WAIT)
            for one in hands:
                one.__exit__(None, None, None)
            assert stack.wait(WAIT) == "COMPLETE"
        assert handler.attempts == [1, 1]


def _own_error(context: converge.Context) -> None:
    raise OperationalError("SELECT 1", {}, Exception("the handler's own database is away"))


def _others_error(context: converge.Context) -> None:
    with converge.connect("postgresql+psycopg://nobody@127.0.0.1:1/nothing") as store:
        store.stacks()


def _refused(context: converge.Context) -> None:
    context.record("x" * 5000)


@pytest.mark.parametrize("use", [_own_error, _others_error, _refused])
def test_a_handlers_own_errors_of_a_database_are_its_own(
    troubled: Troubled, use: Callable[[converge.Context], object]
) -> None:
    handler = Recorder(use)
    with converge.Engine(troubled.store, {"uses": handler}, lease=LONG, poll=0.05):
        stack = troubled.store.create_stack(
            "s", converge.Template.parse("resources: {a: {type: uses}}")
        )
        assert stack.wait(WAIT) == "FAILED"
    assert handler.attempts == [1]
