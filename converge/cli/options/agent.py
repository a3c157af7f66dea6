"""The options of ``converge agent``."""

from __future__ import annotations

from converge.cli.options.commands import Commands
from converge.cli.options.notifications import PIPELINE_FILES
from converge.cli.options.shared import JSON, SERVICE
from converge.cli.options.values import integer, seconds

#: The same as in converge.agent.gathering, which is not imported for ``--help``.
BATCH_MAX = 10_000


def add(commands: Commands) -> None:
    """Add it."""
    parser = commands.add(
        "agent",
        "Run an agent: take notifications of a bus through a pipeline",
        PIPELINE_FILES,
        SERVICE,
        JSON,
    )
    parser.add_argument(
        "--pipeline",
        metavar="FILE",
        action="append",
        help="a pipeline file, YAML or JSON; may be repeated",
    )
    parser.add_argument(
        "--bus",
        dest="source",
        metavar="URL",
        action="append",
        help="where notifications come from: rabbit://USER:PASSWORD@HOST:5672/; file:PATH with one "
        "a line, at the end of which it stops; or fake://, in tests; may be repeated (default: "
        "CONVERGE_BUS)",
    )
    parser.add_argument(
        "--topic",
        metavar="TOPIC",
        action="append",
        help="a topic, or EXCHANGE/TOPIC; may be repeated (default: openstack/notifications)",
    )
    parser.add_argument(
        "--priority",
        metavar="PRIORITY",
        action="append",
        help="a priority; may be repeated (default: info)",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=integer(1, BATCH_MAX),
        help=f"the most notifications of a batch, 1 to {BATCH_MAX} (default: 100)",
    )
    parser.add_argument(
        "--batch-timeout",
        metavar="S",
        type=seconds(0.001),
        help="seconds that a notification waits for others, at most (default: 1)",
    )
    parser.add_argument(
        "--prefetch",
        metavar="N",
        type=integer(1, 65_535),
        help="the most notifications of a queue in memory (default: twice the batch)",
    )
    parser.add_argument(
        "--keep-events",
        metavar="SECONDS",
        type=seconds(1),
        help="from time to time, delete events and samples that are older, and refuse "
        "notifications that were sent before that (default: keep all)",
    )
    parser.add_argument(
        "--group",
        metavar="NAME",
        help="share the work with the other agents of a group: what has the same key is done by "
        "one of them at a time",
    )
    parser.add_argument(
        "--secret-file",
        metavar="FILE",
        help="the secret of the group: a text of at least 16 characters; or two, one a line, while "
        "it is exchanged (default: CONVERGE_GROUP_SECRET)",
    )
    parser.add_argument(
        "--most-open",
        metavar="N",
        type=integer(1, 10_000_000),
        help="receive nothing while more deliveries than this are open in the partitions of the "
        "group (default: 10,000)",
    )
    parser.add_argument(
        "--partitions",
        metavar="N",
        type=integer(1, 1024),
        help="the number of partitions of the group (default: as many as it has; 16 if this agent "
        "is the first)",
    )
    parser.add_argument(
        "--key",
        metavar="FIELD",
        help="the trait of events, or field of samples, whose value decides the partition "
        "(default: as the group has it; resource_id if this agent is the first)",
    )
