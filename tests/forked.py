"""Processes of the tests' own that need not import anything again: each is forked from one that
has imported what they use, and has done nothing else."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

#: What a command or an engine imports before it works, mostly when it is first needed.
_PRELOAD = [
    "alembic.autogenerate",
    "converge.cli.commands",
    "converge.cli.parser",
    "converge.cli.queries",
    "converge.cli.schema",
    "converge.cli.stacks",
    "converge.engine",
    "converge.sql.migrate",
    "psycopg",
    "pymysql",
    "retrying",
    "rich.console",
    "rich.progress",
    "tests.acceptance.witness",
]


def process(target: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """A process that is not started yet; its target is told these arguments."""
    context = multiprocessing.get_context("forkserver")
    # all have the same parent, so this must be the same whoever asks first
    context.set_forkserver_preload(_PRELOAD)
    return context.Process(target=target, args=arguments, daemon=True)


def command(
    words: tuple[str, ...], folder: Path, environment: Mapping[str, str], streams: tuple[Path, Path]
) -> ForkServerProcess:
    """The command ``converge`` with these words, not started yet.

    :param folder: where it runs.
    :param environment: all its variables; those that Python itself reads have no effect.
    :param streams: the files that its stdout and its stderr are written to.
    """
    return process(_be_command, words, folder, dict(environment), streams)


def _be_command(
    words: tuple[str, ...], folder: Path, environment: dict[str, str], streams: tuple[Path, Path]
) -> None:
    os.setsid()
    for number, path in enumerate(streams, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    # what Python opens when it begins
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["converge", *words]
    runpy.run_module("converge", run_name="__main__", alter_sys=True)
