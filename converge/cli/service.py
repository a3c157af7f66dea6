"""What every command that runs as a service does around its work: its settings, logs, processes,
and SIGHUP."""

from __future__ import annotations

import queue
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

from converge.cli.progress import LogReporter, Reporter
from converge.errors import ConvergeError

if TYPE_CHECKING:
    from converge.service.settings import Setting


def serve(
    arguments: Namespace, settings: Iterable[Setting], work: Callable[[Reporter], int]
) -> int:
    """Run a service in this process, or in as many as the settings say.

    :param arguments: as parsed; the settings are filled in.
    :param work: does what the service is for until a signal comes, and returns the exit status.
    :returns: the exit status.
    :raises BadInput: a configuration file is wrong.
    """
    from converge.service import lifeline
    from converge.service.settings import settle

    # first of all: the parent may be gone already
    number = lifeline.hold()
    logs = bool(arguments.config_file or arguments.log_format)
    settle(arguments, _read_files(arguments) if logs else {}, settings)
    reporter = _log(arguments) if logs else Reporter(sys.stderr)
    if arguments.processes > 1 and number is None:
        return _run_processes(arguments, reporter)
    if arguments.config_file:
        _reload_at_hangup(reporter)
    return work(reporter)


def _read_files(arguments: Namespace) -> dict[str, Any]:
    try:
        from converge.service.files import read_files
    except ImportError as error:
        raise ConvergeError(
            f"--config-file and --log-format need {error.name}: pip install 'converge[service]'"
        ) from error
    return read_files(arguments.config_file)


def _log(arguments: Namespace) -> Reporter:
    from converge.service.logs import set_up

    set_up(arguments.log_format)
    return LogReporter(sys.stderr)


def _run_processes(arguments: Namespace, reporter: Reporter) -> int:
    from converge.cli.running import Outages, log_to
    from converge.service.processes import Processes

    def check() -> None:
        if arguments.config_file:
            _read_files(arguments)

    processes = Processes(arguments.processes, check=check)
    with log_to(Outages(reporter)):
        return processes.run()


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
