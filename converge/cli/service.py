"""What every command that runs as a service does around its work: its settings, logs, processes,
metrics, and SIGHUP."""

from __future__ import annotations

import queue
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from converge.cli.database import database_url
from converge.cli.progress import LogReporter, Reporter
from converge.errors import ConvergeError
from converge.model import DEFAULT_URL

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from converge.service.metrics import ProcessMetrics
    from converge.service.processes import Processes
    from converge.service.settings import Setting
    from converge.sql.database import Database

M = TypeVar("M", bound="ProcessMetrics")


@dataclass(frozen=True, slots=True)
class Shell(Generic[M]):
    """What is around the work of a process.

    :ivar reporter: is told what a person should know.
    :ivar metrics: is told what the work does, if somebody asks for it.
    """

    reporter: Reporter
    metrics: M | None = None


def serve(
    arguments: Namespace,
    settings: Iterable[Setting],
    work: Callable[[Shell[M]], int],
    measures: Callable[[], type[M]],
    check: Callable[[], object] = lambda: None,
) -> int:
    """Run a service in this process, or in as many as the settings say.

    :param arguments: as parsed; the settings are filled in.
    :param work: does what the service is for until a signal comes, and returns the exit status.
    :param measures: imports its metrics, when they are asked for.
    :param check: raises what is wrong with the settings, before anything is started.
    :returns: the exit status.
    :raises BadInput: a configuration file is wrong, or it cannot listen where it is to.
    """
    from converge.service import lifeline
    from converge.service.settings import fill_in

    # first of all: the parent may be gone already
    number = lifeline.hold()
    logs = bool(arguments.config_file or arguments.log_format)
    fill_in(arguments, _read_files(arguments) if logs else {}, settings)
    check()
    reporter = _log(arguments) if logs else Reporter(sys.stderr)
    if arguments.processes > 1 and number is None:
        return _run_processes(arguments, reporter, measures)
    if arguments.config_file:
        _reload_at_hangup(reporter)
    if not arguments.listen:
        return work(Shell(reporter))
    with _measured(arguments, measures, is_child=number is not None) as metrics:
        return work(Shell(reporter, metrics))


def _read_files(arguments: Namespace) -> dict[str, Any]:
    try:
        from converge.service.files import read_files
    except ImportError as error:
        raise _missing("--config-file or --log-format", "oslo.config oslo.log", error) from error
    return read_files(arguments.config_file)


def _missing(options: str, packages: str, error: ImportError) -> ConvergeError:
    return ConvergeError(
        f"{options} needs the module {error.name}, which is not installed; type: "
        f"pip install {packages}"
    )


def _log(arguments: Namespace) -> Reporter:
    from converge.service.logs import set_up

    set_up(arguments.log_format)
    return LogReporter(sys.stderr)


@contextmanager
def _measured(
    arguments: Namespace, measures: Callable[[], type[M]], *, is_child: bool
) -> Iterator[M]:
    """The metrics of the work of this process, which listens if no parent does."""
    try:
        from prometheus_client import CollectorRegistry
    except ImportError as error:
        raise _missing("--listen", "prometheus_client", error) from error
    registry = CollectorRegistry()
    metrics = measures()(registry)
    if is_child:
        yield metrics
        return
    with _listening(arguments, registry, lambda: metrics.is_ready, metrics.look):
        yield metrics


@contextmanager
def _listening(
    arguments: Namespace,
    registry: CollectorRegistry,
    is_ready: Callable[[], bool],
    before: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Answer for this registry, and for the database.

    :param before: called before metrics are given.
    """
    from prometheus_client import CollectorRegistry

    from converge.service.listener import Listener
    from converge.service.metrics import DatabaseMetrics, expose

    of_database = CollectorRegistry()
    of_database.register(DatabaseMetrics(lambda: _open(arguments)))

    def metrics() -> tuple[str, bytes]:
        before()
        kind, text = expose(registry)
        return kind, text + expose(of_database)[1]

    listener = Listener(arguments.listen, is_ready, metrics)
    try:
        yield
    finally:
        listener.close()


def _open(arguments: Namespace) -> Database:
    from converge.sql.open_database import open_database

    return open_database(database_url(arguments) or DEFAULT_URL, connections=1, read_only=True)


def _run_processes(
    arguments: Namespace, reporter: Reporter, measures: Callable[[], type[ProcessMetrics]]
) -> int:
    from converge.cli.running import Outages, log_to
    from converge.service.processes import Processes

    def check() -> None:
        if arguments.config_file:
            _read_files(arguments)

    with log_to(Outages(reporter)):
        if not arguments.listen:
            return Processes(arguments.processes, check=check).run()
        with _measured_processes(arguments, check, measures) as processes:
            return processes.run()


@contextmanager
def _measured_processes(
    arguments: Namespace,
    check: Callable[[], object],
    measures: Callable[[], type[ProcessMetrics]],
) -> Iterator[Processes]:
    """Processes that write their metrics where this one, which listens, reads them."""
    try:
        from prometheus_client import CollectorRegistry

        from converge.service.metrics import Folder, count_ready
    except ImportError as error:
        raise _missing("--listen", "prometheus_client", error) from error
    from converge.service.processes import Processes

    ready = measures().READY
    folder = Folder()
    try:
        registry = CollectorRegistry()
        folder.collect_into(registry)
        processes = Processes(
            arguments.processes,
            environment=folder.environment,
            check=check,
            on_death=folder.forget,
        )

        def is_ready() -> bool:
            return not processes.is_stopping and count_ready(registry, ready) > 0

        with _listening(arguments, registry, is_ready):
            yield processes
    finally:
        folder.remove()


def _reload_at_hangup(reporter: Reporter) -> None:
    """Read the files again at SIGHUP."""
    from converge.service.files import read_again

    signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(number: int, frame: FrameType | None) -> None:
        signals.put(number)

    def wait() -> None:
        while signals.get():
            try:
                read_again()
            except ConvergeError as error:
                reporter.note(str(error))
            else:
                reporter.note("the configuration was read again")

    threading.Thread(target=wait, name="converge-reload", daemon=True).start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, note)
