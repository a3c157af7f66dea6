"""Options that several commands share, as parsers to be their parents."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from converge.cli.options.grammar import Parser
from converge.cli.options.values import integer, parameter, seconds
from converge.model import SHOWN_STATUSES

WORKERS_MAX = 1000
WORKERS_DEFAULT = 8
ASYNC_WORKERS_MAX = 100_000
ASYNC_WORKERS_DEFAULT = 1000
PROCESSES_MAX = 256
#: Seconds. With the five that a cancelled command gets, it fits into the 30 s after which
#: Kubernetes kills, and into systemd's 90.
GRACE = 20.0
POLICIES = ("stop", "continue", "rollback")

DATABASE = Parser(add_help=False)
DATABASE.add_argument(
    "--db",
    metavar="URL",
    default=argparse.SUPPRESS,
    help="the database (default: CONVERGE_DB, else sqlite:///converge.db here)",
)

BUS = Parser(add_help=False)
BUS.add_argument(
    "--bus",
    metavar="URL",
    help="what wakes engines in other processes and those who wait, for example "
    "rabbit://USER:PASSWORD@HOST:5672/ (default: CONVERGE_BUS, else the database)",
)

JSON = Parser(add_help=False)
JSON.add_argument("--json", action="store_true", help="print one JSON document")

TYPES = Parser(add_help=False)
TYPES.add_argument(
    "--pass-env",
    metavar="NAME",
    action="append",
    default=[],
    help="a variable of this environment that command resources see, besides PATH, HOME, LANG "
    "and TMPDIR; may be repeated (default: those that CONVERGE_PASS_ENV names)",
)
TYPES.add_argument(
    "--file-root",
    metavar="DIR",
    action="append",
    default=[],
    help="a folder in or below which file resources may be; may be repeated (default: those "
    "that CONVERGE_FILE_ROOT names, else anywhere)",
)


def _workers(workers: int | None, grace: float | None) -> Parser:
    """The options of commands that call handlers.

    :param workers: the default; None where a configuration file may have it.
    """
    parent = Parser(add_help=False, parents=[BUS, TYPES])
    parent.add_argument(
        "--workers",
        metavar="N",
        type=integer(1, WORKERS_MAX),
        default=workers,
        help=f"how many handlers run at a time, 1 to {WORKERS_MAX} (default: {WORKERS_DEFAULT})",
    )
    parent.add_argument(
        "--async-workers",
        metavar="N",
        type=integer(1, ASYNC_WORKERS_MAX),
        default=None if workers is None else ASYNC_WORKERS_DEFAULT,
        help="how many handlers that are async def run at a time beside these, "
        f"1 to {ASYNC_WORKERS_MAX} (default: {ASYNC_WORKERS_DEFAULT})",
    )
    parent.add_argument(
        "--grace",
        metavar="S",
        type=seconds(),
        default=grace,
        help="seconds that running handlers have to finish after Ctrl-C or SIGTERM "
        f"(default: {GRACE:g})",
    )
    return parent


WORKERS = _workers(WORKERS_DEFAULT, GRACE)
WORKERS_OF_SERVICE = _workers(None, None)

#: What every service has.
SERVICE = Parser(add_help=False)
SERVICE.add_argument(
    "--config-file",
    metavar="FILE",
    action="append",
    default=[],
    help="a configuration file; of several, the last one counts, and the command line before all",
)
SERVICE.add_argument(
    "--processes",
    metavar="N",
    type=integer(1, PROCESSES_MAX),
    help=f"how many processes, each with all that is said here, 1 to {PROCESSES_MAX} (default: 1)",
)
SERVICE.add_argument(
    "--listen",
    metavar="HOST:PORT",
    help="answer /healthz, /readyz and /metrics there, for example on 127.0.0.1:9464 (default: "
    "nowhere)",
)
SERVICE.add_argument(
    "--log-format",
    metavar="FORMAT",
    choices=("text", "json"),
    help="log everything to stderr, as text or as a JSON document a line (default: only warnings, "
    "or what a configuration file says)",
)

RUN = Parser(add_help=False)
RUN.add_argument(
    "--timeout",
    metavar="S",
    type=seconds(above=True),
    help="seconds after which it times out and fails (default: no limit)",
)
RUN.add_argument("--no-wait", action="store_true", help="only start it, for an engine to do")

ACTOR = Parser(add_help=False)
ACTOR.add_argument(
    "--actor",
    metavar="WHO",
    help="who is shown to have asked for it (default: CONVERGE_ACTOR, else your login name and "
    "this host's)",
)

UNPROTECT = Parser(add_help=False)
UNPROTECT.add_argument(
    "--unprotect",
    metavar="RESOURCE",
    action="append",
    default=[],
    help="a protected resource that may be deleted or replaced; may be repeated",
)

VALUES = Parser(add_help=False)
VALUES.add_argument(
    "--param",
    metavar="NAME=VALUE",
    type=parameter,
    action="append",
    default=[],
    help="a value for a parameter of the template; may be repeated",
)
VALUES.add_argument(
    "-e",
    "--environment",
    metavar="FILE",
    action="append",
    default=[],
    help="a file of values for parameters, in the syntax of Heat's environments; may be "
    "repeated, the last one counts, and --param before all",
)
VALUES.add_argument(
    "--elsewhere",
    metavar="TYPE",
    action="append",
    default=[],
    help="a resource type that is not installed here, but where engines of its own run; may be "
    "repeated",
)

WIDE = Parser(add_help=False)
WIDE.add_argument(
    "--wide",
    action="store_true",
    help="one line for each row of a table, also if it is wider than the terminal",
)

STACK = Parser(add_help=False)
STACK.add_argument("name", metavar="NAME", help="the stack")


def policy(choices: Sequence[str]) -> Parser:
    """What to do when a resource has failed: one of these policies."""
    back = ", or rollback to the last version that completed" if "rollback" in choices else ""
    parent = Parser(add_help=False)
    parent.add_argument(
        "--on-failure",
        metavar="POLICY",
        choices=choices,
        default="stop",
        help="what to do when a resource has failed: stop (default), "
        f"continue with what does not depend on it{back}",
    )
    return parent


def add_status(parser: Parser, help: str) -> None:
    """The option that selects resources by their status."""
    parser.add_argument(
        "--status",
        metavar="STATUS",
        action="append",
        choices=SHOWN_STATUSES,
        default=[],
        help=f"{help} ({', '.join(SHOWN_STATUSES)})",
    )


def add_limit(parser: Parser, help: str, default: int | None = None) -> None:
    """Add ``--limit N``: how many rows at most."""
    parser.add_argument(
        "--limit", metavar="N", type=integer(1, 1_000_000), default=default, help=help
    )


def add_older_than(parser: Parser, help: str) -> None:
    """Add ``--older-than SECONDS``."""
    parser.add_argument("--older-than", metavar="SECONDS", type=seconds(), help=help)
