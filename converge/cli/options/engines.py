"""The options of the commands about engines."""

from __future__ import annotations

from converge.cli.options.commands import Commands
from converge.cli.options.shared import BUS, JSON, SERVICE, WIDE, WORKERS_OF_SERVICE
from converge.cli.options.values import queue, seconds

#: Seconds. A shorter lease would be lost whenever a machine is busy; with a longer one, others wait
#: more than an hour after a death.
LEASE_MIN, LEASE_MAX = 1, 3600


def add(commands: Commands) -> None:
    """Add them."""
    engine = commands.add(
        "engine", "Run an engine: do the work of all stacks", WORKERS_OF_SERVICE, SERVICE
    )
    engine.add_argument("--until-idle", action="store_true", help="stop when there is no more work")
    engine.add_argument(
        "--lease",
        metavar="S",
        type=seconds(LEASE_MIN, LEASE_MAX),
        help="seconds without a heartbeat after which other engines take over its work "
        f"(default: 15; {LEASE_MIN} to {LEASE_MAX})",
    )
    engine.add_argument(
        "--queue",
        metavar="NAME",
        type=queue,
        action="append",
        help="serve this queue instead of default, which is the queue of all that names none; may "
        "be repeated",
    )
    engine.add_argument(
        "--prune-after",
        metavar="S",
        type=seconds(above=True),
        help="prune what ended this many seconds ago, from time to time, as `converge db prune` "
        "does (default: never)",
    )
    engines = commands.add("engines", "List the engines, and what each holds", WIDE, JSON)
    engines.add_argument(
        "--all",
        action="store_true",
        help="also those that stopped or died within the last day",
    )
    commands.add("recover", "Recover the work of dead engines, as every engine does", BUS, JSON)
