"""The commands that do the work of all stacks: ``engine`` and ``recover``."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from converge.cli import EXIT_COMPLETE
from converge.cli.database import connect, is_there, opened
from converge.cli.output import write_json
from converge.cli.words import recovered
from converge.errors import BadInput

if TYPE_CHECKING:
    from converge.cli.running import Outages
    from converge.cli.service import Shell
    from converge.resources.resource_type import ResourceType
    from converge.service.metrics import EngineMetrics
    from converge.store import Store


def built_in_types(arguments: Namespace) -> dict[str, ResourceType]:
    """The built-in types, as configured by options and the environment."""
    from converge.resources import Command, File

    names = arguments.pass_env
    if not names:
        names = os.environ.get("CONVERGE_PASS_ENV", "").replace(",", " ").split()
    roots = arguments.file_root
    if not roots:
        roots = [one for one in os.environ.get("CONVERGE_FILE_ROOT", "").split(os.pathsep) if one]
    try:
        command = Command(pass_env=names)
    except BadInput as error:
        source = _source(arguments, "pass_env")
        raise BadInput(str(error).replace("pass_env", source, 1)) from error
    try:
        return {"command": command, "file": File(roots=roots)}
    except BadInput as error:
        source = _source(arguments, "file_root")
        raise BadInput(str(error).replace("roots", source, 1)) from error


def _source(arguments: Namespace, name: str) -> str:
    """Where the value of an option came from, for messages."""
    if not getattr(arguments, name):
        return f"CONVERGE_{name.upper()}"
    if name in getattr(arguments, "from_files", ()):
        return f"{name} of {', '.join(arguments.config_file)}"
    return f"--{name.replace('_', '-')}"


def engine(arguments: Namespace) -> int:
    """Run an engine, or several in processes of their own."""
    from converge.cli.service import serve
    from converge.service.settings import SETTINGS_ENGINE, SETTINGS_SHARED

    settings = (*SETTINGS_SHARED, *SETTINGS_ENGINE)
    return serve(arguments, settings, lambda shell: _run(arguments, shell), _metrics)


def _metrics() -> type[EngineMetrics]:
    from converge.service.metrics import EngineMetrics

    return EngineMetrics


def _run(arguments: Namespace, shell: Shell[EngineMetrics]) -> int:
    from converge.cli.running import Outages, run_engine

    types = built_in_types(arguments)
    if arguments.until_idle and not is_there(arguments):
        return EXIT_COMPLETE
    outages, metrics = Outages(shell.reporter), shell.metrics
    # a service may be started before its database
    patient = not arguments.until_idle
    with _when_there(arguments, outages) if patient else opened(arguments, create=True) as store:
        greeting = f"an engine with {arguments.workers} workers is running; Ctrl-C stops it"
        status = run_engine(
            store,
            outages,
            workers=arguments.workers,
            async_workers=arguments.async_workers,
            grace=arguments.grace,
            lease=arguments.lease,
            prune_after=arguments.prune_after,
            types=types,
            queues=arguments.queue or None,
            until_idle=arguments.until_idle,
            patient=patient,
            greeting="" if arguments.until_idle else greeting,
            observer=metrics,
            made=lambda engine: None if metrics is None else metrics.watch(engine),
        )
    return EXIT_COMPLETE if status is None else status


@contextmanager
def _when_there(arguments: Namespace, outages: Outages) -> Iterator[Store]:
    """The store, as soon as its server can be reached."""
    from converge.sql.faults import Unreachable

    with outages.wait_out(lambda: connect(arguments, create=True), kind=Unreachable) as store:
        yield store


def recover(arguments: Namespace) -> int:
    """Do a round of recovery by hand."""
    from dataclasses import asdict

    from converge.protocol.recover import Sweep

    done = Sweep()
    if is_there(arguments):
        with opened(arguments) as store:
            done = store.recover()
    if arguments.json:
        write_json(asdict(done), sys.stdout)
    else:
        for line in recovered(done):
            print(line)
    return EXIT_COMPLETE
