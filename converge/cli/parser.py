"""What can be typed: the commands, their options, and the messages about a mistyped one.

Imports nothing heavy, so that ``converge --help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from converge.errors import BadInput, did_you_mean
from converge.model import SHOWN_STATUSES

WORKERS_MAX = 1000
#: Seconds. With the five that a cancelled command gets, it fits into the 30 s after which
#: Kubernetes kills, and into systemd's 90.
GRACE = 20.0
#: Seconds. A shorter lease would be lost whenever a machine is busy; with a longer one, others wait
#: more than an hour after a death.
LEASE_MIN, LEASE_MAX = 1, 3600
#: Seconds: ten years. More would overflow the dates of some databases.
TIMEOUT_MAX = 315_360_000
#: How many resources `converge show` shows.
SHOWN = 100
FORMATS = ("text", "dot", "mermaid", "svg")
POLICIES = ("stop", "continue", "rollback")
JOURNAL_OPERATIONS = ("list", "show", "forget", "prune")
MACHINE_OPERATIONS = ("list", "show", "retry", "delete", "prune")
DB_OPERATIONS = ("upgrade", "current", "check", "sql", "prune")
#: How many ended traversals of each live stack a prune keeps by itself.
KEEP = 10

EPILOG = """\
exit status:
  0    complete
  1    the stack failed, was cancelled, or was superseded by another client
  2    bad usage or input, or the database cannot be used
  70   an error inside converge (CONVERGE_DEBUG=1 shows the traceback)
  130  interrupted by Ctrl-C; run `converge up` again to continue
  141  the output was closed by its reader
  143  terminated by SIGTERM, which acts like Ctrl-C

environment:
  CONVERGE_DB     the database's URL, as for --db
  CONVERGE_BUS    the URL of the bus, as for --bus
  CONVERGE_DEBUG  show the traceback of every error
  CONVERGE_PASS_ENV
                  names of variables, separated by spaces or commas, as for --pass-env
  CONVERGE_FILE_ROOT
                  folders, separated by colons as in PATH, as for --file-root
  NO_COLOR        no colours
"""


class UsageError(BadInput):
    """The command line is wrong; the message says what would be right."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises :class:`UsageError` and has hints for mistyped words."""

    def __init__(self, **keywords: Any) -> None:
        keywords.setdefault("allow_abbrev", False)
        keywords.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**keywords)

    def error(self, message: str) -> NoReturn:
        """:raises UsageError: always."""
        raise UsageError(f"{message}\ntry: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, f"unknown {value!r}{did_you_mean(value, known)}")

    def options(self) -> list[str]:
        """Every option that this parser knows, for hints."""
        return [option for action in self._actions for option in action.option_strings]


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        # imported late: reading the metadata takes longer than all of the parsing
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("converge")
        except PackageNotFoundError:
            number = "(not installed)"
        print(f"converge {number}")
        parser.exit()


def _integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    def convert(text: str) -> int:
        wanted = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum or (maximum is not None and number > maximum):
            raise argparse.ArgumentTypeError(f"must be a whole number {wanted}, not {text!r}")
        return number

    return convert


def _seconds(
    minimum: float = 0, maximum: float = TIMEOUT_MAX, *, above: bool = False
) -> Callable[[str], float]:
    """:param above: the minimum itself is too low."""
    wanted = f"above {minimum:g}, at most {maximum}" if above else f"from {minimum:g} to {maximum}"

    def convert(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        # not a number compares as false
        if not minimum <= number <= maximum or (above and number == minimum):
            raise argparse.ArgumentTypeError(f"must be a number of seconds {wanted}, not {text!r}")
        return number

    return convert


def _version(text: str) -> int | str:
    if text == "empty":
        return text
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(
            f"must be the number of a version, at least 1, or empty, not {text!r}"
        )
    return int(text)


def _limit(text: str) -> int | None:
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 0, or all, not {text!r}"
        )
    return int(text)


def _since(text: str) -> float | datetime:
    try:
        number = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            number = math.nan
        else:
            # times are printed in UTC
            return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    # not a number compares as false
    if not 0 <= number <= TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(
            f"must be a number of seconds from 0 to {TIMEOUT_MAX}, or a time such as "
            f"2026-12-31T23:59:59Z, not {text!r}"
        )
    return number


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    return name, value


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command line, and those of the commands by name."""
    # SUPPRESS, as the default of a subcommand would overwrite an option before it
    database = Parser(add_help=False)
    database.add_argument(
        "--db",
        metavar="URL",
        default=argparse.SUPPRESS,
        help="the database (default: CONVERGE_DB, else sqlite:///converge.db here)",
    )
    bus = Parser(add_help=False)
    bus.add_argument(
        "--bus",
        metavar="URL",
        help="what wakes engines in other processes and those who wait, for example "
        "rabbit://USER:PASSWORD@HOST:5672/ (default: CONVERGE_BUS, else the database)",
    )
    json = Parser(add_help=False)
    json.add_argument("--json", action="store_true", help="print one JSON document")
    workers = Parser(add_help=False, parents=[bus])
    workers.add_argument(
        "--workers",
        metavar="N",
        type=_integer(1, WORKERS_MAX),
        default=8,
        help=f"how many handlers run at a time, 1 to {WORKERS_MAX} (default: 8)",
    )
    workers.add_argument(
        "--grace",
        metavar="S",
        type=_seconds(),
        default=GRACE,
        help="seconds that running handlers have to finish after Ctrl-C or SIGTERM "
        f"(default: {GRACE:g})",
    )
    workers.add_argument(
        "--pass-env",
        metavar="NAME",
        action="append",
        default=[],
        help="a variable of this environment that command resources see, besides PATH, HOME, LANG "
        "and TMPDIR; may be repeated (default: those that CONVERGE_PASS_ENV names)",
    )
    workers.add_argument(
        "--file-root",
        metavar="DIR",
        action="append",
        default=[],
        help="a folder in or below which file resources may be; may be repeated (default: those "
        "that CONVERGE_FILE_ROOT names, else anywhere)",
    )
    run = Parser(add_help=False)
    run.add_argument(
        "--timeout",
        metavar="S",
        type=_seconds(above=True),
        help="seconds after which it times out and fails (default: no limit)",
    )
    run.add_argument("--no-wait", action="store_true", help="only start it, for an engine to do")

    values = Parser(add_help=False)
    values.add_argument(
        "--param",
        metavar="NAME=VALUE",
        type=_parameter,
        action="append",
        default=[],
        help="a value for a parameter of the template; may be repeated",
    )
    values.add_argument(
        "-e",
        "--environment",
        metavar="FILE",
        action="append",
        default=[],
        help="a file of values for parameters, in the syntax of Heat's environments; may be "
        "repeated, the last one counts, and --param before all",
    )

    def policy(choices: Sequence[str], rollback: str = "") -> Parser:
        parent = Parser(add_help=False)
        parent.add_argument(
            "--on-failure",
            metavar="POLICY",
            choices=choices,
            default="stop",
            help="what to do when a resource has failed: stop (default), "
            f"continue with what does not depend on it{rollback}",
        )
        return parent

    back = ", or rollback to the last version that completed"

    parser = Parser(
        prog="converge",
        parents=[database],
        description="Bring a graph of resources into the state that a template describes.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        dest=argparse.SUPPRESS,
        help="print the version",
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser
    )
    by_name: dict[str, Parser] = {}

    def command(name: str, summary: str, *parents: Parser) -> Parser:
        by_name[name] = commands.add_parser(
            name, help=summary, description=summary, parents=[database, *parents]
        )
        return by_name[name]

    up = command(
        "up",
        "Create or update a stack from a template",
        values,
        workers,
        run,
        policy(POLICIES, back),
        json,
    )
    up.add_argument("file", metavar="FILE", help="the template, YAML or JSON")
    up.add_argument("--stack", metavar="NAME", help="default: the file's name without its ending")
    up.add_argument(
        "--keep-params",
        "--existing",
        action="store_true",
        help="parameters that are not given keep the values that the stack has (default: they have "
        "their defaults again)",
    )
    validate = command("validate", "Say all mistakes of a template at once", values, json)
    validate.add_argument("file", metavar="FILE", help="the template, YAML or JSON")
    schema = command("schema", "Print a JSON Schema of templates, for editors")
    schema.add_argument("-o", "--output", metavar="FILE", help="write it there (default: stdout)")
    stack = Parser(add_help=False)
    stack.add_argument("name", metavar="NAME", help="the stack")

    command(
        "down",
        "Delete a stack and all its resources",
        stack,
        workers,
        run,
        policy(POLICIES[:2]),
        json,
    )
    rollback = command(
        "rollback",
        "Roll a stack back to an earlier version",
        stack,
        workers,
        run,
        policy(POLICIES, back),
        json,
    )
    rollback.add_argument(
        "--to",
        metavar="VERSION",
        type=_version,
        help="its number, or empty to delete all resources (default: for a stack that is "
        "COMPLETE, the version that completed before; else the one that completed last)",
    )
    command("check", "Check whether a stack's resources are as they should be", stack, workers, run)
    by_name["check"].add_argument("--json", action="store_true", help="print one JSON document")
    command("cancel", "Stop what is being done to a stack", stack, bus, json)
    forget = command("forget", "Forget (abandon) a resource without deleting it", stack, json)
    forget.add_argument("resource", metavar="RESOURCE", help="its name in the template")
    forget.add_argument(
        "--id",
        metavar="N",
        type=_integer(1),
        help="which version, of a name that has several",
    )
    command("list", "List the stacks", json)
    show = command("show", "Show a stack: its status, resources and outputs", stack, json)
    show.add_argument(
        "--limit",
        metavar="N",
        type=_limit,
        default=SHOWN,
        help=f"how many resources, by name, or all (default: {SHOWN})",
    )
    show.add_argument(
        "--after", metavar="RESOURCE", help="only resources whose names come after this one"
    )
    _add_status(show, "only resources with this status; may be repeated")
    show.add_argument(
        "--type",
        metavar="TYPE",
        action="append",
        default=[],
        help="only resources of this type; may be repeated",
    )
    graph = command("graph", "Draw the graph of a stack or of a template")
    graph.add_argument("what", metavar="NAME|FILE", help="a stack, or a template")
    graph.add_argument(
        "--format",
        choices=FORMATS,
        metavar="FORMAT",
        help="text, dot, mermaid or svg (default: by the ending of -o FILE, else text)",
    )
    graph.add_argument("--around", metavar="RESOURCE", help="only the part around this resource")
    _add_status(
        graph, "of a stack: only the parts around resources with this status; may be repeated"
    )
    graph.add_argument(
        "--depth",
        metavar="N",
        type=_integer(0),
        help="how many steps such a part goes, to what is required and to what requires it "
        "(default: 1)",
    )
    graph.add_argument("-o", "--output", metavar="FILE", help="write it there (default: stdout)")
    events = command("events", "Print what happened to a stack", stack, bus, json)
    events.add_argument(
        "--follow", action="store_true", help="continue until the current action has ended"
    )
    events.add_argument(
        "--limit", metavar="N", type=_integer(1), help="only the newest N (default: all)"
    )
    events.add_argument(
        "--since",
        metavar="SECONDS|TIME",
        type=_since,
        help="only those since so many seconds ago, or since a time such as 2026-12-31T23:59:59Z",
    )
    why = command("why", "Say what a stack waits for, why it failed, or what is stuck", json)
    why.add_argument(
        "name", metavar="NAME", nargs="?", help="the stack (default: what is stuck anywhere)"
    )
    why.add_argument("resource", metavar="RESOURCE", nargs="?", help="one of its resources")
    why.add_argument(
        "--traceback",
        action="store_true",
        help="also the traceback of the exception that the resource failed with",
    )
    engine = command("engine", "Run an engine: do the work of all stacks", workers)
    engine.add_argument("--until-idle", action="store_true", help="stop when there is no more work")
    engine.add_argument(
        "--lease",
        metavar="S",
        type=_seconds(LEASE_MIN, LEASE_MAX),
        help="seconds without a heartbeat after which other engines take over its work "
        f"(default: 15; {LEASE_MIN} to {LEASE_MAX})",
    )
    engine.add_argument(
        "--prune-after",
        metavar="S",
        type=_seconds(above=True),
        help="prune what ended so many seconds ago, now and then, as `converge db prune` does "
        "(default: never)",
    )
    engines = command("engines", "List the engines, and what each holds", json)
    engines.add_argument(
        "--all",
        action="store_true",
        help="also those that stopped or died within the last day",
    )
    command("recover", "Recover the work of dead engines, as every engine does", bus, json)
    journal = command("journal", "Show and maintain the journal: the steps that were done", json)
    add_journal(journal)
    add_machine(command("machine", "Show and maintain the instances of machines", json))
    add_db(command("db", "Create, upgrade, check or prune the database", json))
    return parser, by_name


def _add_status(parser: Parser, help: str) -> None:
    parser.add_argument(
        "--status",
        metavar="STATUS",
        action="append",
        choices=SHOWN_STATUSES,
        default=[],
        help=f"{help} ({', '.join(SHOWN_STATUSES)})",
    )


def _check_graph(arguments: argparse.Namespace, parser: Parser) -> None:
    if arguments.around is not None and arguments.status:
        parser.error("--around and --status cannot be combined")
    if arguments.depth is not None and arguments.around is None and not arguments.status:
        parser.error("--depth needs --around RESOURCE or --status STATUS")


def add_journal(parser: Parser) -> None:
    """The options of the command ``journal``."""
    parser.add_argument(
        "operation",
        metavar="|".join(JOURNAL_OPERATIONS),
        choices=JOURNAL_OPERATIONS,
        help="list: the scopes; show SCOPE: its steps; forget SCOPE: delete it, so that its work "
        "would start afresh; prune: delete finished scopes",
    )
    parser.add_argument("scope", metavar="SCOPE", nargs="?", help="for show and forget")
    parser.add_argument(
        "--failed",
        action="store_true",
        help="forget: only the steps that failed for good, so that they are done again",
    )
    parser.add_argument(
        "--age", metavar="SECONDS", type=_seconds(), help="prune: those that finished so long ago"
    )
    parser.add_argument(
        "--keep", metavar="N", type=_integer(0), help="prune: all but the N that finished last"
    )


def _check_journal(arguments: argparse.Namespace, parser: Parser) -> None:
    names = arguments.operation in ("show", "forget")
    if names and arguments.scope is None:
        parser.error(
            f"{arguments.operation} needs the name of a SCOPE; see `converge journal list`"
        )
    if not names and arguments.scope is not None:
        parser.error(f"unexpected argument {arguments.scope!r}")
    limits = [name for name in ("age", "keep") if getattr(arguments, name) is not None]
    if arguments.operation == "prune" and not limits:
        parser.error("prune needs --age SECONDS or --keep N; with both, both must apply")
    if arguments.operation != "prune" and limits:
        parser.error(f"--{limits[0]} is an option of prune")
    if arguments.operation != "forget" and arguments.failed:
        parser.error("--failed is an option of forget")


def add_db(parser: Parser) -> None:
    """The options of the command ``db``."""
    parser.add_argument(
        "operation",
        metavar="|".join(DB_OPERATIONS),
        choices=DB_OPERATIONS,
        help="upgrade: bring its schema up to date; current: print the schema's revision; check: "
        "tell whether it is up to date; sql: print what upgrade would do; prune: delete what is "
        "old: deleted stacks, and traversals that are over, with their events",
    )
    parser.add_argument(
        "--older-than",
        metavar="SECONDS",
        type=_seconds(),
        help="prune: what ended so long ago",
    )
    parser.add_argument(
        "--keep",
        metavar="N",
        type=_integer(0),
        help="prune: of each live stack, the N newest traversals that are over stay, however old "
        f"(default: {KEEP})",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        default=None,
        help="prune: only count what would be deleted",
    )


def _check_db(arguments: argparse.Namespace, parser: Parser) -> None:
    if arguments.operation == "prune":
        if arguments.older_than is None:
            parser.error(
                "prune needs --older-than SECONDS: say `converge db prune --older-than 2592000` to "
                "delete what ended a month ago; --dry-run only counts it"
            )
        return
    for name in ("older_than", "keep", "dry_run"):
        if getattr(arguments, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is an option of prune")
    if arguments.json:
        parser.error("--json is an option of prune")


def add_machine(parser: Parser) -> None:
    """The options of the command ``machine``."""
    parser.add_argument(
        "operation",
        metavar="|".join(MACHINE_OPERATIONS),
        choices=MACHINE_OPERATIONS,
        help="list: the machines; list MACHINE: its instances; show MACHINE KEY: an instance and "
        "its history; retry MACHINE KEY...: call failed actions again; delete MACHINE KEY...: "
        "delete instances with their history; prune MACHINE: delete those that ended long ago",
    )
    parser.add_argument("machine", metavar="MACHINE", nargs="?", help="the name of a machine")
    parser.add_argument("keys", metavar="KEY", nargs="*", help="the keys of instances")
    parser.add_argument(
        "--state",
        metavar="STATE",
        action="append",
        help="list, prune: only instances in this state; for prune, may be repeated",
    )
    parser.add_argument(
        "--failed",
        action="store_true",
        default=None,
        help="list: only moves whose action has FAILED",
    )
    parser.add_argument(
        "--age", metavar="SECONDS", type=_seconds(), help="prune: those that last moved so long ago"
    )


def _check_machine(arguments: argparse.Namespace, parser: Parser) -> None:
    operation, machine, keys = arguments.operation, arguments.machine, arguments.keys
    options = [name for name in ("state", "failed", "age") if getattr(arguments, name) is not None]
    allowed = {"list": ("state", "failed"), "prune": ("state", "age")}.get(operation, ())
    for name in options:
        if name not in allowed:
            parser.error(f"--{name} is not an option of {operation}")
    if operation == "list":
        if keys:
            parser.error(f"unexpected argument {keys[0]!r}; `converge machine show` shows one")
        if options and machine is None:
            parser.error(f"--{options[0]} needs the name of a MACHINE")
        if len(options) == 2:
            parser.error("--state and --failed cannot be combined")
        if len(arguments.state or ()) > 1:
            parser.error("list takes one --state")
        return
    if operation == "prune":
        if machine is None or len(options) < 2:
            parser.error("prune needs a MACHINE, a final --state STATE, and --age SECONDS")
        if keys:
            parser.error(f"unexpected argument {keys[0]!r}; `converge machine delete` takes keys")
        return
    if machine is None or not keys:
        parser.error(f"{operation} needs a MACHINE and a KEY; see `converge machine list`")
    if operation == "show" and len(keys) > 1:
        parser.error(f"unexpected argument {keys[1]!r}; show takes one KEY")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, without the program's name.

    :returns: its ``command`` and that command's options; ``db`` is None where not given.
    :raises UsageError: it is wrong.
    :raises SystemExit: after ``--help`` and ``--version``.
    """
    parser, commands = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        _refuse(rest, parser, commands[arguments.command])
    arguments.db = getattr(arguments, "db", None)
    arguments.bus = getattr(arguments, "bus", None)
    if arguments.command == "up":
        names = [name for name, _ in arguments.param]
        for name in names:
            if names.count(name) > 1:
                commands["up"].error(f"argument --param: {name!r} is given more than once")
    if arguments.command == "graph":
        _check_graph(arguments, commands["graph"])
    if arguments.command == "journal":
        _check_journal(arguments, commands["journal"])
    if arguments.command == "db":
        _check_db(arguments, commands["db"])
    if arguments.command == "machine":
        _check_machine(arguments, commands["machine"])
    if arguments.command == "why" and arguments.traceback and arguments.resource is None:
        commands["why"].error("--traceback needs a NAME and a RESOURCE")
    if arguments.command == "events" and arguments.follow and arguments.json:
        commands["events"].error("--follow and --json cannot be combined")
    return arguments


def _refuse(rest: Sequence[str], parser: Parser, command: Parser) -> NoReturn:
    option = next((word.partition("=")[0] for word in rest if word.startswith("-")), None)
    if option is None:
        command.error(f"unexpected argument {rest[0]!r}")
    if option in command.options():
        command.error(f"{option} belongs after the command")
    known = {name for name in command.options() + parser.options() if name.startswith("--")}
    command.error(f"unknown option {option!r}{did_you_mean(option, known)}")
