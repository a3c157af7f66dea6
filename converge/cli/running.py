"""Run an engine in this process until a stack's traversal has ended, and stop it on signals.

The first Ctrl-C (or SIGTERM) gives running handlers some seconds to finish, the second cancels
them, the third exits at once. In every case the stack stays as it is in the database, and
`converge up` or any engine continues from there.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from converge import collection
from converge.cli import EXIT_INTERRUPTED, EXIT_TERMINATED
from converge.cli.endings import PrintedFailures
from converge.errors import ConvergeError, NotFound, StoreError
from converge.escaping import lines

if TYPE_CHECKING:
    from converge.cli.progress import Reporter
    from converge.engine import Engine, Observer
    from converge.inspection.queries import Queries
    from converge.resources.resource_type import ResourceType
    from converge.stack import Stack
    from converge.store import Store

#: Seconds between reads of the database: short after the start, then longer.
POLL_FIRST = 0.02
POLL_MOST = 0.2
#: The same where the hints of other processes arrive.
POLL_CONNECTED = 2.0
#: Seconds between attempts while the database is down.
POLL_AWAY = 1.0
#: After so many seconds without an error, the next error is a new outage.
QUIET = 60.0
#: The logger of handlers' exceptions.
FAILURES = "converge.failures"
_EVENTS = 1000

T = TypeVar("T")


class Interrupts:
    """Counts SIGINT and SIGTERM instead of being killed by them.

    :ivar count: how many came.
    :ivar status: the exit status of the first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.status = EXIT_INTERRUPTED

    # only numbers change here: a signal handler must not take a lock, which may be held already
    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.count == 0 and number == signal.SIGTERM:
            self.status = EXIT_TERMINATED
        self.count += 1

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals in the meantime; does nothing outside the main thread."""
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

    def __init__(self, reads: Queries, name: str, after: int) -> None:
        self._reads = reads
        self._name = name
        self._start = after
        self._last = after
        self._seen: set[int] = set()

    def new(self) -> list[dict[str, Any]]:
        """Those written since the last call."""
        found = self._read(self._last)
        self._last = max((event["id"] for event in found), default=self._last)
        return found

    def rest(self) -> list[dict[str, Any]]:
        """All that were not returned yet: ids can become visible out of order."""
        return sorted(self._read(self._start), key=lambda event: int(event["id"]))

    def _read(self, after: int) -> list[dict[str, Any]]:
        fresh: list[dict[str, Any]] = []
        while page := self._reads.events(self._name, after=after):
            fresh += [event for event in page if event["id"] not in self._seen]
            self._seen.update(event["id"] for event in page)
            after = page[-1]["id"]
            if len(page) < _EVENTS:
                break
        return fresh


class Watch:
    """Follows one traversal of a stack, and the rollback that its failure starts.

    :ivar stack: the stack, as last read.
    :ivar failure: why the traversal failed, if a rollback followed.
    :ivar printed: the failures that were printed.
    :ivar superseded: whether another client started another traversal.
    """

    def __init__(self, store: Store, stack: Stack, reporter: Reporter, after: int) -> None:
        self.stack = stack
        self.failure: str | None = None
        self.printed = PrintedFailures(stacks=reporter.tells_stacks)
        self.superseded = False
        self.seconds = 0.0
        self._store = store
        self._reporter = reporter
        self._events = EventReader(store, stack.name, after)
        self._traversal = stack.traversal
        self._started = time.monotonic()
        # when the reporter was told of progress last
        self._told = 0.0

    def look(self) -> bool:
        """Read the stack, update the reporter, and return whether it has ended."""
        self.stack.refresh()
        self.seconds = time.monotonic() - self._started
        if self.stack.traversal != self._traversal:
            # a rollback has a reason only if a failure started it, and not a client
            reason = self.stack.reason if self.stack.action == "ROLLBACK" else None
            self.superseded = reason is None or self.failure is not None
            self.failure = reason
            self._traversal = self.stack.traversal
        ended = self.superseded or self.stack.status != "IN_PROGRESS"
        if self._reporter.wants_events:
            # events are read after the status, so that none of an ended traversal are missing
            events = self._events.rest() if ended else self._events.new()
            self._reporter.events([self.printed.note(event) for event in events])
        since = self.seconds - self._told
        if self._reporter.wants_updates and not ended and since >= self._reporter.update_every:
            self._told = self.seconds
            self._tell()
        return ended

    def _tell(self) -> None:
        name = self.stack.name
        try:
            progress, running = self._store.progress(name), self._store.running(name)
            if progress["waiting"]:
                running += self._store.waiting(name)
        except NotFound:  # it was deleted in the meantime
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
    outages: Outages,
    *,
    workers: int,
    async_workers: int,
    grace: float,
    lease: float | None = None,
    prune_after: float | None = None,
    types: Mapping[str, ResourceType] | None = None,
    queues: Sequence[str] | None = None,
    until_idle: bool = False,
    patient: bool = False,
    ended: Callable[[], bool] = lambda: False,
    rest: str = "other engines continue from there",
    greeting: str = "",
    observer: Observer | None = None,
    made: Callable[[Engine], object] = lambda engine: None,
    on_exit: Callable[[int], None] = lambda status: None,
) -> int | None:
    """Run an engine until something has ended, there is no more work, or a signal comes.

    :param outages: reports when the database is down; its reporter prints everything else.
    :param grace: seconds that running handlers have to finish after the first signal.
    :param lease: the engine's, in seconds; None for the default.
    :param prune_after: prune what ended so many seconds ago; None: never.
    :param types: resource types to use instead of installed ones of the same name.
    :param queues: the names of the queues to serve; None: only the default one.
    :param until_idle: whether to stop when there is no more work in the whole database.
    :param patient: whether to wait when the database is down at the start: it is known to exist.
    :param ended: returns whether it has ended, and updates the reporter.
    :param rest: who does the rest of the work after a signal, as a sentence.
    :param greeting: what to print once the engine runs and signals are caught.
    :param observer: is told what the engine does.
    :param made: called with the engine before it starts.
    :param on_exit: called with the exit status before an exit at the third signal.
    :returns: None, or the exit status if a signal came first.
    :raises ConvergeError: the engine could not start, or stopped unexpectedly.
    """
    from converge.engine import Engine
    from converge.lease import LEASE

    # modules stay, nodes come and go by the thousand: garbage collection over all of it took a
    # tenth of the time
    collection.spare()
    engine = Engine(
        store,
        types,
        workers=workers,
        async_workers=async_workers,
        lease=LEASE if lease is None else lease,
        prune_after=prune_after,
        observer=observer,
        queues=queues,
    )
    made(engine)
    failures: list[BaseException] = []
    leaving = threading.Event()

    def work() -> None:
        while True:
            try:
                return engine.run(until_idle=until_idle)
            except StoreError as error:
                if not patient or engine.id is not None:
                    failures.append(error)
                    return
                outages.tell(error)
                if leaving.wait(POLL_AWAY):
                    return
            except BaseException as error:
                failures.append(error)
                return

    interrupts = Interrupts()
    reporter = outages.reporter
    # this thread handles signals, so the engine runs in another
    thread = threading.Thread(target=work, name="converge-run", daemon=True)
    look = tolerate_outages(ended, outages)
    with interrupts.caught(), log_to(outages):
        thread.start()
        if greeting:
            reporter.note(greeting)
        try:
            over = wait_until(lambda: look() or not thread.is_alive(), interrupts)
            if not over:
                left = f"have {grace:g} s to finish, Ctrl-C again cancels them"
                reporter.note(
                    f"stopping: running handlers {left if grace else 'are cancelled'}; {rest}"
                )
            elif not (thread.is_alive() or until_idle or look()):
                raise _end_of(thread, failures)
            leaving.set()
            look_on = (lambda: True) if over else look
            _stop(engine, thread, interrupts, grace, reporter, look_on, rest, on_exit)
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


class Outages:
    """Reports an outage of the database once, not at each attempt.

    :ivar reporter: prints it, and everything else.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._last: float | None = None

    def tell(self, error: BaseException) -> None:
        """Report an error, unless it belongs to an outage that was reported."""
        now = time.monotonic()
        if self._last is None or now - self._last > QUIET:
            self.reporter.note(f"{error}; trying again")
        self._last = now

    def wait_out(self, look: Callable[[], T], *, kind: type[StoreError] = StoreError) -> T:
        """The result of reading the database, as soon as it answers.

        :param kind: the errors that are waited out.
        """
        while True:
            try:
                return look()
            except kind as error:
                self.tell(error)
            time.sleep(POLL_AWAY)


def tolerate_outages(ended: Callable[[], bool], outages: Outages) -> Callable[[], bool]:
    """The same function, but false while the database cannot be used: the engine retries, too."""

    def look() -> bool:
        try:
            return ended()
        except StoreError as error:
            outages.tell(error)
            return False

    return look


class _ToReporter(logging.Handler):
    """Log records as notes, so that they do not break a live view."""

    def __init__(self, outages: Outages) -> None:
        super().__init__(logging.WARNING)
        self._outages = outages
        if os.environ.get("CONVERGE_DEBUG"):
            self.setLevel(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        if self.level == logging.DEBUG:
            self._outages.reporter.note(self.format(record))
            return
        if record.name == FAILURES:
            # the events have the reason
            if not self._outages.reporter.wants_events:
                self._outages.reporter.note(lines(record.getMessage()))
            return
        arguments = record.args if isinstance(record.args, tuple) else ()
        error = next((one for one in arguments if isinstance(one, StoreError)), None)
        if error is None:
            self._outages.reporter.note(record.getMessage())
        else:
            self._outages.tell(error)


@contextmanager
def log_to(outages: Outages) -> Iterator[None]:
    """Print warnings of converge's log, if nothing else does."""
    if outages.reporter.logs:
        yield
        return
    logger = logging.getLogger("converge")
    handler = _ToReporter(outages)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def wait_until(ended: Callable[[], bool], interrupts: Interrupts) -> bool:
    """Poll until it has ended or a signal came.

    :returns: whether it has ended.
    """
    pause = POLL_FIRST
    while not ended():
        if interrupts.count:
            return False
        # a signal does not interrupt the sleep, but it is short
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
    rest: str,
    on_exit: Callable[[int], None],
) -> None:
    """Stop an engine as gently as the signals that arrive allow.

    :param grace: seconds from the first signal until running handlers are cancelled.
    """
    stopping: threading.Thread | None = None
    cancelling: threading.Thread | None = None
    signalled: float | None = None
    while running.is_alive():
        # again, if the engine had not started yet: then it could not be stopped
        if stopping is None or not stopping.is_alive():
            stopping = _in_thread(engine.stop, {"grace": None})
        if interrupts.count and signalled is None:
            signalled = time.monotonic()
        late = signalled is not None and time.monotonic() - signalled >= grace
        if cancelling is None and (late or interrupts.count >= 2):
            reporter.note("cancelling running handlers; Ctrl-C again exits at once")
            cancelling = _in_thread(engine.stop, {"grace": 0})
        if interrupts.count >= 3:
            reporter.end()
            reporter.note(f"exiting; {rest}, once the lease of this engine has ended")
            on_exit(interrupts.status)
            sys.stdout.flush()
            os._exit(interrupts.status)
        look()
        time.sleep(POLL_FIRST)


def _in_thread(function: Callable[..., None], keywords: Mapping[str, Any]) -> threading.Thread:
    thread = threading.Thread(target=function, kwargs=dict(keywords), daemon=True)
    thread.start()
    return thread
