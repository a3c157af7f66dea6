"""Numbers that the pages quote are those of the constants in the source.

:data:`QUOTES` has each sentence that quotes one, with a place for the number. What has a number
with a unit and is not there must be in :data:`OTHERS`: examples, measurements, and what other
programs say.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from converge import Engine, RetryPolicy, Store, model, reasons, stack
from converge.bus import pace, shared, source
from converge.cli import progress
from converge.cli.options import database as db_options
from converge.cli.options import engines as engine_options
from converge.cli.options import shared as options
from converge.engine import engine, loop, outbox, run, window
from converge.group import signing
from converge.inspection import why
from converge.journal import items
from converge.journal import values as journal_values
from converge.lease import lease
from converge.machine import actions, moving
from converge.model import NAME_LENGTH
from converge.pipeline import letters, memory, pruning
from converge.protocol import call, outcomes, prune, recover
from converge.resources import command
from converge.service import metrics, processes
from converge.sql import engines, events, repeat, sessions, templates, types, upgrade_lock
from converge.template import nesting, patterns, values

DOC = Path(__file__).resolve().parents[2] / "doc"
PAGES = (
    "clusters",
    "concepts",
    "embedding",
    "journal",
    "loggers",
    "machine",
    "operating",
    "reference",
    "security",
    "stability",
    "templates",
    "troubleshooting",
    "tutorial",
)

KIB, MIB = 1024, 1024 * 1024
WORDS = {2: "two", 5: "five", 10: "ten", 20: "twenty"}
FRACTIONS = {0.25: "a quarter of a second", 0.5: "half a second", 1.0: "a second", 60.0: "a minute"}


def word(number: float) -> str:
    return WORDS[int(number)]


def n(number: float) -> str:
    """1000.0 as ``1,000``, 0.25 as ``0.25``."""
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


DEATHS = RetryPolicy().deaths
WORKERS = inspect.signature(Engine).parameters["workers"].default
HOST = inspect.signature(Store.transaction).parameters["limit"].default
LEASE, RENEW = lease.LEASE, lease.LEASE * lease.RENEW
#: a crash costs the rest of the lease, and one look
CRASH = lease.LEASE + lease.LEASE / 3
LOSE = f"{lease.LOSE * 100:g}"

#: page, sentence, numbers.
QUOTES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "concepts",
        "get done in {}, at most {}, and {} while other engines are alive",
        (FRACTIONS[window.AHEAD], n(window.WINDOW), n(window.WINDOW_BESIDE)),
    ),
    (
        "concepts",
        "Only quick handlers ({} ms) are waited for, while others come within that time, and {} ms "
        "at most",
        (n(1000 * window.QUICK), n(1000 * window.GATHERED)),
    ),
    ("concepts", "looked at again {} times a second", ({0.25: "four"}[outbox.LOOK],)),
    ("decisions", "claimed ahead for {} of the workers' time", (FRACTIONS[window.AHEAD],)),
    ("decisions", "at most {}. While handlers", (n(window.WINDOW),)),
    ("decisions", "after {} seconds (``lock_timeout``", (word(sessions.LOCK_SECONDS),)),
    ("decisions", "After {} deaths a node is suspect", (word(model.SUSPECT_DEATHS),)),
    ("decisions", "comes to {} deaths", (word(DEATHS),)),
    ("decisions", "transaction after {} seconds", (n(sessions.IDLE_SECONDS),)),
    ("decisions", "A host's own has {}", (n(HOST),)),
    ("embedding", "Its last {} KiB", (n(reasons.TRACEBACK_LENGTH / KIB),)),
    ("embedding", "come back {} seconds later", (word(run.GRACE),)),
    ("embedding", "After {} seconds of it, a warning", (word(loop.STILL),)),
    ("embedding", "their next look, within {} seconds", (word(engine.POLL * pace.PATIENCE),)),
    (
        "bus",
        "every {} second (``poll``) at first, up to every {} seconds",
        ({0.5: "half"}[engine.POLL], word(engine.POLL * pace.PATIENCE)),
    ),
    (
        "bus",
        "the next {} milliseconds later at the soonest, and while there is always something to "
        "tell, {} milliseconds: at most {} per second and process, and in the long run {}",
        (
            *(n(pace.INTERVAL * 1000), n(pace.LONGEST_INTERVAL * 1000)),
            *(n(1 / pace.INTERVAL), n(1 / pace.LONGEST_INTERVAL)),
        ),
    ),
    ("bus", "every {} seconds at the least", (n(shared.MOST_WAIT),)),
    ("bus", "reads its stack every {} of a second", ({0.25: "quarter"}[stack._LOOK],)),
    ("bus", "every {} seconds where it can", (word(stack._LOOK_CONNECTED),)),
    ("embedding", "is idle for {}", (FRACTIONS[HOST],)),
    ("embedding", "its lease ends: {} seconds by default", (n(LEASE),)),
    ("journal", "the lease ({} seconds by default)", (n(LEASE),)),
    ("journal", "rows of {}", ({100: "a hundred"}[items.FULL],)),
    ("machine", "when ``retry.deaths`` processes ({} by default)", (n(DEATHS),)),
    ("machine", "After {} deaths", (word(model.SUSPECT_DEATHS),)),
    ("machine", "again {} later", (FRACTIONS[moving.LATER],)),
    ("machine", "called again after {}", (FRACTIONS[actions.HAND_BACK],)),
    ("operating", "``workers`` + {} connections", (n(engine.CONNECTIONS),)),
    ("operating", "run again, up to {} times", (word(repeat.RETRIES),)),
    ("operating", "one on another host after {} seconds", (n(upgrade_lock.LEASE),)),
    ("troubleshooting", "the database for {} s", (n(upgrade_lock.PATIENCE),)),
    ("troubleshooting", "the lock is free after {} seconds", (n(upgrade_lock.LEASE),)),
    ("operating", "``--grace`` seconds to finish, {} by default", (n(options.GRACE),)),
    ("operating", "have {} more seconds to obey", (word(run.GRACE),)),
    ("operating", "{} and {} fit into the", (n(options.GRACE), n(run.GRACE))),
    ("operating", "a lease of {} seconds, and renews it every {}", (n(LEASE), n(RENEW))),
    ("operating", "the lease ends (at {} % of it)", (LOSE,)),
    (
        "operating",
        "``--lease`` takes {} to {} seconds",
        (n(engine_options.LEASE_MIN), n(engine_options.LEASE_MAX)),
    ),
    (
        "operating",
        "not done within {} seconds: ``... db CREATE started``, and again after {} seconds, {}, "
        "and then",
        (
            word(progress.Reminders._STARTED),
            word(progress.Reminders._FIRST),
            {30.0: "half a minute"}[progress.Reminders._SECOND],
        ),
    ),
    ("operating", "still IN_PROGRESS after {} s``", (n(progress.Reminders._SECOND),)),
    ("operating", "It is read every {} seconds at most", (n(metrics.CACHED),)),
    ("operating", "counted up to {}", (n(metrics.MOST),)),
    (
        "operating",
        "after {} at first and {} at most while it keeps dying",
        ({0.5: "half a second"}[processes.PAUSE_FIRST], {60.0: "a minute"}[processes.PAUSE_MOST]),
    ),
    ("operating", "more time than ``grace`` and {} seconds", (n(run.GRACE),)),
    ("operating", "very third of its lease ({} seconds)", (n(LEASE / 3),)),
    ("operating", "more seldom, up to {} times", ({4.0: "four"}[recover.MOST_SHARE],)),
    ("operating", "up to {} seconds.", (n(CRASH),)),
    ("operating", "After {} deaths", (word(DEATHS),)),
    ("operating", "end within {} seconds", (word(run.GRACE),)),
    ("operating", "``context.cancelled`` for {} seconds", (word(run.GRACE),)),
    ("operating", "it is tried again {} later", (FRACTIONS[outcomes.HAND_BACK],)),
    ("operating", "``store.transaction(limit={})``", (n(HOST),)),
    ("operating", "no engine has taken for {}", (FRACTIONS[why.LONG],)),
    ("operating", "the {} versions that completed last", (word(templates.KEPT_VERSIONS),)),
    ("operating", "events of the last {} traversals", (word(events.KEPT_TRAVERSALS),)),
    ("operating", "the last {} traversals that are over stay", (word(prune.KEEP),)),
    ("operating", "each transaction deletes {} rows", ({1000: "a thousand"}[prune.BATCH],)),
    ("operating", "through all stacks every {}", ({60.0: "minute"}[prune.PAUSE],)),
    ("reference", "over stay, however old; default {}", (n(db_options.KEEP),)),
    ("operating", "one row each, for {}", ({86_400.0: "a day"}[engines.KEPT],)),
    ("operating", "stack, resource or type - {} characters", (n(NAME_LENGTH),)),
    ("operating", "physical id - {} characters", (n(types.PHYSICAL_ID_LENGTH),)),
    ("operating", "one resource - {} Mi characters of JSON", (n(call.VALUE_LENGTH / MIB),)),
    ("operating", "in the middle - {} characters", (n(types.REASON_LENGTH),)),
    ("operating", "the end is kept - {} KiB", (n(reasons.TRACEBACK_LENGTH / KIB),)),
    (
        "operating",
        "template - {} MiB, {} levels",
        (n(values.SIZE_LIMIT / MIB), n(values.DEPTH_LIMIT)),
    ),
    ("operating", "``command`` - {} MiB", (n(command.STDOUT_LIMIT / MIB),)),
    ("operating", "workers of an engine - {}", (n(options.WORKERS_MAX),)),
    (
        "operating",
        "lease of an engine - {} s at least; on the command line {} at most",
        (n(lease.MIN_LEASE), {3600: "1 hour"}[engine_options.LEASE_MAX]),
    ),
    ("operating", "(``Engine(lease=...)``: at least {})", (n(lease.MIN_LEASE),)),
    ("operating", "how many more there are - {}", (n(why.LIMIT),)),
    (
        "reference",
        "at a time, 1 to {}; default {}",
        (n(options.WORKERS_MAX), n(WORKERS)),
    ),
    ("reference", "Ctrl-C or SIGTERM; default {}", (n(options.GRACE),)),
    (
        "reference",
        "a text of at least {} characters; or two, one a line",
        (n(signing.LEAST_SECRET),),
    ),
    (
        "reference",
        "{} to {}; default {}",
        (n(engine_options.LEASE_MIN), n(engine_options.LEASE_MAX), n(LEASE)),
    ),
    ("templates", "Stacks may be nested {} levels deep", (n(values.LEVELS),)),
    (
        "templates",
        "all nested templates of a file have {} MiB at most as JSON",
        (n(nesting.SIZE_LIMIT / MIB),),
    ),
    ("templates", "more than {} places", (n(patterns.STATES),)),
    (
        "templates",
        "at most {} MiB in UTF-8 and nested {} deep",
        (n(values.SIZE_LIMIT / MIB), n(values.DEPTH_LIMIT)),
    ),
    ("reference", "``list --json`` say: at most {} characters", (n(NAME_LENGTH),)),
    ("keeping", "a name of at most {} characters, shown as it is", (n(NAME_LENGTH),)),
    ("templates", "have 1 to {} printable characters", (n(NAME_LENGTH),)),
    ("troubleshooting", "For {} % of the lease", (LOSE,)),
    ("notifications", "each is held for ``grace`` seconds ({})", (n(memory.GRACE),)),
    ("notifications", "the first {} bytes are kept", (n(letters.KEPT),)),
    ("notifications", "a line of a file that is longer than {} MiB", (n(source.LARGEST / MIB),)),
    ("notifications", "Each transaction deletes {} rows at most", (n(pruning.BATCH),)),
    ("coordination", "The default of {} seconds covers", (n(memory.GRACE),)),
    ("from_ceilometer", "A rate comes ``grace`` seconds ({}) later", (n(memory.GRACE),)),
)

#: What has a number with a unit and quotes no constant.
OTHERS = (
    # how numbers are stored
    "random number of 63 bits",
    "whole number of at most 64 bits",
    "Numbers have at most 64 bits",
    "Of each key 16 bytes are kept",
    # other programs
    "the 30 seconds after which Kubernetes",
    "about five seconds. After that, an engine waits",
    # measured
    "An idle process took 57 MB",
    # examples
    "cancels them after 10 seconds",
    "Programs of two versions",
    "(for 2 h 5 min, attempt 1)",
    "lease ended 3 min ago",
    "will be retried in 40 s",
    "create took longer than 30 s",
    "54 s for 1,000 predecessors",
)
#: Sections of measurements.
MEASURED = {"journal": "What it costs"}

UNITS = (
    r"(?:seconds?|s|ms|minutes?|min|hours?|days?|KiB|MiB|Mi|bytes|bits|characters|levels|deep|times"
    r"|attempts|deaths|connections|versions|traversals|places)\b"
)
NUMBERS = (
    r"(?:\d[\d,.]*|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty|hundred|thousand)"
)
WITH_UNIT = re.compile(rf"\b{NUMBERS}(?: more| printable)? {UNITS}|\d+ %")


def prose(page: str) -> str:
    """A page on one line, without literal blocks and measurements."""
    lines: list[str] = []
    block: int | None = None
    for line in (DOC / f"{page}.rst").read_text(encoding="utf-8").split("\n"):
        indent = len(line) - len(line.lstrip())
        if block is not None and (not line.strip() or indent > block):
            continue
        block = indent if re.search(r"::( \w+)?$", line) and "list-table" not in line else None
        if block is None:
            lines.append(line)
    text = " ".join(" ".join(lines).split())
    if page in MEASURED:
        text = re.sub(rf"{MEASURED[page]} \*+ .*?(?=\w+ \*\*\*)", "", text)
    return text


@pytest.mark.parametrize(("page", "sentence", "numbers"), QUOTES)
def test_a_quoted_number_is_the_constant(
    page: str, sentence: str, numbers: tuple[str, ...]
) -> None:
    assert sentence.format(*numbers) in prose(page)


@pytest.mark.parametrize("page", PAGES)
def test_every_number_with_a_unit_is_accounted_for(page: str) -> None:
    text = prose(page)
    known = [sentence.format(*numbers) for where, sentence, numbers in QUOTES if where == page]
    places = [
        (found.start(), found.end())
        for phrase in [*known, *OTHERS]
        for found in re.finditer(re.escape(phrase), text)
    ]
    for match in WITH_UNIT.finditer(text):
        assert any(start <= match.start() < end for start, end in places), (
            f"{page}: what is {text[max(0, match.start() - 30) : match.end() + 30]!r}?"
        )


def test_the_values_of_a_journal_are_as_long_as_those_of_a_resource() -> None:
    assert journal_values.LENGTH == call.VALUE_LENGTH
