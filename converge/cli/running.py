"""Run an engine in this process until a stack's traversal has ended, and stop it on signals.

The first Ctrl-C (or SIGTERM) gives what runs some seconds to finish, the second cancels it, the
third leaves at once. In every case the stack stays as it is in the database, and `converge up` or
any engine goes on from there.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from converge.cli import EXIT_INTERRUPTED, EXIT_TERMINATED
from converge.cli.endings import Told
from converge.errors import ConvergeError, NotFound, StoreError
from converge.escaping import lines

if TYPE_CHECKING:
    from converge.cli.progress import Reporter
    from converge.engine import Engine
    from converge.resources.resource_type import ResourceType
    from converge.stack import Stack
    from converge.store import Store

#: Seconds between looks at the database: soon after the start, then less often.
POLL_FIRST = 0.02
POLL_MOST = 0.2
#: Seconds between looks at a database that is away.
POLL_AWAY = 1.0
#: After so many seconds without trouble the next one is a new one.
QUIET = 60.0
#: The logger of handlers' exceptions.
FAILURES = "converge.failures"
_EVENTS = 1000

T = TypeVar("T")


class Interrupts:
    """Counts SIGINT and SIGTERM instead of dying of them.

    :ivar count: how many came.
    :ivar status: the exit status of the first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.status = EXIT_INTERRUPTED

    # only numbers change here: a lock taken in a signal handler could be held already
    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.count == 0 and number == signal.SIGTERM:
            self.status = EXIT_TERMINATED
        self.count += 1

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals meanwhile; outside the main thread nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class EventReader:
    """New events of a stack, each once.

    :param after: the id of the last event that is known already.
    """

    def __init__(self, store: Store, name: str, after: int) -> None:
        self._store = store
        self._name = name
        self._start = after
        self._last = after
        self._seen: set[int] = set()

    def new(self) -> list[dict[str, Any]]:
        """What was written since the last call."""
        found = self._read(self._last)
        self._last = max((event["id"] for event in found), default=self._last)
        return found

    def rest(self) -> list[dict[str, Any]]:
        """All that has not been given yet: ids can become visible out of order."""
        return sorted(self._read(self._start), key=lambda event: int(event["id"]))

    def _read(self, after: int) -> list[dict[str, Any]]:
        fresh: list[dict[str, Any]] = []
        while page := self._store.events(self._name, after=after):
            fresh += [event for event in page if event["id"] not in self._seen]
            self._seen.update(event["id"] for event in page)
            after = page[-1]["id"]
            if len(page) < _EVENTS:
                break
        return fresh


class Watch:
    """Follows one traversal of a stack, and the rollback that its failure starts.

    :ivar stack: the stack, as last seen.
    :ivar failure: why the traversal failed, if a rollback followed.
    :ivar told: what was told of failures.
    :ivar superseded: whether somebody else started another traversal.
    """

    def __init__(self, store: Store, stack: Stack, reporter: Reporter, after: int) -> None:
        self.stack = stack
        self.failure: str | None = None
        self.told = Told(stacks=reporter.tells_stacks)
        self.superseded = False
        self.seconds = 0.0
        self._store = store
        self._reporter = reporter
        self._events = EventReader(store, stack.name, after)
        self._traversal = stack.traversal
        self._started = time.monotonic()

    def look(self) -> bool:
        """Look, tell the reporter, and say whether it has ended."""
        self.stack.refresh()
        self.seconds = time.monotonic() - self._started
        if self.stack.traversal != self._traversal:
            # a rollback has a reason only if it was not a person who started it
            reason = self.stack.reason if self.stack.action == "ROLLBACK" else None
            self.superseded = reason is None or self.failure is not None
            self.failure = reason
            self._traversal = self.stack.traversal
        ended = self.superseded or self.stack.status != "IN_PROGRESS"
        if self._reporter.wants_events:
            # only after the status was read are all events of an ended traversal there
            events = self._events.rest() if ended else self._events.new()
            self._reporter.events([self.told.note(event) for event in events])
        if self._reporter.wants_updates and not ended:
            self._tell()
        return ended

    def _tell(self) -> None:
        name = self.stack.name
        try:
            progress, running = self._store.progress(name), self._store.running(name)
        except NotFound:  # deleted since it was read
            return
        self._reporter.update(name, str(self.stack.action), progress, running, self.seconds)


def last_event(store: Store, name: str) -> int:
    """The id of the newest event of a stack, 0 if there is none."""
    try:
        return max((int(event["id"]) for event in store.events(name, limit=1)), default=0)
    except NotFound:
        return 0


def run_engine(
    store: Store,
    trouble: Trouble,
    *,
    workers: int,
    grace: float,
    lease: float | None = None,
    types: Mapping[str, ResourceType] | None = None,
    until_idle: bool = False,
    begun: bool = False,
    ended: Callable[[], bool] = lambda: False,
    going_on: str = "other engines go on from there",
    greeting: str = "",
    on_leave: Callable[[int], None] = lambda status: None,
) -> int | None:
    """Run an engine until something has ended, there is no more work, or a signal comes.

    :param trouble: who is told when the database is away, and everything else.
    :param grace: seconds that what runs has to finish after the first signal.
    :param lease: the engine's, in seconds; None for the default.
    :param types: resource types to use instead of installed ones of the same name.
    :param until_idle: whether to end when there is no more work in the whole database.
    :param begun: the database took what is to be done, so it will be back if it is away.
    :param ended: looks whether it has ended, and tells the reporter.
    :param going_on: what happens to the rest after a signal.
    :param greeting: what to tell when it runs and signals are caught.
    :param on_leave: called with the exit status, if it leaves at once after a third signal.
    :returns: None, or the exit status if a signal came first.
    :raises ConvergeError: the engine could not start, or stopped by itself.
    """
    from converge.engine import Engine
    from converge.lease import LEASE

    # what is loaded stays, and nodes come and go by the thousand: a tenth of their time was spent
    # looking at all of it again and again
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    engine = Engine(store, types, workers=workers, lease=LEASE if lease is None else lease)
    failures: list[BaseException] = []
    leaving = threading.Event()

    def work() -> None:
        while True:
            try:
                return engine.run(until_idle=until_idle)
            except StoreError as error:
                if not begun or engine.id is not None:
                    failures.append(error)
                    return
                trouble.tell(error)
                if leaving.wait(POLL_AWAY):
                    return
            except BaseException as error:
                failures.append(error)
                return

    interrupts = Interrupts()
    reporter = trouble.reporter
    # signals are handled in this thread, so the engine has another
    thread = threading.Thread(target=work, name="converge-run", daemon=True)
    look = patiently(ended, trouble)
    with interrupts.caught(), _log_to(trouble):
        thread.start()
        if greeting:
            reporter.note(greeting)
        try:
            over = wait_until(lambda: look() or not thread.is_alive(), interrupts)
            if not over:
                time_left = f"has {grace:g} s to finish, Ctrl-C again cancels it"
                reporter.note(
                    f"stopping: what runs {time_left if grace else 'is cancelled'}; {going_on}"
                )
            elif not (thread.is_alive() or until_idle or look()):
                raise _end_of(thread, failures)
            leaving.set()
            look_on = (lambda: True) if over else look
            _stop(engine, thread, interrupts, grace, reporter, look_on, going_on, on_leave)
        except BaseException:
            engine.stop(grace=0)
            raise
        finally:
            reporter.end()
        thread.join()
    if failures:
        raise failures[0]
    return None if over or look() else interrupts.status


def _end_of(thread: threading.Thread, failures: list[BaseException]) -> BaseException:
    thread.join()
    return failures[0] if failures else ConvergeError("the engine stopped because of an error")


class Trouble:
    """Tells a person once that the database is away, not at each look.

    :ivar reporter: who tells it, and all else.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._last: float | None = None

    def tell(self, error: BaseException) -> None:
        """Tell of an error, unless there was one not long ago."""
        now = time.monotonic()
        if self._last is None or now - self._last > QUIET:
            self.reporter.note(f"{error}; trying again")
        self._last = now

    def wait_out(self, look: Callable[[], T], *, kind: type[StoreError] = StoreError) -> T:
        """What a look at the database gives, as soon as it answers.

        :param kind: the errors that are waited out.
        """
        while True:
            try:
                return look()
            except kind as error:
                self.tell(error)
            time.sleep(POLL_AWAY)


def patiently(ended: Callable[[], bool], trouble: Trouble) -> Callable[[], bool]:
    """The same, but while the database cannot be used the answer is no: the engine, too,
    tries again."""

    def look() -> bool:
        try:
            return ended()
        except StoreError as error:
            trouble.tell(error)
            return False

    return look


class _ToReporter(logging.Handler):
    """Log records as notes, so that they don't tear a live view apart."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(logging.WARNING)
        self._trouble = trouble
        if os.environ.get("CONVERGE_DEBUG"):
            self.setLevel(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        if self.level == logging.DEBUG:
            self._trouble.reporter.note(self.format(record))
            return
        if record.name == FAILURES:
            # who sees the events sees the reason there
            if not self._trouble.reporter.wants_events:
                self._trouble.reporter.note(lines(record.getMessage()))
            return
        arguments = record.args if isinstance(record.args, tuple) else ()
        error = next((one for one in arguments if isinstance(one, StoreError)), None)
        if error is None:
            self._trouble.reporter.note(record.getMessage())
        else:
            self._trouble.tell(error)


@contextmanager
def _log_to(trouble: Trouble) -> Iterator[None]:
    logger = logging.getLogger("converge")
    handler = _ToReporter(trouble)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def wait_until(ended: Callable[[], bool], interrupts: Interrupts) -> bool:
    """Look again and again, until it has ended or a signal came.

    :returns: whether it has ended.
    """
    pause = POLL_FIRST
    while not ended():
        if interrupts.count:
            return False
        # a signal does not end the sleep, but it is short
        time.sleep(pause)
        pause = min(POLL_MOST, pause * 1.3)
    return True


def _stop(
    engine: Engine,
    running: threading.Thread,
    interrupts: Interrupts,
    grace: float,
    reporter: Reporter,
    look: Callable[[], bool],
    going_on: str,
    on_leave: Callable[[int], None],
) -> None:
    """Stop an engine as gently as the signals that come meanwhile allow.

    :param grace: seconds from the first signal until what runs is cancelled.
    """
    stopping: threading.Thread | None = None
    cancelling: threading.Thread | None = None
    signalled: float | None = None
    while running.is_alive():
        # again, if it was too early: an engine that has not started yet cannot be stopped
        if stopping is None or not stopping.is_alive():
            stopping = _in_thread(engine.stop, {"grace": None})
        if interrupts.count and signalled is None:
            signalled = time.monotonic()
        late = signalled is not None and time.monotonic() - signalled >= grace
        if cancelling is None and (late or interrupts.count >= 2):
            reporter.note("cancelling what runs; Ctrl-C again leaves at once")
            cancelling = _in_thread(engine.stop, {"grace": 0})
        if interrupts.count >= 3:
            reporter.end()
            reporter.note(f"left; {going_on}, once this engine counts as dead")
            on_leave(interrupts.status)
            sys.stdout.flush()
            os._exit(interrupts.status)
        look()
        time.sleep(POLL_FIRST)


def _in_thread(function: Callable[..., None], keywords: Mapping[str, Any]) -> threading.Thread:
    thread = threading.Thread(target=function, kwargs=dict(keywords), daemon=True)
    thread.start()
    return thread
