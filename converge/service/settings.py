"""What can be set, with its default. A value comes from the command line, else from a configuration
file, else from the environment, else it is the default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: The group of what every service has, and those of engines and agents.
SHARED = "converge"
ENGINE = "engine"
AGENT = "agent"


#: The kinds that are several values.
LISTS = (list, tuple)


@dataclass(frozen=True, slots=True)
class Setting:
    """Something that can be set.

    :ivar name: in a file, and, with dashes, on the command line.
    :ivar group: its section of the file.
    :ivar kind: ``str``, ``int``, ``float``, ``list`` of texts that have no commas, or ``tuple`` of
        texts: in a file, one a line, each with the name before it.
    :ivar help: a sentence, with the unit.
    :ivar default: None: decided where it is used, perhaps from the environment.
    :ivar least: the least value.
    :ivar most: the largest value.
    :ivar choices: the values that it can have; empty: any.
    :ivar secret: whether it is shown nowhere.
    :ivar sample: a value for the sample file.
    """

    name: str
    group: str
    kind: type
    help: str
    default: Any = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False
    sample: str | None = None


SETTINGS_SHARED = (
    Setting(
        "db",
        SHARED,
        str,
        "The URL of the database. Without it, CONVERGE_DB of the environment, else "
        "sqlite:///converge.db in the current folder. Write $ as $$.",
        secret=True,
        sample="postgresql+psycopg://USER:PASSWORD@HOST/DATABASE",
    ),
    Setting(
        "bus",
        SHARED,
        str,
        "The URL of what wakes other processes. Without it, CONVERGE_BUS of the environment, else "
        "the database. Write $ as $$.",
        secret=True,
        sample="rabbit://USER:PASSWORD@HOST:5672/",
    ),
    Setting("processes", SHARED, int, "How many processes run.", default=1, least=1, most=256),
    Setting(
        "listen",
        SHARED,
        str,
        "HOST:PORT for /healthz, /readyz and /metrics; :PORT is every address of the machine. "
        "Without it, nothing listens.",
        sample="127.0.0.1:9464",
    ),
    Setting(
        "log_format",
        SHARED,
        str,
        "The format of logs. Everything else about logs is set by the options of oslo.log.",
        default="text",
        choices=("text", "json"),
    ),
)
SETTINGS_ENGINE = (
    Setting(
        "workers",
        ENGINE,
        int,
        "How many handlers run at a time, in each process.",
        default=8,
        least=1,
        most=1000,
    ),
    Setting(
        "async_workers",
        ENGINE,
        int,
        "How many handlers that are async def run at a time, in each process, beside these.",
        default=1000,
        least=1,
        most=100_000,
    ),
    Setting(
        "grace",
        ENGINE,
        float,
        "Seconds that running handlers have to finish after SIGTERM.",
        default=20.0,
        least=0,
        most=315_360_000,
    ),
    Setting(
        "lease",
        ENGINE,
        float,
        "Seconds without a heartbeat after which other engines take over the work.",
        default=15.0,
        least=1,
        most=3600,
    ),
    Setting(
        "prune_after",
        ENGINE,
        float,
        "Seconds after which what has ended is pruned, from time to time. Without it: never.",
        least=1,
        most=315_360_000,
        sample="2592000",
    ),
    Setting(
        "queue",
        ENGINE,
        list,
        "Names of the queues that it serves, separated by commas. Without it, default, which is "
        "the queue of all that names none.",
    ),
    Setting(
        "pass_env",
        ENGINE,
        list,
        "Variables of the environment that command resources see, besides PATH, HOME, LANG and "
        "TMPDIR, separated by commas. Without it, those that CONVERGE_PASS_ENV names.",
    ),
    Setting(
        "file_root",
        ENGINE,
        list,
        "Folders in or below which file resources may be, separated by commas. Without it, those "
        "that CONVERGE_FILE_ROOT names, else anywhere.",
    ),
)
SETTINGS_AGENT = (
    Setting(
        "pipeline",
        AGENT,
        tuple,
        "A pipeline file, YAML or JSON. May be repeated.",
        sample="/etc/converge/pipeline.yaml",
    ),
    Setting(
        "event_definitions",
        AGENT,
        str,
        "A file of event definitions in Ceilometer's format. Without it, those that the pipeline "
        "names.",
        sample="/etc/converge/event_definitions.yaml",
    ),
    Setting(
        "meters",
        AGENT,
        str,
        "A file of meter definitions in Ceilometer's format. Without it, those that the pipeline "
        "names.",
        sample="/etc/converge/meters.yaml",
    ),
    Setting(
        "source",
        AGENT,
        tuple,
        "The URL of a bus that notifications come from. Without it, CONVERGE_BUS of the "
        "environment. May be repeated. Write $ as $$.",
        secret=True,
        sample="rabbit://USER:PASSWORD@HOST:5672/",
    ),
    Setting(
        "topic",
        AGENT,
        list,
        "Topics, each TOPIC or EXCHANGE/TOPIC, separated by commas. Without it, "
        "openstack/notifications.",
    ),
    Setting("priority", AGENT, list, "Priorities, separated by commas. Without it, info."),
    Setting(
        "batch_size",
        AGENT,
        int,
        "The most notifications of a batch.",
        default=100,
        least=1,
        most=10_000,
    ),
    Setting(
        "batch_timeout",
        AGENT,
        float,
        "Seconds that a notification waits for others, at most.",
        default=1.0,
        least=0.001,
        most=315_360_000,
    ),
    Setting(
        "prefetch",
        AGENT,
        int,
        "The most notifications of a queue in memory. Without it, twice the batch.",
        least=1,
        most=65_535,
        sample="200",
    ),
    Setting(
        "keep_events",
        AGENT,
        float,
        "Seconds that events and samples are kept; a notification that was sent before that is not "
        "taken either. Without it, all are kept.",
        least=1,
        most=315_360_000,
        sample="2592000",
    ),
    Setting(
        "group",
        AGENT,
        str,
        "The name of a group whose agents share the work. Without it, there is none.",
        sample="agents",
    ),
    Setting(
        "secret_file",
        AGENT,
        str,
        "A file with the secret of the group: a text of at least 16 characters; or two, one a "
        "line, while it is exchanged. Without it, CONVERGE_GROUP_SECRET of the environment.",
        sample="/etc/converge/group.secret",
    ),
    Setting(
        "partitions",
        AGENT,
        int,
        "The number of partitions of the group. Without it, as many as it has; 16 if this agent is "
        "the first.",
        least=1,
        most=1024,
        sample="16",
    ),
    Setting(
        "key",
        AGENT,
        str,
        "The trait of events, or field of samples, whose value decides the partition. Without it, "
        "as the group has it; resource_id if this agent is the first.",
        sample="resource_id",
    ),
    Setting(
        "most_open",
        AGENT,
        int,
        "Nothing is received while more deliveries are open in the partitions of the group.",
        default=10_000,
        least=1,
        most=10_000_000,
    ),
)
SETTINGS = (*SETTINGS_SHARED, *SETTINGS_ENGINE, *SETTINGS_AGENT)


def fill_in(arguments: Any, given: Mapping[str, Any], settings: Iterable[Setting]) -> None:
    """Fill in what the command line did not say.

    :param arguments: an object with what the command line said, None or [] where nothing.
    :param given: the values of configuration files.
    """
    arguments.from_files = []
    for setting in settings:
        # a number may be 0
        if getattr(arguments, setting.name, None) in (None, "", []):
            if setting.name in given:
                arguments.from_files.append(setting.name)
            value = given.get(setting.name, setting.default)
            setattr(
                arguments, setting.name, [] if value is None and setting.kind in LISTS else value
            )
